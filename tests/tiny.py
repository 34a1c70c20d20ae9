"""A run so small that its steps take milliseconds: real loader, steps, evaluation and files around a network of 3,000
weights. Tests that interrupt runs use it, in this process and in others."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import nn


def tiny_net(arch: str, num_bands: int, num_classes: int | None, *, pool: bool = True) -> nn.Module:
    """In the place of `models.resnet.make_resnet`."""
    net = nn.Sequential()
    net.conv1 = nn.Conv2d(num_bands, 8, 7, stride=2, padding=3, bias=False)
    net.bn1 = nn.BatchNorm2d(8)
    net.relu = nn.ReLU()
    net.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False)
    net.bn2 = nn.BatchNorm2d(16)
    net.pool = nn.AdaptiveAvgPool2d(1)
    net.flatten = nn.Flatten()
    net.fc = nn.Identity() if num_classes is None else nn.Linear(16, num_classes)
    return net


def tiny_networks() -> "mock._patch[Callable[..., nn.Module]]":
    """While it lasts, every ResNet is tiny."""
    return mock.patch("models.build.make_resnet", tiny_net)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def outcome(run: Path) -> dict[str, object]:
    """What must be the same of two runs that are one: weights, scores, losses."""
    with np.load(run / "results.npz", allow_pickle=False) as results:
        arrays = {name: results[name].tobytes() for name in results.files if name != "depends_on"}
    return {"weights": sha256(run / "model.safetensors"), **arrays}


class Steps:
    """Wraps `train_step`: writes down the loss (hex) of every step, and can act when a step is reached."""

    def __init__(self, act: Callable[[int], None] = lambda number: None) -> None:
        from train import loop

        self.losses: list[str] = []
        self._act, self._step = act, loop.train_step
        self.patch = mock.patch("train.loop.train_step", self)

    def __call__(self, *arguments: object, **more: object) -> tuple[torch.Tensor, torch.Tensor]:
        loss, logits = self._step(*arguments, **more)  # type: ignore[arg-type]
        self.losses.append(float(loss).hex())
        self._act(len(self.losses))
        return loss, logits
