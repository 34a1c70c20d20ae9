"""Where a store's shards lie, and their bytes in memory: mapped files, or ranged reads from an object store.

Both give addresses, which is what `kernels` takes: a mapped file needs no read and no copy, and a range that came
over the network is used where the client put it. Leaves which ranges to read to `chunks`.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np

from preprocess import schema
from preprocess.schema import Store
from preprocess.shard import DamagedChunkError

REQUESTS = 32  # ranged reads under way at once: an object store answers each in tens of milliseconds


class Span(NamedTuple):
    """Ranges in memory: `addresses` (N,) int64 of their first bytes, valid while `owner` lives."""

    addresses: np.ndarray
    owner: Any


class Shards(Protocol):
    """The bytes of all shards of one store. Safe to use from many threads."""

    def name(self, shard: int) -> str:
        """For errors."""

    def tail(self, shard: int, count: int) -> tuple[bytes, int]:
        """The last `count` bytes of a shard (or all, if it has fewer), and its size."""

    def fetch(self, shards: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> Span:
        """Bytes starts[i] to ends[i] of shards[i], all (N,) int64."""


class LocalShards:
    """Files, mapped when first used. The page cache is the only cache."""

    def __init__(self, store: Store) -> None:
        count = store.layout.num_shards(store.num_tiles)
        self._paths = [schema.shard_path(store.local_path, shard) for shard in range(count)]
        self._maps: list[np.ndarray | None] = [None] * count
        self._addresses = np.zeros(count, np.int64)
        self._lock = Lock()

    def name(self, shard: int) -> str:
        """The file."""
        return str(self._paths[shard])

    def tail(self, shard: int, count: int) -> tuple[bytes, int]:
        """Read the end of the file."""
        try:
            with open(self._paths[shard], "rb") as file:
                end = file.seek(0, 2)
                file.seek(max(0, end - count))
                return file.read(), end
        except OSError as error:
            raise DamagedChunkError(f"{self.name(shard)}: the shard cannot be read ({error.strerror}).") from error

    def fetch(self, shards: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> Span:
        """Nothing is read here: pages come when they are touched."""
        del ends
        new = shards[self._addresses[shards] == 0]
        if len(new):
            self._map(np.unique(new).tolist())
        return Span(self._addresses[shards] + starts, self._maps)

    def _map(self, shards: list[int]) -> None:
        with self._lock:  # a file mapped twice would free the first mapping, which another thread reads
            for shard in shards:
                if self._maps[shard] is None:
                    mapped = self._maps[shard] = np.memmap(self._paths[shard], np.uint8, mode="r")
                    self._addresses[shard] = mapped.ctypes.data


class RemoteShards:
    """Objects in an object store (S3, Google, Azure, HTTP), by ranged reads, many at once."""

    def __init__(self, store: Store) -> None:
        from preprocess.remote import open_remote

        self._url, self._objects = str(store.path), open_remote(str(store.path))
        self._pool = ThreadPoolExecutor(REQUESTS, thread_name_prefix="canopy-fetch")

    def name(self, shard: int) -> str:
        """The object's URL."""
        return f"{self._url}/{schema.shard_key(shard)}"

    def tail(self, shard: int, count: int) -> tuple[bytes, int]:
        """One ranged read of the end."""
        key = schema.shard_key(shard)
        with self._errors(shard):
            end = int(self._objects.head(key)["size"])
            return bytes(self._objects.get_range(key, start=max(0, end - count), end=end)), end

    def fetch(self, shards: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> Span:
        """One request a range."""
        asked = zip(shards.tolist(), starts.tolist(), ends.tolist(), strict=True)
        buffers: Sequence[np.ndarray] = list(self._pool.map(self._get, asked))
        return Span(np.array([buffer.ctypes.data for buffer in buffers], np.int64), buffers)

    def _get(self, asked: tuple[int, int, int]) -> np.ndarray:
        shard, start, end = asked
        with self._errors(shard):
            found = self._objects.get_range(schema.shard_key(shard), start=start, end=end)
        buffer = np.frombuffer(found, np.uint8)
        if len(buffer) != end - start:
            raise DamagedChunkError(f"{self.name(shard)}: expected bytes {start} to {end}, found {len(buffer)}.")
        return buffer

    def _errors(self, shard: int) -> Any:
        from preprocess.remote import remote_errors

        return remote_errors(self.name(shard))


def open_shards(store: Store) -> Shards:
    """Files or objects, by what the store's path is."""
    return RemoteShards(store) if store.is_remote else LocalShards(store)
