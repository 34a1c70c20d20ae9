"""Paths of a store's files; opening, writing and locking files.

Out: files that are regular, writes that are atomic, locks that end with their process. Leaves Zarr to `zarr_store`:
worker processes load this file, and without zarr they start quickly.
"""

import errno
import os
import re
import secrets
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from preprocess.addresses import Address
from preprocess.addresses import is_url as is_url
from preprocess.console import UserError

AnyPath = TypeVar("AnyPath", Path, Address)


def store_place(text: str) -> str:
    """STORE=... independent of the current folder: an address as it is, a folder as an absolute path."""
    return text if is_url(text) else str(Path(text).resolve())


def shard_key(shard: int) -> str:
    """Key of one shard within the store (a default chunk key of Zarr v3)."""
    return f"tiles/c/{shard}/0/0/0"


def shard_path(path: Path, shard: int) -> Path:
    """File of one shard."""
    return path / shard_key(shard)


def partial_path(path: AnyPath) -> AnyPath:
    """The folder where a conversion builds the store (in `store/`) before it renames it to `path`."""
    return path.with_name(path.name + ".partial")


# Errors that say something about the file: it is missing, of another kind, or on a broken disk. Other errors come from
# the machine or the user (too many open files, no permission, a share that is gone): the file itself may be good.
FILE_FAULTS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.ELOOP, errno.EIO)


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file, or a link to one, for reading; without a buffer, so that a short read costs one call.

    A pipe or a device is refused before it is opened: opening it could block, and reading it might never end.

    Raises:
        OSError: from the system; or EISDIR for a folder and ENXIO for other kinds, with a text that names the kind ("a
            named pipe, expected a regular file").
    """
    _check_regular(os.stat(path), path)
    # Another kind of file may replace it between the two calls: opening that must not block either.
    file = open(path, "rb", buffering=0, opener=_no_wait)  # noqa: SIM115  # the caller closes it
    try:
        _check_regular(os.fstat(file.fileno()), path)
    except BaseException:
        file.close()
        raise
    return file


def _no_wait(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _check_regular(status: os.stat_result, path: str | Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        code = errno.EISDIR if stat.S_ISDIR(status.st_mode) else errno.ENXIO
        raise OSError(code, f"{kind}, expected a regular file", str(path))


_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}  # fmt: skip


@contextmanager
def named_errors(path: str | Path) -> Iterator[None]:
    """Add `path` to an OSError that names no file: read() and write() only know descriptors."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextmanager
def atomic_file(
    path: Path, *, durable: bool = False, temporary: Path | None = None, buffer_bytes: int = -1
) -> Iterator[BinaryIO]:
    """Write a file beside `path` and rename it to `path`: a reader sees the old file or the new one, never a part.

    With `temporary`, it is written beside that path instead, which must be on the same file system.
    With `durable`, file and folder are synced: even a power cut leaves the old file or the new one.
    `buffer_bytes`: writes of fewer bytes are collected; -1: as `open` does.
    """
    # A random name: hosts that share the disk can have equal process numbers.
    beside = (temporary or path).with_name(f".{(temporary or path).name}.{secrets.token_hex(8)}")
    try:
        with named_errors(path), open(beside, "wb", buffering=buffer_bytes) as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(beside, path)
        if durable:
            _sync_folder(path.parent)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def check_writable(folder: Path, run: Path) -> None:
    """UserError if no file can be made in `folder`, or in its parent if it does not exist. For commands that compute
    for minutes before they write into a run's folder."""
    existing = folder if folder.exists() else folder.parent
    path = existing / f".canopy.{secrets.token_hex(8)}"
    try:
        path.touch()
        path.unlink()
    except OSError as error:
        raise UserError(
            f"{existing}: expected a folder that can be written, found: {error.strerror}. Nothing was done. Copy the "
            f"run, for example with `cp -r {shlex.quote(str(run))} runs/copy`, and use RUN=runs/copy."
        ) from error


def write_new(path: Path, data: bytes) -> bool:
    """Write a file atomically if there is none; returns whether it was written. Of several writers one wins."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with named_errors(path):
            beside.write_bytes(data)
        try:
            os.link(beside, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            if path.exists():  # this file system has no hard links
                return False
            os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return True


@contextmanager
def shared_lock(root: Path, work: str) -> Iterator[None]:
    """Create `root` and hold the lock of `locked` together with others that call this. A share without locks is used
    without one.

    Raises:
        UserError: another process holds the lock alone.
    """
    import fcntl

    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{root}: another {work} is writing it. Wait for it, or stop it.") from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                raise
        yield
    finally:
        os.close(descriptor)


@contextmanager
def locked(root: Path, work: str) -> Iterator[None]:
    """Create `root` and hold an exclusive lock on it. The OS releases the lock when the process dies.

    The lock is on the file `root/lock`. The holder may remove the whole folder, or every file in it but `lock`.

    Raises:
        UserError: another process does this `work` ("conversion") there, or the folder cannot be made.
    """
    import filelock  # here, because worker processes never lock: it takes 0.05 s

    lock = filelock.FileLock(root / "lock", timeout=_LOCK_S, fallback_to_soft=False)
    while True:
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{root}: the folder cannot be made ({error.strerror}).") from error
        try:
            lock.acquire()
            break
        except FileNotFoundError:
            continue  # another process has just finished and removed the folder
        except filelock.Timeout as error:
            raise UserError(f"{root}: another {work} is writing it. Wait for it, or stop it.") from error
        except OSError as error:  # for example a share without locks
            raise OSError(error.errno, error.strerror, str(root / "lock")) from error
    try:
        yield
    finally:
        lock.release()


_LOCK_S = 0.2  # time for a second try: at the first one the lock file may belong to a folder that was just removed


@contextmanager
def locked_folder(folder: Path, refusal: str) -> Iterator[None]:
    """Hold an exclusive lock on a folder itself, without a file in it. The OS releases it when the process dies.

    Some network file systems cannot lock folders. There is no lock then, and no error.

    Raises:
        UserError: another process holds the lock; the text is `refusal`.
    """
    from filelock import lock_descriptor  # here: see `locked`

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            is_locked = lock_descriptor(descriptor, blocking=False)
        except OSError:
            is_locked = True
        if not is_locked:
            raise UserError(refusal)
        yield
    finally:
        os.close(descriptor)


# The name beside NAME while it is written: `.NAME.` and 16 hexadecimal digits; in earlier versions the process number.
_TEMPORARY = re.compile(r"\..+\.(?:[0-9a-f]{16}|\d+)")


def remove_temporary(folder: Path) -> None:
    """Remove the files that killed writers (`atomic_file`) left in a folder. Only for a folder with no other writer."""
    for path in folder.glob(".*"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink()


def write_atomic(path: Path, data: bytes | memoryview, *, durable: bool = False) -> None:
    """Write a whole file atomically; see `atomic_file`."""
    with atomic_file(path, durable=durable) as file:
        file.write(data)


def _sync_folder(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
