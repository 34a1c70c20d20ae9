"""The bytes of a store's shards in object storage: ranged reads, many at the same time and ahead of their use.

In: shard numbers and byte ranges. Out: addresses for the compiled kernels, in the client's buffers. Loaded for
addresses only. Leaves requests and their repeats to `preprocess.remote`.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeAlias

import numpy as np

from pipeline.announced import Announced
from pipeline.ranges import merge
from pipeline.shards import Span
from preprocess import zarr_store
from preprocess.remote import Objects
from preprocess.shard import DamagedChunkError
from preprocess.zarr_store import Store

REQUESTS = 64  # ranged reads at the same time: an object store takes tens of milliseconds for each
# Bytes between two ranges that are read with them, because a request costs more than they do. So the chips that are
# announced (`announcements.AHEAD_CHIPS`) take at most 128 MiB more than their own bytes.
REMOTE_GAP = 32 << 10

ByteRange: TypeAlias = tuple[int, int, int]  # shard, start, end


class _Piece(NamedTuple):
    """Bytes of an object from `start` on, as they arrive."""

    start: int
    data: Future[np.ndarray]


class RemoteShards:
    """Objects in an object store (S3, Google, Azure, HTTP): many ranged reads at the same time.

    Ranges that were announced are read ahead, merged where they nearly touch. `fetch` takes them; it reads what was not
    announced.
    """

    def __init__(self, store: Store) -> None:
        self._objects = Objects(str(store.path))
        self._pool = ThreadPoolExecutor(REQUESTS, thread_name_prefix="canopy-fetch")
        self._announced = Announced[ByteRange, _Piece]()

    def name(self, shard: int) -> str:
        """The object's URL."""
        return self._objects.name(zarr_store.shard_key(shard))

    def tails(self, count: int, shards: range) -> Iterator[tuple[bytes, int]]:
        """Read the end of each object: one request per shard, many at the same time."""
        keys = (zarr_store.shard_key(shard) for shard in shards)
        return self._objects.read_tails(keys, count)

    def fetch(self, shards: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> Span:
        """One request per piece; equal ranges share it."""
        ranges = [*zip(shards.tolist(), starts.tolist(), ends.tolist(), strict=True)]
        pieces: dict[ByteRange, _Piece] = {}
        for one, taken in zip(ranges, self._announced.take(ranges), strict=True):
            if taken is not None or one not in pieces:
                pieces[one] = taken or _Piece(one[1], self._pool.submit(self._get, one))
        buffers = {one: piece.data.result() for one, piece in pieces.items()}
        addresses = [buffers[one].ctypes.data + one[1] - pieces[one].start for one in ranges]
        return Span(np.array(addresses, np.int64), buffers)

    def divide(self, sizes: np.ndarray, page_cache: int | None) -> None:
        """Nothing is kept."""

    def reads_ahead(self) -> bool:
        """Always: nothing is kept."""
        return True

    def announce(self, shards: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
        """Request the pieces. Each is released when all its ranges have been fetched."""
        merged = merge(shards, starts, ends, REMOTE_GAP)
        pieces = [
            _Piece(one[1], self._pool.submit(self._get, one))
            for one in zip(merged.shards.tolist(), merged.starts.tolist(), merged.ends.tolist(), strict=True)
        ]
        ranges = zip(shards.tolist(), starts.tolist(), ends.tolist(), strict=True)
        self._announced.add(zip(ranges, (pieces[piece] for piece in merged.piece_of.tolist()), strict=True))

    def forget(self) -> None:
        """Cancel requests that were not sent yet."""
        for piece in self._announced.clear():
            piece.data.cancel()

    def _get(self, byte_range: ByteRange) -> np.ndarray:
        shard, start, end = byte_range
        buffer = np.frombuffer(self._objects.read_range(zarr_store.shard_key(shard), start, end), np.uint8)
        if len(buffer) != end - start:
            raise DamagedChunkError(f"{self.name(shard)}: expected bytes {start} to {end}, found {len(buffer)}.")
        return buffer
