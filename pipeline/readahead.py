"""Fills batches ahead of time in threads, in order. Leaves what a buffer is, and how it is filled, to the engines."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

from pipeline.announcements import Announced, watch
from pipeline.plans import BatchPlan

DEPTH = 2  # batches that are being filled before they are asked for


class Slot(Protocol):
    """A buffer for one batch."""

    def fill(self, plan: BatchPlan, rows: slice) -> None:
        """Read some rows of the batch. Several threads call it at once, for different rows."""


S = TypeVar("S", bound=Slot)


class ReadAhead(Generic[S]):
    """Fills the slots that `make_slot` returns. `reader`: learns the next chips before they are read."""

    def __init__(self, workers: int, make_slot: Callable[[], S], reader: Announced | None = None) -> None:
        self._workers, self._make_slot, self._reader = workers, make_slot, reader
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="canopy-read")
        self._plans: Iterator[BatchPlan] = iter(())
        self._filling: deque[tuple[BatchPlan, S, list[Future[None]]]] = deque()

    def begin(self, plans: Iterable[BatchPlan]) -> None:
        """Start an epoch; batches of an earlier one that are left are dropped."""
        self.stop()
        self._plans = iter(plans) if self._reader is None else watch(plans, self._reader)
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
        """Start no further batch, and wait until no thread writes any more."""
        self._plans = iter(())
        for _, _, futures in self._filling:
            for future in futures:
                future.cancel() or future.exception()
        self._filling.clear()
        if self._reader is not None:
            self._reader.forget()

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
        shares = [slice(*bound) for bound in pairwise(bounds) if bound[0] < bound[1]]
        self._filling.append((plan, slot, [self._pool.submit(slot.fill, plan, share) for share in shares]))
