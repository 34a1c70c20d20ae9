"""Where a run is: epoch, step, what this epoch has brought so far, what the finished epochs brought.

Together with the trainer (weights, optimiser, schedule) this is all that a run needs to go on as if it had never
stopped: order and augmentation are functions of (seed, epoch, chip). Leaves files to `checkpoint`.
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
    """One part after one epoch: mean loss, AP a class (NaN: no positives), and the logits they come from."""

    loss: float
    ap: np.ndarray
    logits: np.ndarray

    @property
    def mean_ap(self) -> float:
        """Mean over the classes that have an AP."""
        return mean_ap(self.ap)


@dataclass(kw_only=True)
class EpochAccumulator:
    """What the steps of the epoch under way have given: a loss a step, logits and chips a batch, seconds by kind.

    `losses` scalars and `logits` (B, classes) float32 stay on the device; `chips` (B,) int64 on the host.
    """

    losses: list[torch.Tensor] = field(default_factory=list)
    logits: list[torch.Tensor] = field(default_factory=list)
    chips: list[np.ndarray] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SECONDS, 0.0))
    first_wait_s: float = 0.0  # for the first batches, while the loader starts; part of seconds["wait"]

    def gathered(self, world: World) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        """Losses (mean over ranks), logits and chips of all ranks, on the host; waits for device and ranks."""
        losses = world.mean(torch.stack(self.losses))
        chips = world.gather(torch.from_numpy(np.concatenate(self.chips)))
        return losses, world.gather(torch.cat(self.logits)), chips.numpy()

    def keep_share(self, rank: int, size: int) -> None:
        """Of what all ranks have given, keep every size-th row: `gathered` then gives all of it once."""
        self.logits = [rows[rank::size] for rows in self.logits]
        self.chips = [rows[rank::size] for rows in self.chips]


@dataclass(kw_only=True)
class State:
    """`epoch` is under way and `step` of its steps are done. `lines` has one entry a finished epoch (metrics.jsonl).

    `best` is the index of the epoch that is kept (-1: none yet), `best_logits` its test scores, `best_sha256` of its
    weights as written.
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
        """The same with what all ranks have given to the epoch under way."""
        if world.size == 1 or not self.accumulated.chips:
            return self
        losses, logits, chips = self.accumulated.gathered(world)
        accumulated = replace(self.accumulated, losses=list(losses), logits=[logits], chips=[chips])
        return replace(self, accumulated=accumulated)

    def finish_epoch(self, line: EpochLine, value: float, test: Score) -> bool:
        """Add a finished epoch and begin the next. `value` (val's mAP, else test's) chooses the best.

        Returns:
            Whether this epoch is the best so far: then its weights are to be kept, and `best_sha256` set.
        """
        self.lines.append(line)
        self.epoch, self.step, self.accumulated = self.epoch + 1, 0, EpochAccumulator()
        better = self.best < 0 or value > self.best_value
        if better:
            self.best, self.best_value, self.best_logits = len(self.lines) - 1, value, test.logits
        return better
