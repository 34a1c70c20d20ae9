"""What a run says of itself: run.json, results.npz, and the lines on the terminal when it begins and after an epoch.

Leaves how those files are written and checked to `contract`.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from preprocess.console import UserError, say
from preprocess.splits import SPLIT_NAMES
from preprocess.zarr_store import write_atomic
from train import run_folder, tune
from train.checkpoint import best_weights
from train.config import Config
from train.contract.metrics import write_metrics
from train.contract.record import Record, new_record
from train.contract.results import write_results
from train.device import Device, amp_name
from train.metrics import mean_ap, probabilities
from train.run_state import State
from train.sanity_checks import data_alarms
from train.setup import Data, crop_of, pools


def describe(config: Config, data: Data, device: Device, processes: int) -> Record:
    """run.json of a run that begins."""
    values = {
        "state": "training",
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "config": config.model_dump(),
        **surroundings(device, processes),
        "amp": amp_name(device.amp),
        "store": {"path": config.store, "fingerprint": data.store.fingerprint, "chips": data.store.num_chips},
        "split": {
            "rule": data.split.rule,
            "sha256": data.split.sha256(),
            **{part: len(data.split.indices(part)) for part in SPLIT_NAMES},
            "epoch_chosen_on": chosen_on(data),
            "note": "A random split of neighbouring chips leaks from train to test; split by scene to avoid it.",
        },
        "inputs": fed(config, data),
        "classes": list(data.store.classes),
    }
    return new_record(values)


def fed(config: Config, data: Data) -> dict[str, Any]:
    """What the network is fed, as run.json keeps it."""
    chip = {name: getattr(data.store.layout, name) for name in ("height", "width", "dtype")}
    return {
        "kind": data.inputs.kind,
        "bands": list(data.inputs.bands),
        "mean": list(data.inputs.mean),
        "std": list(data.inputs.std),
        "branches": [list(spec.bands) for spec in data.branches],
        "crop": list(crop_of(config, data)),
        "chip": chip | {"bands": list(data.store.layout.bands)},
        "pool": pools(config, data),
    }


def upgraded(record: Record, config: Config, data: Data) -> Record:
    """A run of version 1 that is resumed, as version 2: with an identity, once `check_fed` has proved it."""
    return new_record(record.values | {"inputs": fed(config, data)})


def check_fed(record: Record, config: Config, data: Data, where: str) -> None:
    """UserError if the store, the split or what the network is fed from them is not what run.json says.

    Mean and std are computed again from the store: a run of version 1 has no other proof of them.
    """
    now = fed(config, data)
    rows: list[tuple[str, object, object]] = [
        ("fingerprint of the store", record.store.fingerprint[:12], data.store.fingerprint[:12]),
        ("split", record.split.sha256[:12], data.split.sha256()[:12]),
        ("classes", record.values["classes"], list(data.store.classes)),
    ]
    for what, old, new in rows:
        if old != new:
            raise UserError(f"{where}: expected {what} {old}, found {new}. Is STORE the run's own?")
    for name, kept in record.values["inputs"].items():
        again = now[name]
        if name == "chip" and kept is not None:
            again = {key: again[key] for key in kept}  # version 1 keeps no bands
        if kept != again:
            raise UserError(
                f"{where}: run.json says inputs.{name} {kept}, the store gives {again}. One of them was altered."
            )


def surroundings(device: Device, processes: int) -> dict[str, Any]:
    """What a run was computed with; new for a run that goes on elsewhere."""
    return {
        "commit": run_folder.commit(),
        "versions": run_folder.versions(),
        "machine": {**run_folder.machine(device.name), "processes": processes},
    }


def chosen_on(data: Data) -> str:
    """The part on which the best epoch is chosen."""
    return "val" if len(data.split.val) else "test"


def introduce(config: Config, data: Data, device: Device, net: nn.Module, run: Path) -> None:
    """What is trained where, on which split, and what looks wrong with it. At most 80 columns where it can be."""
    split = data.split
    learning = sum(p.numel() for p in net.parameters() if p.requires_grad)
    groups = " | ".join(",".join(spec.bands) for spec in data.branches)
    say(f"{run}: task {config.task}, {config.arch} on {groups}")
    say(f"  {learning:,} parameters learn, on {device.name}, AMP {amp_name(device.amp)}")
    counts = ", ".join(f"{len(split.indices(part))} {part}" for part in SPLIT_NAMES if len(split.indices(part)))
    say(f"  split {split.rule}: {counts} chips; epoch chosen on {chosen_on(data)}")
    if not len(split.val):
        say("  (which flatters; VAL=0.1 carves a part out of train for it)")
    for alarm in data_alarms(data.store, split):
        say(f"  {alarm}")
    if not config.workers and (found := tune.lookup(data.store, str(device.device))):
        say(f"  WORKERS={found.workers}, as `make tune` found on this machine ({tune.PATH})")
    if config.shuffle_labels:
        say("  SHUFFLE_LABELS=1: the labels are shuffled, the scores mean nothing but chance.")


def publish(run: Path, state: State, data: Data, record: Record, *, weights: bool) -> None:
    """Write results.npz and metrics.jsonl as the state has them; with `weights`, model.safetensors too.

    A kill between the two leaves one an epoch ahead of the other: `contract` reads that, and a resume mends it.
    """
    if state.best < 0:
        return
    if weights:
        write_atomic(run / "model.safetensors", best_weights(run, state))
    write_results(run, record, _results(state, data), state.lines, state.best_sha256)
    write_metrics(run, record, state.lines)


def _results(state: State, data: Data) -> dict[str, np.ndarray]:
    """The arrays of results.npz. `epoch` counts from 1; AP is NaN where a class has no positive."""
    assert state.best_logits is not None
    test = data.split.test
    test_ap = np.array([[line["test_ap"][name] for name in data.store.classes] for line in state.lines])
    return {
        "epoch": np.array(state.best + 1),
        "AP": test_ap[state.best],
        "mAP": np.array(mean_ap(test_ap[state.best])),
        "labels": data.store.labels[test],
        "preds": probabilities(state.best_logits),
        "fnames": data.store.names[test],
        "trainlosses": np.array([line["train_loss"] for line in state.lines]),
        "testlosses": np.array([line["test_loss"] for line in state.lines]),
        "testperfs": test_ap,
        "logits": state.best_logits,
        "classes": np.array(data.store.classes),
    }


def epoch_lines(config: Config, state: State) -> list[str]:
    """The line after an epoch; a second one for the test split where val chooses, to stay within 80 columns."""
    line = state.lines[-1]
    shown = {part: f"{part} loss {line[f'{part}_loss']:.4f} mAP {line[f'{part}_map']:.4f}" for part in SPLIT_NAMES
             if f"{part}_loss" in line}  # fmt: skip
    best = "best" if state.best + 1 == line["epoch"] else f"best: {state.best + 1}"
    head = [f"epoch {line['epoch']}/{config.epochs}", shown["train"]]
    if "val" in shown:
        return [" | ".join([*head, shown["val"], best]), f"  {shown['test']}"]
    return [" | ".join([*head, shown["test"], best])]
