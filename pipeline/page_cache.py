"""Ask the OS to read ranges of mapped files ahead of their use, and stop asking while they lie in the page cache.

In: addresses of ranges. Out: nothing; the disk reads. Without it a thread waits for each page fault: with an empty page
cache, two threads loaded 1,371 chips/s, sixteen 4,738, and two with read-ahead 5,735 (256 x 256 x 4, LZ4).

Asking costs about 0.5 us for a system call and 0.06 us per page: for cached chips of 256 x 256 x 4 that is 3 to 7 % of
the time that the loader needs for them, for chips of 32 x 32 x 3 10 %. So `Evidence` watches whether this process reads
from a disk at all. Leaves the order of the chips to `announcements`.
"""

import mmap
import resource
from typing import Any

import numba
import numpy as np
from numba import types

from pipeline.c_functions import external, libc_address

_PAGE = mmap.PAGESIZE
# Announcements in a row without a read from the disk, after which only one in `SAMPLE` is made. They are made by
# another thread, so that a few may wait there and have not read yet.
_QUIET, SAMPLE = 4, 16
_UNCOUNTED = -64  # in place of 0 on a file system that does not count blocks: only unannounced chips show there

_madvise: Any = external("canopy_madvise", libc_address("madvise"), types.int32(types.uintp, types.uintp, types.int32))


@numba.njit(nogil=True, cache=True)
def _advise(starts: np.ndarray, sizes: np.ndarray, advice: int) -> None:
    """An error is no error here: a page that cannot be read is noticed when it is used."""
    for row in range(len(starts)):
        _madvise(np.uintp(starts[row]), np.uintp(sizes[row]), np.int32(advice))


def will_need(addresses: np.ndarray, sizes: np.ndarray) -> None:
    """Start to read mapped bytes, (N,) int64 each. Waits only while the disk's queue is full."""
    starts = addresses // _PAGE * _PAGE
    _advise(starts, addresses + sizes - starts, mmap.MADV_WILLNEED)


class Evidence:
    """Whether announcements are worth their cost: whether this process reads from its disks.

    The OS counts blocks that were read (also those that `will_need` asked for) and page faults that had to wait. If
    neither number moves during some announcements, all chips are cached. Then one announcement in 16 is made, until a
    number moves.
    """

    def __init__(self) -> None:
        self._quiet, self._count = _QUIET - 1, 0
        self._before = disk_reads()

    def reset(self) -> None:
        """The next announcement is made."""
        self._quiet = min(self._quiet, _QUIET - 1)

    def says_read(self) -> bool:
        """Whether to make an announcement. Call once for each."""
        (blocks, waits), before = disk_reads(), self._before
        self._before = blocks, waits
        self._count += 1
        if blocks != before[0]:
            self._quiet = 0
        elif waits != before[1]:
            self._quiet = _UNCOUNTED
        else:
            self._quiet += 1
        return self._quiet <= _QUIET or self._count % SAMPLE == 0


def disk_reads() -> tuple[int, int]:
    """Blocks that this process has read from disks, and page faults that waited for one."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_inblock, usage.ru_majflt
