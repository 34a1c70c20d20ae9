"""Read ranges of files past the page cache (O_DIRECT), ahead of their use, into memory that is used again and again.

In: ranges that will be used soon. Out: addresses for the compiled kernels. For a store that is larger than memory the
page cache only costs: its pages are dropped before they are used again. A GB through it takes 0.37 s of CPU (pages are
allocated, copied or mapped, and dropped), past it 0.09 s, and 0.04 s into huge pages (docs/log.md).

Leaves to `shards` which files are read in this way, and what to do with a range that cannot be read.
"""

import errno
import mmap
import os
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numba
import numpy as np
from numba import types

from pipeline.announced import Announced
from pipeline.c_functions import external, libc_address
from pipeline.ranges import SHARD_BITS, merge

READERS = 8  # threads: one gave 0.5 GB/s, four 1.1, eight 1.5, sixteen no more
GAP = 32 << 10  # bytes between two ranges that are read with them, because a request costs more than they do
_UNIT = 1 << 20  # the largest read: several threads share what lies in one piece
_ALIGNED = 4096  # O_DIRECT: places in the file, sizes and addresses are multiples of the disk's blocks
_HUGE = 2 << 20

_pread: Any = external(
    "canopy_pread", libc_address("pread"), types.intp(types.int32, types.uintp, types.uintp, types.int64)
)  # fmt: skip


@numba.njit(nogil=True, cache=True)
def _read_rows(descriptor: int, rows: np.ndarray, read: np.ndarray) -> None:
    """rows: (N, 4) int64, place in the file, size, bytes that must arrive, address. Writes `read` (N,) bool."""
    for row in range(len(rows)):
        start, size, least, address = rows[row]
        read[row] = _pread(np.int32(descriptor), np.uintp(address), np.uintp(size), np.int64(start)) >= least


def supported(path: str) -> bool:
    """Whether a file can be read with O_DIRECT. True for a file that cannot be read at all."""
    try:
        descriptor = open_file(path)
        try:
            with mmap.mmap(-1, _ALIGNED) as page:
                os.preadv(descriptor, [page], 0)
        finally:
            os.close(descriptor)
    except AttributeError:  # the system has no O_DIRECT
        return False
    except OSError as error:
        return error.errno not in (errno.EINVAL, errno.EOPNOTSUPP)
    return True


def open_file(path: str) -> int:
    """A descriptor with O_DIRECT."""
    return os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_NONBLOCK)  # what has become a pipe must not block


class _Block:
    """What one announcement reads. Its memory is used again when neither a range nor a batch needs the block.

    addresses: of the ranges. first_rows: the first row of each piece. piece_of: the piece that contains each range.
    """

    def __init__(self, memory: np.ndarray, addresses: np.ndarray, first_rows: np.ndarray, piece_of: np.ndarray) -> None:
        self.memory, self._addresses, self._first_rows, self._piece_of = memory, addresses, first_rows, piece_of
        self.read, self.futures = np.zeros(0, bool), list[Future[None]]()

    def wait(self) -> list[int]:
        """The addresses when everything is read; -1 for a range that could not be read."""
        for future in self.futures:
            future.result()
        whole = np.logical_and.reduceat(self.read, self._first_rows)
        addresses: list[int] = np.where(whole[self._piece_of], self._addresses, -1).tolist()
        return addresses


class DiskReads:
    """Reads what was announced. `open_shard`: opens one with O_DIRECT; None if it cannot. Many threads can share it.

    A range that cannot be read is no error here: it has no address, and the caller reads it in another way.
    """

    def __init__(self, open_shard: Callable[[int], int | None]) -> None:
        self._open = open_shard
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="canopy-disk")
        self._announced = Announced[int, tuple[_Block, int]]()
        self._futures: list[Future[None]] = []
        self._free: list[mmap.mmap] = []

    def announce(self, shards: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
        """Start to read ranges, (N,) int64 each, N >= 1."""
        merged = merge(shards, starts, ends, GAP)
        first, last = merged.starts // _ALIGNED * _ALIGNED, -(-merged.ends // _ALIGNED) * _ALIGNED
        places = np.cumsum(last - first) - (last - first)
        memory = self._memory(int((last - first).sum()))
        at, of = memory.ctypes.data + places, merged.piece_of
        counts = -(-(last - first) // _UNIT)
        block = _Block(memory, at[of] + starts - first[of], np.cumsum(counts) - counts, of)
        piece = np.repeat(np.arange(len(first)), counts)
        inside = (np.arange(len(piece)) - np.repeat(np.cumsum(counts) - counts, counts)) * _UNIT
        start = first[piece] + inside
        size = np.minimum(_UNIT, last[piece] - start)
        least = np.minimum(size, merged.ends[piece] - start)  # a file may end before the multiple
        rows = np.stack([start, size, least, at[piece] + inside], axis=1)
        block.read = np.zeros(len(rows), bool)
        order = np.lexsort((start, merged.shards[piece]))  # a file is opened once for all of its rows
        shares = [share for share in np.array_split(order, READERS) if len(share)]
        block.futures = [self._pool.submit(self._read, block, merged.shards[piece], rows, share) for share in shares]
        self._futures = [one for one in self._futures if not one.done()] + block.futures
        keys = ((shards << SHARD_BITS) + starts).tolist()
        self._announced.add((key, (block, row)) for row, key in enumerate(keys))

    def take(self, shards: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, list[_Block]]:
        """Addresses (N,) int64 of ranges, and the blocks that own them. 0: the range was not announced. -1: it could
        not be read. The ranges are no longer announced afterwards."""
        keys = ((shards << SHARD_BITS) + starts).tolist()
        taken = self._announced.take(keys)
        blocks = {id(one[0]): one[0] for one in taken if one is not None}
        addresses = {key: block.wait() for key, block in blocks.items()}
        found = [0 if one is None else addresses[id(one[0])][one[1]] for one in taken]
        return np.array(found, np.int64), [*blocks.values()]

    def forget(self) -> None:
        """Ranges that were announced and not taken yet will not be taken. No thread reads any more."""
        self._announced.clear()
        for future in self._futures:
            future.cancel() or future.exception()
        self._futures = []

    def _read(self, block: _Block, shards: np.ndarray, rows: np.ndarray, share: np.ndarray) -> None:
        """Read a share of the rows, in the order of their shards."""
        bounds = np.flatnonzero(np.diff(shards[share], prepend=-1, append=-1)).tolist()
        for begin, end in pairwise(bounds):
            same = share[begin:end]
            descriptor = self._open(int(shards[same[0]]))
            if descriptor is None:
                continue
            try:
                arrived = np.zeros(len(same), bool)
                _read_rows(descriptor, rows[same], arrived)
                block.read[same] = arrived
            finally:
                os.close(descriptor)

    def _memory(self, size: int) -> np.ndarray:
        """At least `size` bytes of whole pages, in huge pages where the system has them."""
        area = next((one for one in self._free if len(one) >= size), None)
        if area is None:
            if self._free:
                self._free.pop()  # too small: it gives place to a larger one
            area = mmap.mmap(-1, -(-size // _HUGE) * _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            with suppress(OSError, AttributeError):
                area.madvise(mmap.MADV_HUGEPAGE)
        else:
            self._free.remove(area)
        memory = np.frombuffer(area, np.uint8)
        weakref.finalize(memory, self._free.append, area).atexit = False
        return memory
