"""Map files into memory: once per process, without an open file descriptor, and only as long as they are used.

In: an open file. Out: a `MappedFile`, shared by all loaders that read the same file. Python's `mmap` and `np.memmap`
keep a descriptor open for every map: with 1,024 shards they exceed the usual limit. Leaves to `shards` what to do when
a process has too many maps.
"""

import ctypes
import errno
import functools
import mmap
import os
import signal
import threading
import weakref
from typing import NamedTuple

# Linux allows 65,530 maps per process (vm.max_map_count); libraries and threads need some thousands of them.
MAX_MAPS = 16_384
_MAP_FAILED = ctypes.c_void_p(-1).value
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
)  # fmt: skip
_libc.signal.restype = ctypes.c_void_p
_libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


class FileIdentity(NamedTuple):
    """Values of which at least one changes when a file is replaced, rewritten, cut or extended."""

    device: int
    inode: int
    size: int
    mtime_ns: int


def identity(descriptor: int) -> FileIdentity:
    """The identity of an open file."""
    status = os.fstat(descriptor)
    return FileIdentity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class MappedFile:
    """A whole file in memory, read-only. `address` is that of its first byte, valid while this object exists."""

    def __init__(self, descriptor: int, size: int) -> None:
        address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if address == _MAP_FAILED:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self.address = int(address)
        # Not at exit: threads may still read, and the OS unmaps everything anyway.
        weakref.finalize(self, _libc.munmap, self.address, size).atexit = False


_maps: weakref.WeakValueDictionary[FileIdentity, MappedFile] = weakref.WeakValueDictionary()
_lock = threading.Lock()
# A child of fork() inherits the maps, which stay valid. It must not inherit a lock that another thread holds.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def map_file(descriptor: int) -> MappedFile | None:
    """Map an open file, or return its existing map. The descriptor may be closed afterwards.

    A mapped file keeps its inode, so another file at the same path is never mistaken for it.

    Returns:
        None if the process has `MAX_MAPS` maps, or if the system has no memory for another map or cannot map the file.

    Raises:
        OSError: another error of the system.
    """
    key = identity(descriptor)
    _report_bus_errors()
    with _lock:
        existing = _maps.get(key)
        if existing is not None:
            return existing
        if len(_maps) >= MAX_MAPS:
            return None
        try:
            mapped = _maps[key] = MappedFile(descriptor, key.size)
        except OSError as error:
            if error.errno in (errno.ENOMEM, errno.ENODEV):
                return None
            raise
        return mapped


def _end_with_line(number: int) -> None:
    os.write(2, BUS_ERROR)
    os._exit(2)


BUS_ERROR = (
    b"error: a shard cannot be read any more: the file was cut, or its disk or network share failed. "
    b"`make verify STORE=...` finds the shard.\n"
)
_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(_end_with_line)


@functools.cache
def _report_bus_errors() -> None:
    """Print the reason when a page of a map cannot be read (file cut, disk failed): SIGBUS then ends the process.

    Python's signal handlers run too late for this one. The handler is safe: the reading thread runs compiled code and
    holds no lock.
    """
    previous = _libc.signal(signal.SIGBUS, ctypes.cast(_handler, ctypes.c_void_p))
    if previous is not None:  # another library's handler, such as faulthandler's: it stays
        _libc.signal(signal.SIGBUS, previous)
