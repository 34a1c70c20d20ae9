"""Drop files from the page cache, see how much of them lies there, and read them from the disk as fast as it can.

In: a folder or a file. Out: shares and rates. Only these files are dropped: `/proc/sys/vm/drop_caches` would slow every
other program of the machine.
"""

import ctypes
import itertools
import mmap
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

_THREADS, _READ = 8, 4 << 20


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


def disk_bytes_per_s(path: Path) -> float:
    """Rate of 8 threads that read whole files into reused memory, 4 MiB at a time, after `drop`."""
    drop(path)
    tasks: Iterator[tuple[Path, int]] = itertools.chain.from_iterable(
        ((file, start) for start in range(0, file.stat().st_size, _READ)) for file in files(path)
    )

    def read(tasks: list[tuple[Path, int]]) -> int:
        buffer, total = bytearray(_READ), 0
        for file, start in tasks:
            descriptor = os.open(file, os.O_RDONLY)
            try:
                total += os.preadv(descriptor, [buffer], start)
            finally:
                os.close(descriptor)
        return total

    listed = [*tasks]
    with ThreadPoolExecutor(_THREADS) as pool:
        started = time.perf_counter()
        total = sum(pool.map(read, [listed[number::_THREADS] for number in range(_THREADS)]))
        return total / (time.perf_counter() - started)
