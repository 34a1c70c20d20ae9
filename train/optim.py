"""Which parameters learn how fast: optimiser, schedule, and the moving average of the weights."""

import copy
import math
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, StepLR
from torch.optim.swa_utils import get_ema_multi_avg_fn

from models.build import head_parameters
from train.config import Config


def make_optimizer(net: nn.Module, config: Config) -> torch.optim.Optimizer:
    """SGD or AdamW over the parameters that may learn.

    Norms' scales and all biases are one-dimensional; decaying them only shrinks what should be free. With a
    `trunk_lr` other than 1, everything but the last layer learns that many times as fast as it.
    """
    head = {id(parameter) for parameter in head_parameters(net)}
    learning = [parameter for parameter in net.parameters() if parameter.requires_grad]
    parts = [(config.lr, learning)]
    if config.trunk_lr != 1:
        trunk = [p for p in learning if id(p) not in head]
        parts = [(config.lr * config.trunk_lr, trunk), (config.lr, [p for p in learning if id(p) in head])]
    groups: list[dict[str, Any]] = []
    for lr, parameters in parts:
        groups.append({"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay, "lr": lr})
        groups.append({"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "lr": lr})
    groups = [group for group in groups if group["params"]]
    # Fused on the CPU too: 11 M parameters in 10 instead of 21 ms (2 cores).
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    return torch.optim.SGD(groups, momentum=config.momentum, fused=True)


def make_schedule(optimizer: torch.optim.Optimizer, config: Config, steps_per_epoch: int) -> LRScheduler:
    """The learning rate as a function of the step ("step": of the epoch). `warmup` is a share of all steps."""
    total = steps_per_epoch * config.epochs
    highest = [group["lr"] for group in optimizer.param_groups]
    if config.schedule == "onecycle":
        total = max(total, 2)  # torch wants two steps at least
        # Of exactly one step of warm-up torch makes a division by 0; it would be the highest rate already.
        warmup = 0.0 if config.warmup * total == 1 else config.warmup
        return OneCycleLR(optimizer, highest, total_steps=total, pct_start=warmup, cycle_momentum=False)
    if config.schedule == "cosine":
        return LambdaLR(optimizer, lambda step: cosine(step, total, round(config.warmup * total)))
    return StepLR(optimizer, config.step_epochs, config.step_gamma)


def cosine(step: int, total: int, warmup: int) -> float:
    """Factor of the highest rate at a step: up in a straight line, down along a cosine to 0 at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(step - warmup, total - warmup) / max(total - warmup, 1)))


class Ema:
    """A moving average of weights and BatchNorm statistics: what is scored and saved in the weights' place.

    It follows fast at first (as TensorFlow's does): after n updates with min(decay, (1 + n) / (10 + n)).
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net = copy.deepcopy(net).requires_grad_(False)
        self._decay = decay
        pairs = list(zip(self.net.state_dict().values(), net.state_dict().values(), strict=True))
        self._average = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copy = [pair for pair in pairs if not pair[0].is_floating_point()]  # BatchNorm's counts

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """After optimiser step number `updates` (from 0)."""
        decay = min(self._decay, (1 + updates) / (10 + updates))
        follow = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # torch
        mine, its = zip(*self._average, strict=True)
        follow(mine, its, updates)
        for own, other in self._copy:
            own.copy_(other)
