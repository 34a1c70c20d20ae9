"""The place that a conversion writes to: NAME.partial on a disk, or objects in a bucket.

In: the address of NAME.partial. Out: a `Target`, with which worker processes write shards and their progress. On a disk
shards are in NAME.partial/store, which is renamed at the end. In a bucket there is no rename: shards have their final
keys from the start, and the store is complete when its zarr.json is written. Leaves starting and completing a store to
`partial_store` and `partial_bucket`. Worker processes load this file.
"""

import contextlib
import io
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol

from preprocess.addresses import Address, Location, location
from preprocess.files import atomic_file, shard_key, shard_path, write_atomic

_BUFFER_BYTES = 32 * 1024  # small chips are written several at a time
TEMPORARY = "temporary"  # folder in NAME.partial for unfinished shard files: the store is renamed without them


class Target(Protocol):
    """Files of NAME.partial by name, such as progress/3.npz, and the shards of the store."""

    def read(self, name: str) -> bytes:
        """All bytes of a file.

        Raises:
            FileNotFoundError: there is none.
        """

    def write(self, name: str, data: bytes) -> None:
        """Write a file: a reader sees the old one or the new one."""

    def shard_bytes(self, shard: int) -> int:
        """The size of a shard.

        Raises:
            FileNotFoundError: it is not written.
        """

    def shard_file(self, shard: int) -> AbstractContextManager[BinaryIO]:
        """A file for the bytes of a shard. The shard exists when the block ends without an error."""


class DiskTarget:
    """NAME.partial is a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, name: str) -> bytes:
        """See `Target.read`."""
        return (self._root / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """See `Target.write`."""
        write_atomic(self._root / name, data)

    def shard_bytes(self, shard: int) -> int:
        """See `Target.shard_bytes`."""
        return shard_path(self._root / "store", shard).stat().st_size

    @contextlib.contextmanager
    def shard_file(self, shard: int) -> Iterator[BinaryIO]:
        """See `Target.shard_file`."""
        path = _make_shard_folder(self._root / "store", shard)
        temporary = self._root / TEMPORARY / str(shard)
        with atomic_file(path, temporary=temporary, buffer_bytes=_BUFFER_BYTES) as file:
            yield file


class BucketTarget:
    """NAME.partial is a prefix beside the store's."""

    def __init__(self, root: Address) -> None:
        from preprocess.remote import Objects

        self._partial, self._store = Objects(str(root)), Objects(str(root).removesuffix(".partial"))

    def read(self, name: str) -> bytes:
        """See `Target.read`."""
        from preprocess.remote import MissingObjectError

        try:
            return self._partial.read(name)
        except MissingObjectError as error:
            raise FileNotFoundError(self._partial.name(name)) from error

    def write(self, name: str, data: bytes) -> None:
        """See `Target.write`."""
        self._partial.write(name, data)

    def shard_bytes(self, shard: int) -> int:
        """See `Target.shard_bytes`."""
        if (size := self._store.size(shard_key(shard))) is None:
            raise FileNotFoundError(self._store.name(shard_key(shard)))
        return size

    @contextlib.contextmanager
    def shard_file(self, shard: int) -> Iterator[BinaryIO]:
        """See `Target.shard_file`. A shard, at most 64 MiB decoded, is in memory until it is written by one request."""
        with io.BytesIO() as file:
            yield file
            self._store.write(shard_key(shard), file.getvalue())


def target_of(root: str | Location) -> Target:
    """The target at NAME.partial."""
    where = location(root)
    return DiskTarget(where) if isinstance(where, Path) else BucketTarget(where)


def _make_shard_folder(store: Path, shard: int) -> Path:
    """Make the folder of a shard's file; returns the file's path.

    The store itself is not made: if another process has just completed and renamed it, this one must fail.
    """
    path = shard_path(store, shard)
    for folder in reversed(path.relative_to(store / "tiles").parents[:-1]):
        with contextlib.suppress(FileExistsError):
            (store / "tiles" / folder).mkdir()
    return path
