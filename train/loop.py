"""fit(): epochs of training and evaluation; keeps the best epoch's weights and scores."""

import dataclasses
import json
import math
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.loader import TileLoader
from preprocess.console import Progress, UserError, say
from preprocess.schema import write_atomic
from preprocess.splits import PARTS
from train import runfolder
from train.assemble import Data, make_eval_loader, make_model, make_train_loader
from train.config import Config
from train.device import Device, amp_name, prepare_torch
from train.metrics import class_ap, loss_function, mean_ap, probabilities
from train.predict import predict
from train.step import Trainer, make_trainer, train_step


@dataclass(frozen=True, kw_only=True)
class Score:
    """One part after one epoch: mean loss, AP a class (NaN: no positives), and the logits they come from."""

    loss: float
    ap: np.ndarray
    logits: np.ndarray

    @property
    def mean_ap(self) -> float:
        """Mean over the classes that have an AP."""
        return mean_ap(self.ap)


@dataclass(kw_only=True)
class History:
    """What has been so far; `best` is the index of the epoch that is kept."""

    best: int = -1
    best_value: float = -math.inf
    lines: list[dict[str, Any]] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    test_loss: list[float] = field(default_factory=list)
    test_ap: list[np.ndarray] = field(default_factory=list)
    best_logits: np.ndarray | None = None
    model_sha256: str = ""


def fit(config: Config, data: Data, device: Device, wanted_run: str | None) -> Path:
    """Train, and leave a run folder.

    Returns:
        The run's folder.

    Raises:
        UserError: what the user can put right; a folder that holds nothing yet is not left behind.
    """
    prepare_torch(config, device)
    model = make_model(config, data, pretrained=True).to(device.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    train = make_train_loader(config, data, device)
    parts = ["test"] if not len(data.split.val) else ["val", "test"]
    loaders = {part: make_eval_loader(config, data, device, part) for part in parts}
    trainer = make_trainer(model, config, device, len(train))
    run = runfolder.new_run_folder(wanted_run, config.task)
    record = describe(config, data, device)
    runfolder.write_json(run / "run.json", record)
    _introduce(config, data, device, model, run)
    if config.shuffle_labels:
        say(f"{run}: SHUFFLE_LABELS=1: the labels are shuffled, the scores mean nothing but chance.")
    history = History()
    try:
        for epoch in range(config.epochs):
            line = _train_epoch(trainer, train, data, config, epoch)
            scores = {part: _evaluate(model, loaders[part], data, device, config, part) for part in parts}
            _keep(history, line, scores, run, model, data, record)
            say(_epoch_line(config, history, line))
            if not trainer.step_every_batch:
                trainer.schedule.step()
    except BaseException:
        _leave(run, record, history)
        raise
    record["state"] = "done"
    record["best_epoch"] = history.best + 1
    record["model_sha256"] = history.model_sha256
    runfolder.write_json(run / "run.json", record)
    for loader in (train, *loaders.values()):
        loader.close()
    return run


def _leave(run: Path, record: dict[str, Any], history: History) -> None:
    """Tidy up after an interruption: a run with a finished epoch is kept, an empty folder is not."""
    if history.best < 0:
        shutil.rmtree(run)
        return
    runfolder.write_json(run / "run.json", {**record, "state": "stopped", "best_epoch": history.best + 1})
    say(f"{run}: stopped; it keeps epoch {history.best + 1}, the best of {len(history.lines)}. Training cannot go on.")


def describe(config: Config, data: Data, device: Device) -> dict[str, Any]:
    """run.json of a run that begins."""
    chosen_on = "val" if len(data.split.val) else "test"
    return {
        "state": "training",
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "config": dataclasses.asdict(config),
        "commit": runfolder.commit(),
        "versions": runfolder.versions(),
        "machine": runfolder.machine(device.name),
        "amp": amp_name(device.amp),
        "store": {"path": config.store, "fingerprint": data.store.fingerprint, "chips": data.store.num_tiles},
        "split": {
            "rule": data.split.rule,
            "sha256": data.split.sha256(),
            **{part: len(data.split.part(part)) for part in PARTS},
            "epoch_chosen_on": chosen_on,
            "note": "A random split of neighbouring chips leaks from train to test; split by scene to avoid it.",
        },
        "inputs": {**dataclasses.asdict(data.inputs), "branches": [list(spec.bands) for spec in data.branches]},
        "classes": list(data.store.classes),
    }


def _introduce(config: Config, data: Data, device: Device, model: nn.Module, run: Path) -> None:
    split = data.split
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    groups = " | ".join(",".join(spec.bands) for spec in data.branches)
    what = f"task {config.task}, {config.arch} on {groups}, {learning:,} parameters learn"
    say(f"{run}: {what}, on {device.name}, AMP {amp_name(device.amp)}")
    counts = ", ".join(f"{len(split.part(part))} {part}" for part in PARTS if len(split.part(part)))
    chosen = "val" if len(split.val) else "test (which flatters; VAL=0.1 carves a part out of train for it)"
    say(f"{run}: split {split.rule}: {counts} chips; the best epoch is chosen on {chosen}")


def _train_epoch(trainer: Trainer, loader: TileLoader, data: Data, config: Config, epoch: int) -> dict[str, Any]:
    trainer.model.train()
    lr = trainer.optimizer.param_groups[0]["lr"]
    losses: list[torch.Tensor] = []
    logits: list[torch.Tensor] = []
    tiles: list[np.ndarray] = []
    wait_s, started = 0.0, time.perf_counter()
    label = f"epoch {epoch + 1}/{config.epochs}"
    batches = loader.epoch(epoch)
    with Progress(label, total=len(loader) * config.batch, unit="chips") as progress:
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            wait_s += time.perf_counter() - asked
            if batch is None:
                break
            loss, scores = train_step(trainer, batch.images_nchw, batch.labels)
            losses.append(loss)
            logits.append(scores)
            tiles.append(batch.tiles)
            elapsed = time.perf_counter() - started
            progress.update(len(batch.tiles), f"{100 * wait_s / elapsed:.0f} % waiting for data")
    mean_loss = float(torch.stack(losses).double().mean())  # the epoch's one wait for the device
    elapsed = time.perf_counter() - started
    if not math.isfinite(mean_loss):
        raise UserError(f"epoch {epoch + 1}: the loss is {mean_loss}. Train again with a smaller LR (now {config.lr}).")
    seen = np.concatenate(tiles)
    ap = class_ap(data.store.labels[seen], torch.cat(logits).cpu().numpy())
    return {
        "epoch": epoch + 1,
        "lr": lr,
        "train_loss": mean_loss,
        # Of the scores made while learning, on augmented chips: nearly free, and a little behind the weights.
        "train_map": mean_ap(ap),
        "train_ap": _named(ap, data),
        "chips_per_s": len(seen) / elapsed,
        "wait_share": wait_s / elapsed,
        "train_s": elapsed,
    }


def _evaluate(model: nn.Module, loader: TileLoader, data: Data, device: Device, config: Config, part: str) -> Score:
    tiles = data.split.part(part)
    logits = predict(model, loader, device, label=part, num_tiles=len(tiles))
    labels = data.store.labels[tiles]
    loss = loss_function(config.loss, torch.from_numpy(logits), torch.from_numpy(labels.astype(np.float32)))
    return Score(loss=float(loss), ap=class_ap(labels, logits), logits=logits)


def _keep(
    history: History, line: dict[str, Any], scores: dict[str, Score], run: Path, model: nn.Module, data: Data,
    record: dict[str, Any],
) -> None:  # fmt: skip
    """Extend the history and write it; the weights and scores too if this epoch is the best so far."""
    for part, score in scores.items():
        line |= {f"{part}_loss": score.loss, f"{part}_map": score.mean_ap, f"{part}_ap": _named(score.ap, data)}
    history.lines.append(line)
    history.train_loss.append(line["train_loss"])
    history.test_loss.append(scores["test"].loss)
    history.test_ap.append(scores["test"].ap)
    value = next(iter(scores.values())).mean_ap  # val's where there is a val part
    if history.best < 0 or value > history.best_value:
        history.best, history.best_value = len(history.lines) - 1, value
        history.best_logits = scores["test"].logits
        history.model_sha256 = runfolder.save_model(run, model)
    runfolder.write_results(run, _results(history, data, record))
    text = "".join(json.dumps(_finite(entry)) + "\n" for entry in history.lines)
    write_atomic(run / "metrics.jsonl", text.encode())


def _results(history: History, data: Data, record: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of results.npz. `epoch` counts from 1; AP is NaN where a class has no positive."""
    assert history.best_logits is not None
    test = data.split.test
    ap = history.test_ap[history.best]
    depends_on = {key: record[key] for key in ("config", "versions", "machine", "amp", "store", "split", "commit")}
    return {
        "epoch": np.array(history.best + 1),
        "AP": ap,
        "mAP": np.array(mean_ap(ap)),
        "labels": data.store.labels[test],
        "preds": probabilities(history.best_logits),
        "fnames": data.store.names[test],
        "trainlosses": np.array(history.train_loss),
        "testlosses": np.array(history.test_loss),
        "testperfs": np.stack(history.test_ap),
        "logits": history.best_logits,
        "classes": np.array(data.store.classes),
        "depends_on": np.array(json.dumps({**depends_on, "model_sha256": history.model_sha256})),
    }


def _named(ap: np.ndarray, data: Data) -> dict[str, float]:
    return dict(zip(data.store.classes, ap.tolist(), strict=True))


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """NaN (a class without positives) as null: JSON has no NaN."""
    return {
        key: _finite(value)
        if isinstance(value, dict)
        else (None if isinstance(value, float) and math.isnan(value) else value)
        for key, value in values.items()
    }


def _epoch_line(config: Config, history: History, line: dict[str, Any]) -> str:
    parts = [f"epoch {line['epoch']}/{config.epochs}"]
    for part in PARTS:
        if f"{part}_loss" in line:
            parts.append(f"{part} loss {line[f'{part}_loss']:.4f} mAP {line[f'{part}_map']:.4f}")
    parts.append(f"{line['chips_per_s']:.0f} chips/s, {100 * line['wait_share']:.1f} % waiting for data")
    best = "best so far" if history.best + 1 == line["epoch"] else f"best was {history.best + 1}"
    return " | ".join([*parts, best])
