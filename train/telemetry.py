"""Measurements while a run trains, and where they are logged: TensorBoard, and the tracker that TRACKER names.

In: epochs, losses, the device. Out: curves, the newest loss, how busy the GPU is. Nothing here waits for the device.
Leaves metrics.jsonl and results.npz to `record`, and the lines on the terminal to `messages`.
"""

import hashlib
import math
import time
from pathlib import Path
from typing import Any, Protocol

import torch

from preprocess.console import UserError, one_line
from preprocess.files import named_errors
from train.config import Config
from train.contract.metrics import EpochLine
from train.contract.record import Record
from train.device import Device


class Tracker(Protocol):
    """A place where scalars are logged."""

    def log(self, scalars: dict[str, float], epoch: int) -> None:
        """Write one epoch's values."""

    def close(self) -> None:
        """Write everything to the disk and end."""


class TensorBoard:
    """Logs to runs/<name>/tensorboard from the first epoch on; `tensorboard --logdir runs` shows it."""

    def __init__(self, run: Path) -> None:
        self._folder = run / "tensorboard"
        self._writer: Any = None

    def log(self, scalars: dict[str, float], epoch: int) -> None:
        """Add one point to each curve."""
        with named_errors(self._folder):
            if self._writer is None:
                # Here, because this import takes 0.1 to 0.3 s, which the first step need not wait for.
                from torch.utils.tensorboard import SummaryWriter

                # A resumed run removes what was logged and logs it again.
                self._writer = SummaryWriter(str(self._folder), purge_step=1)
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, epoch)
            self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        with named_errors(self._folder):
            if self._writer is not None:
                self._writer.close()


class Wandb:
    """TRACKER=wandb: Weights & Biases, offline, in runs/<name>/wandb; `wandb sync` uploads it.

    A resumed run makes another folder there, with the same id and all epochs, so the newest folder is the whole run.
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
        """Add one point to each curve."""
        self._run.log(scalars, step=epoch)

    def close(self) -> None:
        """Write what is left."""
        self._run.finish()


def open_trackers(config: Config, run: Path, record: Record) -> list[Tracker]:
    """TensorBoard, and the tracker that TRACKER names. Finished epochs of a resumed run must be logged again.

    Raises:
        UserError: the tracker is not installed.
    """
    trackers: list[Tracker] = [Wandb(run, record)] if config.tracker == "wandb" else []
    return [TensorBoard(run), *trackers]


def scalars(line: EpochLine) -> dict[str, float]:
    """An epoch as named curves. Values that do not exist (AP of a class without positive chips) are left out."""
    curves = {"lr": line.lr, "speed/chips_per_s": line.chips_per_s, "speed/wait_share": line.wait_share}
    curves |= {f"seconds/{name}": value for name, value in line.seconds.items()}
    curves |= {f"gpu/{name}": value for name, value in line.gpu.items()}
    for split in line.splits:
        curves |= {f"loss/{split}": line.loss(split), f"mAP/{split}": line.mean_ap(split)}
        curves |= {f"AP_{split}/{one_line(name)}": line.ap(split, name) for name in line.test_ap}
    return {name: value for name, value in curves.items() if not math.isnan(value)}


class GpuUse:
    """How busy and how full the GPU is, with all that runs on it: NVML's numbers, once per second of training."""

    def __init__(self, device: Device) -> None:
        self._device = device.device
        self._next_s = 0.0 if device.kind == "cuda" else math.inf
        self._busy: list[float] = []
        self._used: list[float] = []

    def sample(self) -> None:
        """Read NVML if the last time was a second ago. Called between steps; does not wait for the device."""
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + 1.0
        try:
            busy, used = torch.cuda.utilization(self._device), torch.cuda.device_memory_used(self._device)
        except Exception:
            # NVML and torch raise many types: part of a GPU (MIG) has no utilisation, a container may have no driver
            # library. Training continues without these numbers.
            self._next_s = math.inf
            return
        self._busy.append(busy)
        self._used.append(used / 2**30)

    def summary(self) -> dict[str, float]:
        """The mean utilisation and the highest memory use so far; empty if NVML gave no numbers."""
        if not self._busy:
            return {}
        return {"busy_percent": sum(self._busy) / len(self._busy), "used_gib": max(self._used)}


class LossMeter:
    """The newest loss that has arrived on the host. `value` is 0 before the first one."""

    def __init__(self, device: Device) -> None:
        self.value = 0.0
        self._on_gpu, self._is_copying = device.kind == "cuda", False
        if self._on_gpu:
            self._host = torch.zeros((), pin_memory=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch

    @property
    def failed(self) -> bool:
        """Whether that loss is not finite: training has diverged."""
        return not math.isfinite(self.value)

    def update(self, loss: torch.Tensor) -> None:
        """Take the loss of a micro-batch. From a GPU one loss at a time is copied; it is read when it has arrived."""
        if not self._on_gpu:
            self.value = float(loss)
            return
        if self._is_copying and self._event.query():  # type: ignore[no-untyped-call]  # torch
            self.value, self._is_copying = float(self._host), False
        if not self._is_copying:
            self._host.copy_(loss, non_blocking=True)
            self._event.record()
            self._is_copying = True
