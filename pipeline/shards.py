"""The bytes of a store's shards in memory: mapped files, or ranged reads from an object store.

In: shard numbers and byte ranges. Out: addresses for the compiled kernels. A mapped file needs no read and no copy, and
a range from the network is used in the client's buffer. Leaves which ranges to read to `chunks`.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from pipeline.mapped_files import FileIdentity, MappedFile, identity, map_file
from preprocess import zarr_store
from preprocess.files import FILE_FAULTS, named_errors, open_regular
from preprocess.shard import DamagedChunkError
from preprocess.zarr_store import Store

REQUESTS = 32  # ranged reads at the same time: an object store takes tens of milliseconds for each


class Span(NamedTuple):
    """Ranges in memory: `addresses` (N,) int64 of their first bytes, valid while `owner` lives."""

    addresses: np.ndarray
    owner: Any


class Shards(Protocol):
    """The bytes of all shards of one store. Many threads can share it."""

    def name(self, shard: int) -> str:
        """The file or address of a shard, for errors."""

    def tails(self, count: int) -> Iterator[tuple[bytes, int]]:
        """Of every shard, in order: its last `count` bytes (all, if it has fewer), and its size."""

    def fetch(self, shards: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> Span:
        """Bytes starts[i] to ends[i] of shards[i], all (N,) int64."""


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

    def name(self, shard: int) -> str:
        """The file."""
        return str(zarr_store.shard_path(self._root, shard))

    def tails(self, count: int) -> Iterator[tuple[bytes, int]]:
        """Read the end of each file, and record the file's identity."""
        for shard in range(len(self._identities)):
            with self._opened(shard) as file:
                self._identities[shard] = identity(file.fileno())
                end = file.seek(0, 2)
                file.seek(max(0, end - count))
                yield file.read(), end

    def fetch(self, shards: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> Span:
        """Mapped files are not read here: the OS reads a page when it is touched."""
        addresses = self._addresses[shards]
        if np.count_nonzero(addresses) == len(addresses):
            return Span(addresses + starts, self._maps)
        for shard in np.unique(shards[(addresses == 0) & ~self._cannot_map[shards]]).tolist():
            self._map(shard)
        addresses = self._addresses[shards]
        if np.count_nonzero(addresses) == len(addresses):
            return Span(addresses + starts, self._maps)
        return self._read(addresses, shards, starts, ends)

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


class RemoteShards:
    """Objects in an object store (S3, Google, Azure, HTTP): many ranged reads at the same time."""

    def __init__(self, store: Store) -> None:
        from preprocess.remote import Objects

        self._objects = Objects(str(store.path))
        self._count = store.layout.num_shards(store.num_chips)
        self._pool = ThreadPoolExecutor(REQUESTS, thread_name_prefix="canopy-fetch")

    def name(self, shard: int) -> str:
        """The object's URL."""
        return self._objects.name(zarr_store.shard_key(shard))

    def tails(self, count: int) -> Iterator[tuple[bytes, int]]:
        """Read the end of each object: one request per shard, many at the same time."""
        keys = (zarr_store.shard_key(shard) for shard in range(self._count))
        return self._objects.read_tails(keys, count)

    def fetch(self, shards: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> Span:
        """One request per range."""
        ranges = zip(shards.tolist(), starts.tolist(), ends.tolist(), strict=True)
        buffers: Sequence[np.ndarray] = list(self._pool.map(self._get, ranges))
        return Span(np.array([buffer.ctypes.data for buffer in buffers], np.int64), buffers)

    def _get(self, byte_range: tuple[int, int, int]) -> np.ndarray:
        shard, start, end = byte_range
        buffer = np.frombuffer(self._objects.read_range(zarr_store.shard_key(shard), start, end), np.uint8)
        if len(buffer) != end - start:
            raise DamagedChunkError(f"{self.name(shard)}: expected bytes {start} to {end}, found {len(buffer)}.")
        return buffer


def open_shards(store: Store) -> Shards:
    """Files or objects, depending on the store's path."""
    return RemoteShards(store) if store.is_remote else LocalShards(store)
