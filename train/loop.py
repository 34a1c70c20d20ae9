"""fit(): epochs of training and evaluation, from the beginning or from a checkpoint; one process or one of several."""

import shlex
import time
from collections.abc import Generator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from pipeline.loader import Batch, ChipLoader
from preprocess.console import Progress, UserError, say
from train import run_folder
from train.checkpoint import (
    Checkpoint,
    check_same_run,
    last_good,
    load_checkpoint,
    mend_best,
    remove_checkpoints,
    restore,
    save_best,
    save_checkpoint,
    sweep,
)  # fmt: skip
from train.config import Config
from train.contract.record import Record, read_record, write_record
from train.device import Device, prepare_torch
from train.distributed import World
from train.initial_weights import model_metadata
from train.losses import loss_function, positive_weights
from train.memory import estimate_bytes
from train.metrics import class_ap, mean_ap
from train.nan_checks import NotFiniteError, check_losses, check_scores, check_weights
from train.predict import predict
from train.record import chosen_on, describe, epoch_lines, introduce, publish, surroundings, upgraded
from train.run_state import Score, State
from train.sanity_checks import chance_alarm
from train.setup import Data, check_graphs, crop_of, make_eval_loader, make_model, make_train_loader, pools
from train.signals import Stopped, StopSignals
from train.step import Trainer, make_trainer, train_step
from train.sync_batchnorm import share_statistics
from train.telemetry import GpuUse, LossMeter, Tracker, advice, open_trackers, scalars, time_line


@dataclass(kw_only=True)
class Fit:
    """A run under way. `saved` is the place, (epoch, step), of the newest checkpoint; rank 0 alone has a `record`."""

    config: Config
    data: Data
    device: Device
    world: World
    trainer: Trainer
    train: ChipLoader
    scored_on: dict[str, ChipLoader]
    stop: StopSignals
    run: Path = field(default_factory=Path)
    record: Record | None = None
    state: State = field(default_factory=State)
    trackers: list[Tracker] = field(default_factory=list)
    saved: tuple[int, int] | None = None
    saved_at_s: float = field(default_factory=time.monotonic)

    @property
    def steps(self) -> int:
        """Updates an epoch."""
        return len(self.train) // self.config.accumulate


def fit(config: Config, data: Data, device: Device, world: World, wanted_run: str | None, resume: Path | None) -> Path:
    """Train, and leave a run folder.

    Args:
        config, data, device, world: what, on which chips, where, with whom.
        wanted_run: folder of a new run; None: the next free one.
        resume: folder of a run that goes on, instead.

    Returns:
        The run's folder.

    Raises:
        UserError: what the user can put right; a folder that holds nothing yet is not left behind.
        Stopped: a signal asked for it, and a checkpoint is written.
    """
    with ExitStack() as locks:
        return _fit(config, data, device, world, wanted_run, resume, locks)


def _fit(
    config: Config, data: Data, device: Device, world: World, wanted_run: str | None, resume: Path | None,
    locks: ExitStack,
) -> Path:  # fmt: skip
    prepare_torch(config, device)
    if resume and world.main:
        locks.enter_context(run_folder.held(resume))
        sweep(resume)
    record = read_record(resume) if resume else None
    checkpoint = load_checkpoint(resume, config, record) if resume and record else None
    world.barrier()  # all have read: from here on, rank 0 may write these files
    model = make_model(config, data, pretrained=checkpoint is None)
    if world.size > 1:
        model = share_statistics(model, device.kind)
    net = model.to(device.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    train = make_train_loader(config, data, device, world)
    parts = ["test"] if not len(data.split.val) else ["val", "test"]
    scored_on = {part: make_eval_loader(config, data, device, part, world) for part in parts}
    check_graphs(config, device, (train, *scored_on.values()))
    weight = positive_weights(data.store.labels[data.split.train], config.balance)
    steps = len(train) // config.accumulate
    trainer = make_trainer(net, config, device, steps, positive_weight=weight, ranks=world.size)
    with StopSignals() as stop:
        under_way = Fit(
            config=config, data=data, device=device, world=world, trainer=trainer, train=train, scored_on=scored_on,
            stop=stop,
        )  # fmt: skip
        if resume and checkpoint and record:
            _go_on(under_way, resume, checkpoint, record)
        else:
            _begin(under_way, wanted_run, locks)
        try:
            _epochs(under_way)
        except BaseException as error:
            _leave(under_way, hopeless=isinstance(error, NotFiniteError))
            raise
    _finish(under_way)
    return under_way.run


def _epochs(fit: Fit) -> None:
    try:
        if fit.record:
            fit.trackers = open_trackers(fit.config, fit.run, fit.record)
            for line in fit.state.lines:  # again: the last of them may not have been logged any more
                _log(fit, line)
        while fit.state.epoch < fit.config.epochs:
            _epoch(fit)
    finally:
        # Before an empty folder is removed: TensorBoard's thread writes into it until then.
        for tracker in fit.trackers:
            tracker.close()


def _begin(fit: Fit, wanted_run: str | None, locks: ExitStack) -> None:
    if not fit.world.main:
        return
    fit.run = run_folder.new_run_folder(wanted_run, fit.config.task)
    try:
        locks.enter_context(run_folder.held(fit.run))
        fit.record = describe(fit.config, fit.data, fit.device, fit.world.size)
        write_record(fit.run, fit.record)
        introduce(fit.config, fit.data, fit.device, fit.trainer.net, fit.run)
        _say_memory(fit)
    except BaseException:
        run_folder.remove_if_empty(fit.run)
        raise


def _say_memory(fit: Fit) -> None:
    if fit.device.kind == "cuda":
        image = (len(fit.data.inputs.bands), *crop_of(fit.config, fit.data))
        amp = fit.device.amp is not None
        loader_bytes = max(loader.device_bytes for loader in (fit.train, *fit.scored_on.values()))
        num_bytes = estimate_bytes(
            fit.trainer.net, fit.config, image, amp=amp, ranks=fit.world.size, loader_bytes=loader_bytes
        )
        say(f"  about {num_bytes / 2**30:.1f} GiB of GPU memory at BATCH={fit.config.batch}")


def _go_on(fit: Fit, run: Path, checkpoint: Checkpoint, record: Record) -> None:
    fit.run, fit.state = run, restore(checkpoint, fit.trainer)
    if fit.state.step > fit.steps:
        raise UserError(f"{checkpoint.path}: expected at most {fit.steps} steps of an epoch, found {fit.state.step}.")
    if fit.world.main and record.version == 1:
        check_same_run(run, record, checkpoint)
        record = upgraded(record, fit.config, fit.data)
        # With its identity, before run.json has that: a kill in between leaves a run of version 1.
        save_checkpoint(run, fit.trainer, fit.state, record)
    fit.state.unfinished.keep_share(fit.world.rank, fit.world.size)
    fit.saved = fit.state.epoch, fit.state.step
    if not fit.world.main:
        return
    mend_best(run, fit.state)
    around = surroundings(fit.device, fit.world.size)
    where = {"epoch": fit.state.epoch + 1, "step": fit.state.step, "commit": around["commit"]}
    resumed = [*record.values.get("resumed", []), where]
    fit.record = record.changed(state="training", **around, resumed=resumed)
    write_record(run, fit.record)
    publish(run, fit.state, fit.data, fit.record, weights=True)
    introduce(fit.config, fit.data, fit.device, fit.trainer.net, run)
    _say_memory(fit)
    say(f"  goes on in epoch {where['epoch']} after step {where['step']} of {fit.steps} ({checkpoint.path.name})")


def _leave(fit: Fit, *, hopeless: bool) -> None:
    """Tidy up after an interruption: a run with a checkpoint is kept, an empty folder is not."""
    if not fit.world.main or run_folder.remove_if_empty(fit.run):
        return
    if fit.record:
        with suppress(OSError):  # the disk may be what stopped it
            write_record(fit.run, fit.record.changed(state="stopped", best_epoch=fit.state.best + 1))
    if hopeless:
        say(f"{fit.run}: stopped. Its last good checkpoint is kept; going on from it would come to the same again.")
    else:
        say(f"{fit.run}: stopped. It can go on: make train RESUME={shlex.quote(str(fit.run))}")


def _finish(fit: Fit) -> None:
    if fit.record:
        done = {"state": "done", "best_epoch": fit.state.best + 1, "model_sha256": fit.state.best_sha256}
        write_record(fit.run, fit.record.changed(**done))
        remove_checkpoints(fit.run)
    for loader in (fit.train, *fit.scored_on.values()):
        loader.close()


def _epoch(fit: Fit) -> None:
    gpu = GpuUse(fit.device)
    _train(fit, gpu)
    line = _train_line(fit) | {"gpu": gpu.summary()}
    started, written_s = time.perf_counter(), line["seconds"]["checkpoint"]
    scores = {part: _evaluate(fit, part) for part in fit.scored_on}
    for part, score in scores.items():
        line |= {f"{part}_loss": score.loss, f"{part}_map": score.mean_ap, f"{part}_ap": _named(fit, score.ap)}
    line["seconds"]["evaluate"] = time.perf_counter() - started - (line["seconds"]["checkpoint"] - written_s)
    best = fit.state.finish_epoch(line, scores[chosen_on(fit.data)].mean_ap, scores["test"])
    if not fit.trainer.step_every_batch:
        fit.trainer.schedule.step()
    _save(fit, best=best)
    if fit.record:
        publish(fit.run, fit.state, fit.data, fit.record, weights=best)
        _tell(fit, scores)


def _tell(fit: Fit, scores: dict[str, Score]) -> None:
    line = fit.state.lines[-1]
    _log(fit, line)
    for text in [*epoch_lines(fit.config, fit.state), *time_line(line).split("\n")]:
        say(text)
    alarms = [chance_alarm(fit.data.store.labels[fit.data.split.indices(p)], s.mean_ap, p) for p, s in scores.items()]
    for text in (advice(line, fit.device), *alarms):
        if text:
            say(text)


def _log(fit: Fit, line: dict[str, Any]) -> None:
    for tracker in fit.trackers:
        tracker.log(scalars(line), line["epoch"])


def _train(fit: Fit, gpu: GpuUse) -> None:
    """The steps of the epoch that are left."""
    config, state, trainer = fit.config, fit.state, fit.trainer
    unfinished, seconds = state.unfinished, state.unfinished.seconds
    trainer.net.train()
    latest, last = LossMeter(fit.device), f" mAP {state.lines[-1]['test_map']:.3f}" if state.lines else ""
    first = state.step * config.accumulate
    left = fit.steps * config.accumulate - first
    label, chips = f"epoch {state.epoch + 1}/{config.epochs}", fit.steps * config.batch
    done = state.step * config.batch
    # Closed, not run to its end: less than a step's batches may be left over.
    epoch = cast(Generator[Batch, None, None], fit.train.epoch(state.epoch, first))
    with closing(epoch) as batches, Progress(
        label, total=chips, unit="chips", done=done
    ) as progress:  # fmt: skip
        for number in range(left):
            asked, handed = time.perf_counter(), fit.train.hand_over_s
            batch = next(batches)
            got = time.perf_counter()
            copied = fit.train.hand_over_s - handed
            seconds["wait"] += got - asked - copied
            seconds["copy"] += copied
            if number == 0:
                unfinished.first_wait_s += got - asked - copied
            part = number % config.accumulate
            loss, logits = train_step(trainer, batch.images_nchw, batch.labels, part=part)
            unfinished.losses.append(loss)
            unfinished.logits.append(logits)
            unfinished.chips.append(batch.chips)
            seconds["step"] += time.perf_counter() - got
            latest.update(loss)
            gpu.look()
            if latest.failed:
                check_losses(state, config, fit.data.store)
            share = seconds["wait"] / sum(seconds.values())
            progress.update(
                len(batch.chips) * fit.world.size, f"loss {latest.value:.3f}{last} wait {100 * share:.0f} %"
            )
            if part == config.accumulate - 1:
                state.step += 1
                _between(fit)


def _between(fit: Fit) -> None:
    """Between steps, and between batches of an evaluation: write a checkpoint if it is time to, stop if asked to."""
    due = time.monotonic() - fit.saved_at_s >= 60 * fit.config.checkpoint_minutes
    wish = fit.world.agree(fit.stop.code or int(due))
    if wish:
        _save(fit)
    if wish > 1:
        raise Stopped(wish)


def _save(fit: Fit, *, best: bool = False) -> None:
    """Write a checkpoint; with `best`, first the weights that it will name. In an evaluation one is enough."""
    place = fit.state.epoch, fit.state.step
    if place == fit.saved and not best:
        fit.saved_at_s = time.monotonic()
        return
    started = time.perf_counter()
    check_losses(fit.state, fit.config, fit.data.store)
    check_weights(fit.state, fit.config, fit.trainer.net, fit.trainer.eval_model)
    state = fit.state.gathered(fit.world)
    if fit.record:
        try:
            if best:
                sha256 = save_best(fit.run, fit.trainer.eval_model, state.best, _metadata(fit))
                state.best_sha256 = fit.state.best_sha256 = sha256
            save_checkpoint(fit.run, fit.trainer, state, fit.record)
        except OSError as error:
            raise UserError(
                f"{fit.run}: no checkpoint could be written ({error.strerror}); {last_good(fit.run)}"
            ) from error
    fit.world.barrier()  # nobody leaves while rank 0 writes
    fit.saved, fit.saved_at_s = place, time.monotonic()
    fit.state.unfinished.seconds["checkpoint"] += time.perf_counter() - started


def _last_lr(trainer: Trainer) -> float:
    """The learning rate of the newest step. Checkpoints of earlier versions hold that of the step to come only."""
    group = trainer.optimizer.param_groups[-1]
    return float(group.get("last_lr", group["lr"]))


def _metadata(fit: Fit) -> dict[str, str]:
    data = fit.data
    return model_metadata(fit.config, data.branches, data.store.classes, pool=pools(fit.config, data))


def _train_line(fit: Fit) -> dict[str, Any]:
    """What the epoch's steps gave; here the device is waited for."""
    check_losses(fit.state, fit.config, fit.data.store)
    started = time.perf_counter()
    unfinished = fit.state.unfinished
    losses, logits, chips = unfinished.gathered(fit.world)
    unfinished.seconds["step"] += time.perf_counter() - started
    ap = class_ap(fit.data.store.labels[chips], logits.numpy())
    seconds = unfinished.seconds
    training_s = seconds["wait"] + seconds["copy"] + seconds["step"]
    return {
        "epoch": fit.state.epoch + 1,
        "lr": _last_lr(fit.trainer),
        "train_loss": float(losses.double().mean()),
        # Of the scores made while learning, on augmented chips: nearly free, and a little behind the weights.
        "train_map": mean_ap(ap),
        "train_ap": _named(fit, ap),
        "chips_per_s": len(chips) / training_s,
        "wait_share": seconds["wait"] / training_s,
        "train_s": training_s,
        "seconds": seconds,
        "first_wait_s": unfinished.first_wait_s,
    }


def _evaluate(fit: Fit, part: str) -> Score:
    chips = fit.data.split.indices(part)
    logits = predict(
        fit.trainer.eval_model, fit.scored_on[part], fit.device, label=part, num_chips=-(-len(chips) // fit.world.size),
        between=lambda: _between(fit),
    )  # fmt: skip
    logits = fit.world.gather(torch.from_numpy(logits), len(chips)).numpy()
    check_scores(fit.state, fit.config, part, logits)
    labels = fit.data.store.labels[chips]
    loss = loss_function(fit.config.loss, torch.from_numpy(logits), torch.from_numpy(labels.astype(np.float32)))
    return Score(loss=float(loss), ap=class_ap(labels, logits), logits=logits)


def _named(fit: Fit, ap: np.ndarray) -> dict[str, float]:
    return dict(zip(fit.data.store.classes, ap.tolist(), strict=True))
