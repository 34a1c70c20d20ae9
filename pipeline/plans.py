"""The batches of an epoch before they are read: which chips, and how each is cropped and flipped.

In: chip numbers, the batch size and, for training, the seed. Out: `BatchPlan`s. A plan is a function of its epoch and
step only, so that a resumed epoch plans the same batches. Leaves reading and images to the engines.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import ArrayLike

from pipeline.order import Augmentation, augmentation, epoch_order, joined
from preprocess.console import ArgumentError


def chip_numbers(chips: ArrayLike, num_chips: int, argument: str = "chips") -> np.ndarray:
    """(N,) int64 chip numbers.

    Raises:
        ArgumentError: no list of whole numbers (such as a mask), or a chip that the store does not have.
    """
    array = np.asarray(chips)
    if not array.size:
        return np.empty(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        reason = "expected a list of chip numbers, such as split.train. np.flatnonzero makes one of a mask."
        raise ArgumentError(argument, f"{array.dtype} array of shape {array.shape}", reason)
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= num_chips:
        raise ArgumentError(argument, low if low < 0 else high, f"expected chips 0 to {num_chips - 1}.")
    return array.astype(np.int64, copy=False)


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """One batch before it is read: chip numbers (B,) int64; the first `num_valid` count, the rest is padding."""

    chips: np.ndarray
    num_valid: int
    augmentation: Augmentation | None  # None: a test batch


@dataclass(frozen=True, kw_only=True)
class JoinedPlan(BatchPlan):
    """Several batches in a row, to be read as one."""

    plans: tuple[BatchPlan, ...]


def join(plans: Iterable[BatchPlan], count: int) -> Iterator[JoinedPlan]:
    """`count` batches at a time; the last ones may be fewer. All have parameters of augmentation, or none has."""
    plans = iter(plans)
    while batches := tuple(islice(plans, count)):
        parameters = [plan.augmentation for plan in batches if plan.augmentation is not None]
        yield JoinedPlan(
            chips=np.concatenate([plan.chips for plan in batches]),
            num_valid=sum(plan.num_valid for plan in batches),
            augmentation=joined(parameters) if parameters else None,
            plans=batches,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainPlans:
    """Epochs of training: shuffled and augmented. The last short batch of an epoch is dropped.

    chips: (N,) int64 indices in the store. size: (height, width) of a chip. crop: (height, width) of the images.
    rank, world: every process of `world` takes each `world`-th chip of the epoch's order, from place `rank` on.
    """

    chips: np.ndarray
    batch_size: int
    seed: int
    size: tuple[int, int]
    crop: tuple[int, int]
    flips: str
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        _check_batch_size(self.batch_size)
        if len(self.chips) < self.batch_size:
            raise ArgumentError(
                "batch_size", self.batch_size, f"expected at most {len(self.chips)}, the number of chips."
            )

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self.chips) // self.world // self.batch_size

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[BatchPlan]:
        """The plans of one epoch from `first_step` on."""
        order = epoch_order(self.seed, epoch, self.chips)[self.rank :: self.world]
        height, width = self.size
        parameters = augmentation(
            self.seed, epoch, order, height=height, width=width, crop=self.crop, flips=self.flips
        )  # fmt: skip
        for start in range(first_step * self.batch_size, len(self) * self.batch_size, self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield BatchPlan(chips=order[rows], num_valid=self.batch_size, augmentation=parameters.take(rows))


@dataclass(frozen=True, kw_only=True, eq=False)
class EvalPlans:
    """Evaluation: the chips in the order given, each exactly once. Repeats of the last chip pad the last batch."""

    chips: np.ndarray
    batch_size: int

    def __post_init__(self) -> None:
        _check_batch_size(self.batch_size)

    def __len__(self) -> int:
        """Batches per epoch."""
        return -(-len(self.chips) // self.batch_size)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[BatchPlan]:
        """The plans from `first_step` on; the same in every epoch."""
        del epoch
        size = self.batch_size
        padded = np.concatenate([self.chips, np.repeat(self.chips[-1:], -len(self.chips) % size)])
        for start in range(first_step * size, len(padded), size):
            num_valid = min(size, len(self.chips) - start)
            yield BatchPlan(chips=padded[start : start + size], num_valid=num_valid, augmentation=None)


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ArgumentError("batch_size", batch_size, "expected 1 or more.")
