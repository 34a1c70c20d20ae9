"""Read-ahead by the plan: a reader learns which chips come next, so that its disk or object store works ahead.

In: the plans of an epoch. Out: the same plans in the same order; before a plan is given out, its chips were announced
to the reader. Leaves to `shards` what a reader does with that: the images do not depend on it.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np

from pipeline.plans import BatchPlan

# Announced, but not given out yet. 128 MiB is 350 chips of 256 x 256 x 4 with LZ4, 60 ms at 5,900 chips/s.
AHEAD_BYTES, AHEAD_CHIPS = 128 << 20, 4096
_CALLS = 4  # announcements for that many chips: fewer and larger ones cost less, but they come later


class Announced(Protocol):
    """A reader of chips that can work ahead. bytes_per_chip: that it reads, on average."""

    bytes_per_chip: float

    def announce(self, chips: np.ndarray) -> None:
        """Chips (N,) int64 that will be read soon, in this order, once each. Returns without waiting for them."""

    def forget(self) -> None:
        """Chips that were announced and not read yet will not be read. No thread reads any more."""


def watch(plans: Iterable[BatchPlan], reader: Announced) -> Iterator[BatchPlan]:
    """The plans. Before the first is given out, the chips of the next plans are announced, up to `AHEAD_BYTES`."""
    ahead = max(1, min(AHEAD_CHIPS, int(AHEAD_BYTES / max(reader.bytes_per_chip, 1))))
    plans, queue, batches = iter(plans), deque[BatchPlan](), list[np.ndarray]()
    queued = waiting = 0
    while True:
        # At least one plan more than the one that is given out, however large the chips are.
        while queued < ahead or len(queue) < 2:
            plan = next(plans, None)
            if plan is not None:
                queue.append(plan)
                batches.append(plan.chips)
                queued, waiting = queued + len(plan.chips), waiting + len(plan.chips)
            if batches and (plan is None or waiting * _CALLS >= ahead):
                reader.announce(np.concatenate(batches))
                batches, waiting = [], 0
            if plan is None:
                break
        if not queue:
            return
        plan = queue.popleft()
        queued -= len(plan.chips)
        yield plan
