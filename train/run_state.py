"""The state of a run: epoch, step, the results of this epoch so far, and those of the finished epochs.

Together with the trainer (weights, optimizer, schedule) this is all that a run needs to continue as if it had never
stopped, because order and augmentation are functions of (seed, epoch, chip). Leaves files to `checkpoint`.
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from train.contract.metrics import EpochLine
from train.distributed import World
from train.metrics import mean_ap

SECONDS = ("wait", "copy", "step", "evaluate", "checkpoint")


@dataclass(frozen=True, kw_only=True)
class Score:
    """A split after an epoch: mean loss, AP per class (NaN: no positive chip), and the logits that they come from."""

    loss: float
    ap: np.ndarray
    logits: np.ndarray

    @property
    def mean_ap(self) -> float:
        """mAP: the mean over the classes that have an AP."""
        return mean_ap(self.ap)


@dataclass(kw_only=True)
class EpochAccumulator:
    """Results of the current epoch's steps: losses, logits and chips per micro-batch, seconds per kind of work.

    `losses` (scalars) and `logits` (B, classes) float32 are on the device, `chips` (B,) int64 on the host.
    """

    losses: list[torch.Tensor] = field(default_factory=list)
    logits: list[torch.Tensor] = field(default_factory=list)
    chips: list[np.ndarray] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SECONDS, 0.0))
    first_wait_s: float = 0.0  # for the first batch of each start, while the loader starts; also in seconds["wait"]

    def gathered(self, world: World) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        """Losses (mean over ranks), logits and chips of all ranks, on the host. Waits for the device and all ranks."""
        losses = world.mean(torch.stack(self.losses))
        chips = world.gather(torch.from_numpy(np.concatenate(self.chips)))
        return losses, world.gather(torch.cat(self.logits)), chips.numpy()

    def keep_share(self, rank: int, size: int) -> None:
        """Keep every size-th row of what was gathered from all ranks, so that `gathered` gives each row once again."""
        self.logits = [rows[rank::size] for rows in self.logits]
        self.chips = [rows[rank::size] for rows in self.chips]


@dataclass(kw_only=True)
class State:
    """`step` of the steps of `epoch` are done. `lines` has one entry per finished epoch, as in metrics.jsonl.

    `best` is the index of the best epoch (-1: none yet), `best_value` its mAP, `best_logits` its logits of the test
    split, `best_sha256` the SHA-256 of its weights' file. `accumulated` is of the epoch in progress.
    """

    epoch: int = 0
    step: int = 0
    accumulated: EpochAccumulator = field(default_factory=EpochAccumulator)
    lines: list[EpochLine] = field(default_factory=list)
    best: int = -1
    best_value: float = -math.inf
    best_logits: np.ndarray | None = None
    best_sha256: str = ""

    def gathered(self, world: World) -> "State":
        """The same state with what all ranks have accumulated in the current epoch."""
        if world.size == 1 or not self.accumulated.chips:
            return self
        losses, logits, chips = self.accumulated.gathered(world)
        accumulated = replace(self.accumulated, losses=list(losses), logits=[logits], chips=[chips])
        return replace(self, accumulated=accumulated)

    def finish_epoch(self, line: EpochLine, value: float, test: Score) -> bool:
        """Add a finished epoch and begin the next.

        Args:
            line: the epoch.
            value: the mAP that chooses the best epoch: of the val split, or without one of the test split. NaN if no
                chip of that split has a class: no epoch can be chosen then, and the newest counts as the best.
            test: its scores on the test split.

        Returns:
            Whether this epoch is the best so far. Then the caller must save its weights and set `best_sha256`.
        """
        self.lines.append(line)
        self.epoch, self.step, self.accumulated = self.epoch + 1, 0, EpochAccumulator()
        better = self.best < 0 or value > self.best_value or math.isnan(value)
        if better:
            self.best, self.best_value, self.best_logits = len(self.lines) - 1, value, test.logits
        return better
