"""NAME.partial, where a conversion builds its store: a folder or a bucket.

In: the place of the store. Out: a `Partial`. Leaves folders to `partial_store` and buckets to `partial_bucket`, which
is loaded for addresses only.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from preprocess.addresses import Location
from preprocess.partial_store import PartialFolder
from preprocess.plan import Plan
from preprocess.plan_file import WorkPlan


class Partial(Protocol):
    """NAME.partial (`root`) of a store: the plan, the progress, and how the store is completed."""

    @property
    def store(self) -> Location:
        """The place of the store."""

    @property
    def root(self) -> Location:
        """NAME.partial."""

    def is_complete(self) -> bool:
        """Whether the store is complete."""

    def held(self, *, alone: bool) -> AbstractContextManager[None]:
        """Keep other conversions away, or with `alone` false only those that are no shares; in a bucket nobody."""

    def prepare(self, plan: Plan, *, alone: bool, others: bool) -> WorkPlan:
        """Start the store, or check that what is there can be resumed."""

    def progress(self, shards: range) -> Iterator[tuple[bytes | None, int]]:
        """Of each shard its progress file (None: not done) and its size."""

    def num_done(self) -> int:
        """Shards with a progress file."""

    def flush(self, shard: int) -> None:
        """Make a shard durable."""

    def complete(self, plan: Plan, arrays: dict[str, Any], source: dict[str, Any]) -> None:
        """Write the small arrays, complete the store, and remove NAME.partial."""

    def remove(self) -> None:
        """Remove NAME.partial."""


def partial_of(store: Location) -> Partial:
    """NAME.partial of a store."""
    if isinstance(store, Path):
        return PartialFolder(store)
    from preprocess.partial_bucket import PartialBucket

    return PartialBucket(store)
