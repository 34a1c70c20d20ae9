"""The bytes of a store's shards in memory: mapped files, or objects (`remote_shards`).

In: shard numbers and byte ranges. Out: addresses for the compiled kernels. A mapped file needs no read and no copy.
Where a store does not fit into memory, the page cache keeps its first shards, and the others are read past it.
Leaves which ranges to read to `chunks`, reading ahead to `page_cache`, and reading past it to `disk_reads`.
"""

import errno
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from pipeline.disk_reads import DiskReads, open_file, supported
from pipeline.host_memory import free_host_bytes
from pipeline.mapped_files import FileIdentity, MappedFile, identity, map_file
from pipeline.page_cache import Evidence, will_need
from pipeline.ranges import merge
from preprocess import zarr_store
from preprocess.console import say_once
from preprocess.files import FILE_FAULTS, named_errors, open_regular
from preprocess.shard import DamagedChunkError
from preprocess.zarr_store import Store

# Bytes between two ranges that are read with them, because a request costs more than they do: what Linux reads around a
# page fault by default.
DISK_GAP = 128 << 10
# Of the free memory, for pages of the store. If all of a larger store went through the page cache, a shuffled epoch
# would find few of them: 48 % of a store of 1.25 times that memory, 15 % of one of twice that memory.
PAGE_CACHE_SHARE = 0.75


class Span(NamedTuple):
    """Ranges in memory: `addresses` (N,) int64 of their first bytes, valid while `owner` lives."""

    addresses: np.ndarray
    owner: Any


class Shards(Protocol):
    """The bytes of all shards of one store. Many threads can share it."""

    def name(self, shard: int) -> str:
        """The file or address of a shard, for errors."""

    def tails(self, count: int, shards: range) -> Iterator[tuple[bytes, int]]:
        """Of every one of `shards`, in order: its last `count` bytes (all, if it has fewer), and its size."""

    def fetch(self, shards: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> Span:
        """Bytes starts[i] to ends[i] of shards[i], all (N,) int64."""

    def divide(self, sizes: np.ndarray, page_cache: int | None) -> None:
        """Decide where shards are kept that have `sizes` bytes to read, (shards,) int64. `page_cache`: bytes for them
        in the page cache; None: a share of the free memory."""

    def reads_ahead(self) -> bool:
        """Whether the next call of `announce` is worth its cost. Ask once before each."""

    def announce(self, shards: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
        """Ranges that will be fetched soon, in this order, once each: start to read them."""

    def forget(self) -> None:
        """Ranges that were announced and not fetched yet will not be fetched."""


class LocalShards:
    """Files, mapped when they are first used. The page cache is the only cache, and no file stays open.

    All loaders of a process share one map per file. Beyond `mapped_files.MAX_MAPS` maps, a file is opened and read for
    each batch. A file must not change after `tails` has read its index: a replaced, cut or changed file is refused.
    """

    def __init__(self, store: Store) -> None:
        count = store.layout.num_shards(store.num_chips)
        self._root = store.local_path
        self._identities: list[FileIdentity | None] = [None] * count
        self._maps: list[MappedFile | None] = [None] * count
        self._addresses = np.zeros(count, np.int64)  # 0: not mapped
        self._cannot_map = np.zeros(count, bool)
        self._evidence, self._is_first = Evidence(), True
        self._announcing = ThreadPoolExecutor(1, thread_name_prefix="canopy-ahead")
        self._announced: list[Future[None]] = []
        self._past: DiskReads | None = None
        self._is_past = np.zeros(count, bool)  # read past the page cache

    def name(self, shard: int) -> str:
        """The file."""
        return str(zarr_store.shard_path(self._root, shard))

    def tails(self, count: int, shards: range) -> Iterator[tuple[bytes, int]]:
        """Read the end of each file, and record the file's identity."""
        for shard in shards:
            with self._opened(shard) as file:
                self._identities[shard] = identity(file.fileno())
                end = file.seek(0, 2)
                file.seek(max(0, end - count))
                yield file.read(), end

    def divide(self, sizes: np.ndarray, page_cache: int | None) -> None:
        """Read shards past the page cache once those before them fill it. A file system without O_DIRECT is told."""
        kept = int(PAGE_CACHE_SHARE * free_host_bytes()) if page_cache is None else page_cache
        is_past = (np.cumsum(sizes) > kept) & (sizes > 0)
        if not is_past.any():
            return
        if supported(self.name(int(np.argmax(is_past)))):
            self._past, self._is_past = DiskReads(self._open_past), is_past
        else:
            say_once(
                f"{self._root}: the store is larger than the free memory, and its file system cannot read past the "
                "page cache (O_DIRECT). Chips are read through it, which costs more CPU time."
            )

    def fetch(self, shards: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> Span:
        """Mapped files are not read here: the OS reads a page when it is touched."""
        if self._past is None:
            return self._fetch_cached(shards, starts, ends)
        addresses, owner = self._past.take(shards, starts)
        rest = np.flatnonzero(addresses <= 0)
        if not len(rest):
            return Span(addresses, owner)
        # What the disk could not read is read again without a map, where an error is an exception and not a signal.
        cached = self._fetch_cached(shards[rest], starts[rest], ends[rest], addresses[rest] < 0)
        addresses[rest] = cached.addresses
        return Span(addresses, (owner, cached.owner))

    def _fetch_cached(
        self, shards: np.ndarray, starts: np.ndarray, ends: np.ndarray, unmapped: np.ndarray | None = None
    ) -> Span:  # fmt: skip
        addresses = self._addresses[shards]
        if np.count_nonzero(addresses) != len(addresses):
            for shard in np.unique(shards[(addresses == 0) & ~self._cannot_map[shards]]).tolist():
                self._map(shard)
            addresses = self._addresses[shards]
        if unmapped is not None:
            addresses[unmapped] = 0
        if np.count_nonzero(addresses) == len(addresses):
            return Span(addresses + starts, self._maps)
        return self._read(addresses, shards, starts, ends)

    def reads_ahead(self) -> bool:
        """False while everything lies in the page cache."""
        return self._past is not None or self._evidence.says_read()

    def announce(self, shards: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
        """Another thread asks the OS, which blocks while the disk's queue is full. The first announcement after
        `forget` is waited for: it shows whether others are worth their cost."""
        if self._past is not None:
            past = self._is_past[shards]
            if past.any():
                self._past.announce(shards[past], starts[past], ends[past])
            shards, starts, ends = shards[~past], starts[~past], ends[~past]
            if not len(shards):
                return
        asked = self._announcing.submit(self._will_need, shards, starts, ends)
        if self._is_first:
            self._is_first = False
            asked.result()
        self._announced = [*(one for one in self._announced if not one.done()), asked]

    def forget(self) -> None:
        """What the OS already reads stays in the page cache."""
        for asked in self._announced:
            asked.cancel() or asked.exception()
        self._announced, self._is_first = [], True
        self._evidence.reset()
        if self._past is not None:
            self._past.forget()

    def _will_need(self, shards: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
        """A file that is missing or has changed is an error where it is read, not here."""
        shards, starts, ends, _ = merge(shards, starts, ends, DISK_GAP)
        with suppress(OSError, DamagedChunkError):
            for shard in np.unique(shards[(self._addresses[shards] == 0) & ~self._cannot_map[shards]]).tolist():
                self._map(shard)
            addresses = self._addresses[shards]
            will_need((addresses + starts)[addresses != 0], (ends - starts)[addresses != 0])
            for row in np.flatnonzero(addresses == 0).tolist():
                with self._opened(int(shards[row])) as file:
                    start, end = int(starts[row]), int(ends[row])
                    os.posix_fadvise(file.fileno(), start, end - start, os.POSIX_FADV_WILLNEED)

    def _open_past(self, shard: int) -> int | None:
        """A descriptor with O_DIRECT; None for a file that is missing or has changed: `_opened` gives the reason."""
        try:
            descriptor = open_file(self.name(shard))
        except OSError:
            return None
        if identity(descriptor) == self._identities[shard]:
            return descriptor
        os.close(descriptor)
        return None

    def _map(self, shard: int) -> None:
        with self._opened(shard) as file:
            mapped = map_file(file.fileno())
        if mapped is None:
            self._cannot_map[shard] = True
        else:  # if two threads come here for one shard, both have the same map
            self._maps[shard] = mapped
            self._addresses[shard] = mapped.address

    def _read(self, addresses: np.ndarray, shards: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> Span:
        """Ranges of files, some of them mapped (`addresses` of their first bytes) and some not (0)."""
        sizes = np.where(addresses == 0, ends - starts, 0)
        buffer = np.empty(int(sizes.sum()), np.uint8)
        places = np.cumsum(sizes) - sizes
        spans = np.where(addresses == 0, buffer.ctypes.data + places, addresses + starts)
        unmapped = np.flatnonzero(addresses == 0)
        for shard in np.unique(shards[unmapped]).tolist():
            with self._opened(shard) as file:
                for row in unmapped[shards[unmapped] == shard].tolist():
                    start, end, place = int(starts[row]), int(ends[row]), int(places[row])
                    count = os.preadv(file.fileno(), [buffer[place : place + end - start].data], start)
                    if count != end - start:
                        raise DamagedChunkError(f"{self.name(shard)}: expected bytes {start} to {end}, found {count}.")
        return Span(spans, (self._maps, buffer))

    @contextmanager
    def _opened(self, shard: int) -> Iterator[BinaryIO]:
        """The file, open, if it is still the one whose index was read.

        Raises:
            DamagedChunkError: it is missing, is not a regular file, or has changed.
            OSError: the system cannot read it; names the file.
        """
        name = self.name(shard)
        try:
            with named_errors(name), open_regular(name) as file:
                before = self._identities[shard]
                if before is not None and identity(file.fileno()) != before:
                    raise DamagedChunkError(
                        f"{name}: the shard has changed since it was opened. Start the command again."
                    )
                yield file
        except OSError as error:
            if error.errno in FILE_FAULTS and error.errno != errno.EIO:  # a failing disk has its own message
                raise DamagedChunkError(f"{name}: the shard cannot be read ({error.strerror}).") from error
            raise


def open_shards(store: Store) -> Shards:
    """Files or objects, depending on the store's path."""
    if store.is_remote:
        from pipeline.remote_shards import RemoteShards

        return RemoteShards(store)
    return LocalShards(store)
