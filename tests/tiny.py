"""Runs so small that their steps take milliseconds: a network of 3,000 weights with the real loader, steps, evaluation
and files. Tests that interrupt runs use them, in this process and in others."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from helpers.chips import to_store, write_chips
from helpers.commands import SETTINGS, stop_at, train
from torch import nn

from models.resnet import STEMS
from pipeline.loader import Batch
from preprocess.zarr_store import Store
from train.checkpoint_files import folder
from train.hooks import Hooks, use_hooks
from train.loop import RunLoop

FEATURES = 16  # of a tiny network, before its last layer
EVERY_STEP = ("CHECKPOINT_MINUTES=1e-9",)


def tiny_net(
    arch: str, num_bands: int, num_classes: int | None, *, pool: bool = True, stem: str = "imagenet"
) -> nn.Module:
    """Replaces `models.resnet.make_resnet`."""
    net = nn.Sequential()
    side = STEMS[stem]
    net.conv1 = nn.Conv2d(num_bands, 8, side, stride=2, padding=side // 2, bias=False)
    net.bn1 = nn.BatchNorm2d(8)
    net.relu = nn.ReLU()
    net.conv2 = nn.Conv2d(8, FEATURES, 3, stride=2, padding=1, bias=False)
    net.bn2 = nn.BatchNorm2d(FEATURES)
    net.pool = nn.AdaptiveAvgPool2d(1)
    net.flatten = nn.Flatten()
    net.fc = nn.Identity() if num_classes is None else nn.Linear(FEATURES, num_classes)
    return net


@contextmanager
def tiny_networks() -> Iterator[None]:
    """Within this context every ResNet is tiny, also the trunks of Task 3."""
    with (
        mock.patch("models.build.make_resnet", tiny_net),
        mock.patch("models.two_branch.make_resnet", tiny_net),
        mock.patch("models.two_branch.num_features", return_value=FEATURES),
    ):
        yield


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def outcome(run: Path) -> dict[str, object]:
    """What must be equal for two runs to be equal: weights, scores, losses."""
    with np.load(run / "results.npz", allow_pickle=False) as results:
        arrays = {name: results[name].tobytes() for name in results.files if name != "depends_on"}
    return {"weights": sha256(run / "model.safetensors"), **arrays}


class Steps:
    """Notes the loss (hex) of every micro-batch of the runs within `watch`, and can act after each.

    `act` gets the number of the micro-batch, counted from 1. `loop` is the run that is watched.
    """

    def __init__(self, act: Callable[[int], object] = lambda number: None) -> None:
        self.losses: list[str] = []
        self.loop: RunLoop | None = None
        self._act = act

    @property
    def watch(self) -> AbstractContextManager[None]:
        """A context in which runs that begin or resume are watched."""
        return use_hooks(Hooks(on_batch_end=self._note))

    def _note(self, loop: RunLoop, batch: Batch, loss: torch.Tensor) -> None:
        self.loop = loop
        self.losses.append(float(loss).hex())
        self._act(len(self.losses))


def stopped(store: Store, run: Path, step: int = 8) -> list[Path]:
    """Stop a run that writes a checkpoint after every step; returns its checkpoints, oldest first."""
    with Steps(stop_at(step)).watch:
        assert train(store.path, run, *SETTINGS, *EVERY_STEP).returncode == 75
    return sorted(folder(run).glob("e*.safetensors"))


def undisturbed_run(store: Store, run: Path) -> list[str]:
    """Train `run` without a stop; the losses of its steps."""
    steps = Steps()
    with tiny_networks(), steps.watch:
        ended = train(store.path, run, *SETTINGS)
    assert ended.returncode == 0, ended.stderr
    return steps.losses


def run_with_val(folder: Path) -> Path:
    """A finished run of three epochs with a val split. Its store and chips are beside it."""
    chips = write_chips(folder / "tif", count=60)
    store = to_store(chips, folder / "chips.zarr")
    with tiny_networks():
        ended = train(store.path, folder / "run", "EPOCHS=3", "BATCH=8", "VAL=0.2")
    assert ended.returncode == 0, ended.stderr
    return folder / "run"
