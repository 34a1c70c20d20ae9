"""The lines that a run prints: what is trained, how an epoch went, where its time went, and what to do about it."""

import math
import shlex
from pathlib import Path

from preprocess.console import say
from preprocess.splits import SPLIT_NAMES
from train import tune
from train.config import Config
from train.contract.metrics import EpochLine
from train.contract.record import Record
from train.device import Device, amp_name
from train.memory import estimate_bytes
from train.preview_words import preview_command
from train.record import selection_split
from train.run_state import SECONDS, State
from train.sanity_checks import data_alarms
from train.setup import Job, crop_of
from train.step import Trainer

WAIT_SHARE = 0.05  # of the training time: above it, the run gives advice


def introduce(job: Job, trainer: Trainer, run: Path, *, loader_bytes: int) -> None:
    """Say what is trained, where, on which split, and what looks wrong. Most lines have at most 80 columns."""
    config, data, split = job.config, job.data, job.data.split
    trainable = sum(p.numel() for p in trainer.net.parameters() if p.requires_grad)
    groups = " | ".join(map(",".join, data.trunk_bands))
    say(f"{run}: task {config.task}, {config.arch} on {groups}")
    say(f"  {trainable:,} trainable parameters, on {job.device.name}, AMP {amp_name(job.device.amp)}")
    counts = ", ".join(f"{len(split.indices(name))} {name}" for name in SPLIT_NAMES if len(split.indices(name)))
    say(f"  split {split.rule}: {counts} chips; epoch chosen on {selection_split(data)}")
    if not len(split.val):
        say("  (optimistic; VAL=0.1 chooses the epoch on held-out training chips)")
    selection = selection_split(data)
    if not data.store.labels[split.indices(selection)].any():
        say(f"  no {selection} chip has a class: there is no mAP to choose an epoch by, and the last one is kept.")
    for alarm in data_alarms(data.store, split):
        say(f"  {alarm}")
    if not config.workers and (tuned := tune.lookup(data.store, str(job.device.device))):
        say(f"  WORKERS={tuned.workers}, measured by `make tune` on this machine ({tune.PATH})")
    if config.shuffle_labels:
        say("  SHUFFLE_LABELS=1: the labels are shuffled; the scores show only chance.")
    if job.device.kind == "cuda":
        image = (len(data.inputs.bands), *crop_of(config, data))
        num_bytes = estimate_bytes(
            trainer.net, config, image, amp=job.device.amp is not None, ranks=job.world.size, loader_bytes=loader_bytes
        )
        say(f"  about {num_bytes / 2**30:.1f} GiB of GPU memory at BATCH={config.batch}")


def preview_lines(config: Config) -> list[str]:
    """How to see what is trained on. The run does not draw it: see docs/log.md for what that would cost."""
    return ["  a picture of the first batch, with tags, before and after augmentation:", preview_command(config)]


def epoch_lines(config: Config, state: State) -> list[str]:
    """The line after an epoch. With a val split the test split has a line of its own, to stay within 80 columns."""
    line = state.lines[-1]
    shown = {split: f"{split} loss {line.loss(split):.4f} mAP {_shown(line.mean_ap(split))}" for split in line.splits}
    best = "best" if state.best + 1 == line.epoch else f"best: {state.best + 1}"
    if math.isnan(line.mean_ap("val" if "val" in shown else "test")):
        best = "kept"
    head = [f"epoch {line.epoch}/{config.epochs}", shown["train"]]
    if "val" in shown:
        return [" | ".join([*head, shown["val"], best]), f"  {shown['test']}"]
    return [" | ".join([*head, shown["test"], best])]


def time_lines(line: EpochLine) -> list[str]:
    """Where the epoch's time went. On a GPU a second line says how busy and how full it was while training."""
    others = ", ".join(f"{name} {line.seconds[name]:.1f}" for name in SECONDS[1:])
    lines = [f"  wait {line.seconds['wait']:.1f} s, {others}; {line.chips_per_s:.0f} chips/s"]
    if line.gpu:
        busy, used = line.gpu["busy_percent"], line.gpu["used_gib"]
        lines.append(f"  GPU {busy:.0f} % busy, at most {used:.1f} GiB of its memory in use")
    return lines


def advice(line: EpochLine, device: Device) -> str:
    """What to do if the loader is too slow; "" if it is not. The epoch's first batch does not count."""
    chips = line.chips_per_s * line.train_s
    wait_s = line.seconds["wait"] - line.first_wait_s
    steady_s = line.train_s - line.first_wait_s
    if wait_s <= WAIT_SHARE * steady_s:
        return ""
    name = "GPU" if device.kind == "cuda" else "CPU"
    return (
        f"  {100 * wait_s / steady_s:.0f} % of the time is waiting for data: the loader gives {chips / steady_s:,.0f} "
        f"chips/s, the {name} trains {chips / (steady_s - wait_s):,.0f}. Try more WORKERS, or CODEC=none."
    )


def end_lines(run: Path, record: Record, history: tuple[EpochLine, ...]) -> list[str]:
    """The best epoch of a run that is done, and its files. With a short path each line has at most 80 columns."""
    split = record.split.epoch_chosen_on
    best = history[(record.best_epoch or 1) - 1]
    chosen = "Last" if math.isnan(best.mean_ap(split)) else "Best"
    scores = "; ".join(f"{name} mAP {_shown(best.mean_ap(name))}" for name in dict.fromkeys((split, "test")))
    return [
        f"{run}: done. {chosen} epoch {best.epoch} of {len(history)} by {scores}",
        "  model.safetensors: weights of this epoch    results.npz: its test scores",
        "  metrics.jsonl: all epochs                   run.json: settings, versions",
    ]


def next_lines(run: Path) -> list[str]:
    """What to do with a run that is done. The commands stand alone in their lines, so that they can be copied."""
    name = shlex.quote(str(run))
    return [
        "Next: make a page about the run, and check that a new process gets its scores:",
        f"make report RUN={name}",
        f"make reproduce RUN={name}",
    ]


def _shown(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.4f}"
