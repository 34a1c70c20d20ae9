"""Files in memory: mapped once in a process, without a file descriptor each, and unmapped when nobody uses them.

In: an open file. Out: a `MappedFile`, shared by all loaders that read the same file. Python's own `mmap` and
`np.memmap` keep a descriptor for every map: 1,024 shards are then too many for the usual limit. Leaves to `shards` what
to do when a process has too many maps.
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

# Linux allows 65,530 maps in a process (vm.max_map_count); libraries and threads need some thousands.
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
    """What changes when a file is replaced, rewritten, cut or grown."""

    device: int
    inode: int
    size: int
    mtime_ns: int


def identity(opened: int) -> FileIdentity:
    """Of an open file (a descriptor)."""
    status = os.fstat(opened)
    return FileIdentity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class MappedFile:
    """A whole file, read-only; `address` of its first byte. The memory is valid while this object lives."""

    def __init__(self, opened: int, size: int) -> None:
        address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, opened, 0)
        if address == _MAP_FAILED:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self.address = int(address)
        # Not at exit: threads may still read, and the system unmaps everything anyway.
        weakref.finalize(self, _libc.munmap, self.address, size).atexit = False


_maps: weakref.WeakValueDictionary[FileIdentity, MappedFile] = weakref.WeakValueDictionary()
_lock = threading.Lock()
# A child of fork() inherits the maps, which stay valid in it, and must not inherit a lock that a thread holds.
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def map_file(opened: int) -> MappedFile | None:
    """The map of an open file (a descriptor, which may be closed afterwards); the one that exists, if there is one.

    A file that is mapped keeps its inode, so another file at the same path is never mistaken for it.

    Returns:
        None if the process has `MAX_MAPS` maps, or the system has no memory for another one or cannot map the file.

    Raises:
        OSError: as the system says.
    """
    key = identity(opened)
    _report_bus_errors()
    with _lock:
        existing = _maps.get(key)
        if existing is not None:
            return existing
        if len(_maps) >= MAX_MAPS:
            return None
        try:
            mapped = _maps[key] = MappedFile(opened, key.size)
        except OSError as error:
            if error.errno in (errno.ENOMEM, errno.ENODEV):
                return None
            raise
        return mapped


def _end_with_line(number: int) -> None:
    os.write(2, _BUS_ERROR)
    os._exit(2)


_BUS_ERROR = (
    b"error: a shard can no longer be read: it was cut, or its disk or network share failed. "
    b"`make verify STORE=...` finds the shard.\n"
)
_handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(_end_with_line)


@functools.cache
def _report_bus_errors() -> None:
    """A page of a map that cannot be read (the file was cut, the disk failed) ends the process by SIGBUS: say why.

    Python's own signal handlers run too late for that. The reading thread holds no lock here: it runs compiled code.
    """
    before = _libc.signal(signal.SIGBUS, ctypes.cast(_handler, ctypes.c_void_p))
    if before is not None:  # somebody else's, such as faulthandler's
        _libc.signal(signal.SIGBUS, before)
