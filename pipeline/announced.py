"""Reads that were announced and not taken yet: what belongs to each range, in the order of the announcements.

Many threads can share it. Leaves the reads to `disk_reads` and `remote_shards`.
"""

import threading
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

Range = TypeVar("Range", bound=Hashable)
Read = TypeVar("Read")


class Announced(Generic[Range, Read]):
    """A range may be announced several times; each announcement is taken once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reads: dict[Range, list[Read]] = {}

    def __len__(self) -> int:
        """Number of ranges that are announced."""
        return len(self._reads)

    def add(self, pairs: Iterable[tuple[Range, Read]]) -> None:
        """Announce ranges with their reads."""
        with self._lock:
            for key, read in pairs:
                self._reads.setdefault(key, []).append(read)

    def take(self, keys: Iterable[Range]) -> list[Read | None]:
        """The newest read of each range, which is no longer announced afterwards; None without one."""
        with self._lock:
            return [self._pop(key) for key in keys]

    def clear(self) -> list[Read]:
        """All reads, which are no longer announced afterwards."""
        with self._lock:
            reads, self._reads = self._reads, {}
        return [read for several in reads.values() for read in several]

    def _pop(self, key: Range) -> Read | None:
        reads = self._reads.get(key)
        if reads is None:
            return None
        if len(reads) == 1:
            del self._reads[key]
        return reads.pop()
