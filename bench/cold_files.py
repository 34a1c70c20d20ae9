"""Drop files from the page cache, see how much of them lies there, and read them from the disk as fast as it can.

In: a folder or a file. Out: shares and rates. The disk is read past the page cache (O_DIRECT) and through it; the
faster way counts. Only these files are dropped: `/proc/sys/vm/drop_caches` would slow every
other program of the machine.
"""

import ctypes
import itertools
import mmap
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np

from preprocess.console import UserError

MOST_CACHED = 0.02  # of the pages of the files, after they were dropped
_DROPS = 14  # 9 s in all: on a busy machine pages stay longer
_THREADS, _HUGE = 8, 2 << 20
_SIZES = (1 << 20, 4 << 20)  # of one read


def files(path: Path) -> list[Path]:
    """The regular files of a folder, or the file."""
    return [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())


def drop(path: Path) -> None:
    """Drop all pages that no process has mapped."""
    for file in files(path):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # pages that must still be written cannot be dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def cached_share(path: Path) -> float:
    """Share of the pages that lie in the page cache (mincore)."""
    libc = ctypes.CDLL(None, use_errno=True)
    cached = pages = 0
    for file in files(path):
        if not (size := file.stat().st_size):
            continue
        count = -(-size // mmap.PAGESIZE)
        state = np.zeros(count, np.uint8)
        with open(file, "rb") as opened, mmap.mmap(opened.fileno(), size, access=mmap.ACCESS_READ) as mapped:
            view = np.frombuffer(mapped, np.uint8)
            arguments = (ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(size), ctypes.c_void_p(state.ctypes.data))
            if libc.mincore(*arguments):
                raise OSError(ctypes.get_errno(), "mincore")
            del view
        cached, pages = cached + int(np.count_nonzero(state & 1)), pages + count
    return cached / max(pages, 1)


def dropped(path: Path) -> float:
    """Drop the files from the page cache; returns the share that is left.

    Raises:
        UserError: more than `MOST_CACHED` is left.
    """
    for attempt in range(_DROPS):
        drop(path)
        share = cached_share(path)
        if share <= MOST_CACHED:
            break
        time.sleep(0.1 * attempt)  # a page that a core has just read or written stays for a moment
    else:
        raise UserError(
            f"{path}: {share:.0%} of it lie in the page cache after they were dropped. Another program has it open, "
            "or the file system (such as tmpfs) has no other place for it."
        )
    return share


def disk_bytes_per_s(path: Path) -> float:
    """The highest rate of 8 threads that read whole files into reused memory: past the page cache, or through it, in
    pieces of several sizes.

    Raises:
        UserError: the files stay in the page cache: the rate would be that of the memory (11 GB/s was once reported).
    """
    rates = []
    for flag, size in itertools.product((getattr(os, "O_DIRECT", 0), 0), _SIZES):
        dropped(path)
        try:
            rates.append(_read_all(path, flag, size))
        except OSError:
            if not flag:  # otherwise the file system has no O_DIRECT
                raise
    return max(rates)


def _buffer(size: int) -> memoryview:
    """Memory in whole pages, as O_DIRECT needs it; in huge pages where the system has them, because a read into small
    pages is divided: 1.4 GB/s instead of 3.5."""
    area = mmap.mmap(-1, -(-size // _HUGE) * _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError, AttributeError):
        area.madvise(mmap.MADV_HUGEPAGE)
    area[:] = bytes(len(area))
    return memoryview(area)[:size]


def _read_all(path: Path, flag: int, size: int) -> float:
    buffers = [_buffer(size) for _ in range(_THREADS)]
    with ExitStack() as stack, ThreadPoolExecutor(_THREADS) as pool:
        tasks: list[tuple[int, int]] = []  # descriptor, place
        for file in files(path):
            descriptor = os.open(file, os.O_RDONLY | flag)
            stack.callback(os.close, descriptor)
            tasks += [(descriptor, start) for start in range(0, file.stat().st_size, size)]

        def read(tasks: list[tuple[int, int]], buffer: memoryview) -> int:
            return sum(os.preadv(descriptor, [buffer], start) for descriptor, start in tasks)

        started = time.perf_counter()
        total = sum(pool.map(read, [tasks[number::_THREADS] for number in range(_THREADS)], buffers))
        return total / (time.perf_counter() - started)
