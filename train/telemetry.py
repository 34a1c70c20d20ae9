"""What a run tells while it goes: TensorBoard, a tracker if one is asked for, where the time went, and what to do.

Nothing here waits for the device. metrics.jsonl and results.npz are `record`'s.
"""

import hashlib
import math
import time
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.tensorboard import SummaryWriter

from preprocess.console import UserError, one_line
from preprocess.files import named_errors
from train.config import Config
from train.contract.record import Record
from train.device import Device
from train.run_state import SECONDS

WAIT_SHARE = 0.05  # of the training time: above it, advice is given


class Tracker(Protocol):
    """Where scalars go; TensorBoard's own and any other."""

    def log(self, scalars: dict[str, float], epoch: int) -> None:
        """Write one epoch's values."""

    def close(self) -> None:
        """End it; what was logged is on the disk."""


class TensorBoard:
    """runs/<name>/tensorboard: `tensorboard --logdir runs` shows it."""

    def __init__(self, run: Path) -> None:
        self._folder = run / "tensorboard"
        # A run that goes on takes back all that was logged, and logs it again.
        with named_errors(self._folder):
            self._writer = SummaryWriter(str(self._folder), purge_step=1)

    def log(self, scalars: dict[str, float], epoch: int) -> None:
        """One point a curve."""
        with named_errors(self._folder):
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, epoch)
            self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        with named_errors(self._folder):
            self._writer.close()


class Wandb:
    """TRACKER=wandb: Weights & Biases, offline, in runs/<name>/wandb; `wandb sync` sends it from there.

    A run that goes on makes another folder there with the same id and all that was logged: the newest is the whole run.
    """

    def __init__(self, run: Path, record: Record) -> None:
        try:
            import wandb
        except ImportError:
            raise UserError("TRACKER=wandb: it is not installed here. pip install -c constraints.txt wandb") from None
        settings = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False)
        identity = hashlib.sha256(f"{run.name} {record.started}".encode()).hexdigest()[:12]
        self._run = wandb.init(
            mode="offline", project="canopy", name=run.name, id=identity, dir=str(run),
            config=record.config.model_dump(), settings=settings,
        )  # fmt: skip

    def log(self, scalars: dict[str, float], epoch: int) -> None:
        """One point a curve."""
        self._run.log(scalars, step=epoch)

    def close(self) -> None:
        """Write the rest."""
        self._run.finish()


def open_trackers(config: Config, run: Path, record: Record) -> list[Tracker]:
    """TensorBoard always, and what TRACKER names. What the run has behind it is to be logged again.

    Raises:
        UserError: the tracker is not installed.
    """
    trackers: list[Tracker] = [Wandb(run, record)] if config.tracker == "wandb" else []
    return [TensorBoard(run), *trackers]


def scalars(line: dict[str, Any]) -> dict[str, float]:
    """An epoch's line as named curves; what is not a number (a class without positives) is left out."""
    found = {"lr": line["lr"], "speed/chips_per_s": line["chips_per_s"], "speed/wait_share": line["wait_share"]}
    found |= {f"seconds/{name}": value for name, value in line["seconds"].items()}
    found |= {f"gpu/{name}": value for name, value in line.get("gpu", {}).items()}  # runs that began before it was kept
    for part in ("train", "val", "test"):
        if f"{part}_loss" in line:
            found |= {f"loss/{part}": line[f"{part}_loss"], f"mAP/{part}": line[f"{part}_map"]}
            found |= {f"AP_{part}/{one_line(name)}": value for name, value in line[f"{part}_ap"].items()}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def time_line(line: dict[str, Any]) -> str:
    """Where the epoch's time went, and on a GPU, in a second line, how busy and how full it was while training."""
    seconds = line["seconds"]
    parts = ", ".join(f"{name} {seconds[name]:.1f}" for name in SECONDS[1:])
    text = f"  wait {seconds['wait']:.1f} s, {parts}; {line['chips_per_s']:.0f} chips/s"
    if gpu := line["gpu"]:
        text += f"\n  GPU {gpu['busy_percent']:.0f} % busy, at most {gpu['used_gib']:.1f} GiB of it in use"
    return text


class GpuUse:
    """How busy and how full the GPU is while it trains: NVML's numbers, of all that runs on it, once a second."""

    def __init__(self, device: Device) -> None:
        self._device = device.device
        self._next_s = 0.0 if device.kind == "cuda" else math.inf
        self._busy: list[float] = []
        self._used: list[float] = []

    def look(self) -> None:
        """Between steps; does not wait for the device."""
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + 1.0
        try:
            busy, used = torch.cuda.utilization(self._device), torch.cuda.device_memory_used(self._device)
        except Exception:
            # NVML's and torch's kinds are many: no such number of a part of a GPU (MIG), no driver library in a
            # container. Training goes on without.
            self._next_s = math.inf
            return
        self._busy.append(busy)
        self._used.append(used / 2**30)

    def summary(self) -> dict[str, float]:
        """Mean and highest so far; empty where nothing is known."""
        if not self._busy:
            return {}
        return {"busy_percent": sum(self._busy) / len(self._busy), "used_gib": max(self._used)}


def advice(line: dict[str, Any], device: Device) -> str:
    """One sentence where the loader holds training up; empty otherwise. An epoch's first batch does not count."""
    chips = line["chips_per_s"] * line["train_s"]
    wait_s = line["seconds"]["wait"] - line["first_wait_s"]
    steady_s = line["train_s"] - line["first_wait_s"]
    if wait_s <= WAIT_SHARE * steady_s:
        return ""
    what = "GPU" if device.kind == "cuda" else "CPU"
    return (
        f"  {100 * wait_s / steady_s:.0f} % waiting: the loader gives {chips / steady_s:,.0f} chips/s, "
        f"the {what} takes {chips / (steady_s - wait_s):,.0f}: more WORKERS, or CODEC=none"
    )


class LossMeter:
    """The newest loss that has arrived on the host: `value`, 0 before the first; `failed` if it is not finite."""

    def __init__(self, device: Device) -> None:
        self.value = 0.0
        self._on_gpu, self._under_way = device.kind == "cuda", False
        if self._on_gpu:
            self._host = torch.zeros((), pin_memory=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch

    @property
    def failed(self) -> bool:
        """Whether the network has come to nothing."""
        return not math.isfinite(self.value)

    def update(self, loss: torch.Tensor) -> None:
        """A step's loss. From a GPU one is copied at a time, and looked at when it is there."""
        if not self._on_gpu:
            self.value = float(loss)
            return
        if self._under_way and self._event.query():  # type: ignore[no-untyped-call]  # torch
            self.value, self._under_way = float(self._host), False
        if not self._under_way:
            self._host.copy_(loss, non_blocking=True)
            self._event.record()
            self._under_way = True
