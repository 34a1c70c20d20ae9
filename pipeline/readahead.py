"""Batches filled ahead of time by threads, in order. Leaves what a buffer is, and how it is filled, to others."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

import numpy as np

from pipeline.order import Augmentation

DEPTH = 2  # batches being filled before they are asked for


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """One batch before it is read: chip numbers (B,) int64; the first `num_valid` count, the rest is padding."""

    chips: np.ndarray
    num_valid: int
    augmentation: Augmentation | None  # None: a test batch


class Slot(Protocol):
    """A buffer for one batch."""

    def fill(self, plan: BatchPlan, rows: slice) -> None:
        """Read some rows of the batch. Called from several threads, for different rows."""


S = TypeVar("S", bound=Slot)


class ReadAhead(Generic[S]):
    """Fills the slots that `make_slot` hands out."""

    def __init__(self, workers: int, make_slot: Callable[[], S]) -> None:
        self._workers, self._make_slot = workers, make_slot
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="canopy-read")
        self._plans: Iterator[BatchPlan] = iter(())
        self._filling: deque[tuple[BatchPlan, S, list[Future[None]]]] = deque()

    def begin(self, plans: Iterable[BatchPlan]) -> None:
        """Start an epoch; what is left of an earlier one is dropped."""
        self.stop()
        self._plans = iter(plans)
        for _ in range(DEPTH):
            self._fill_next()

    def next(self) -> tuple[BatchPlan, S] | None:
        """The next batch, filled; None after the last."""
        if not self._filling:
            return None
        plan, slot, futures = self._filling.popleft()
        for future in futures:
            future.result()
        self._fill_next()
        return plan, slot

    def stop(self) -> None:
        """Read no further batch; returns when no thread writes any more."""
        self._plans = iter(())
        for _, _, futures in self._filling:
            for future in futures:
                future.cancel() or future.exception()
        self._filling.clear()

    def close(self) -> None:
        """End the threads."""
        self.stop()
        self._pool.shutdown()

    def _fill_next(self) -> None:
        plan = next(self._plans, None)
        if plan is None:
            return
        slot = self._make_slot()
        bounds = [len(plan.chips) * worker // self._workers for worker in range(self._workers + 1)]
        parts = [slice(*bound) for bound in pairwise(bounds) if bound[0] < bound[1]]
        self._filling.append((plan, slot, [self._pool.submit(slot.fill, plan, part) for part in parts]))
