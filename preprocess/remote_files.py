"""Chips and labels in object storage: which there are, and their bytes.

In: addresses. Out: one listing of a folder, files in memory that the readers of TIFFs, PNGs and JPEGs open like those
on a disk, and their states. A file's state is its size and, in place of its time, a number made from its ETag. Listing
and GET both have it, so a file that changed after it was listed is noticed without If-Match, and the plan needs no text
per file. Leaves requests to `remote`.
"""

import errno
import functools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import xxhash

from preprocess.addresses import Address
from preprocess.console import UserError
from preprocess.read_ahead import read_ahead
from preprocess.remote import MissingObjectError, Objects, bare_etag

REQUESTS = 32  # files that one process fetches at the same time, ahead of the encoder
AHEAD_BYTES = 64 << 20  # of files that wait for the encoder: as much as a shard, decoded


class State(NamedTuple):
    """Size in bytes, and the number made from the ETag, which stands for the time of a file on disk."""

    size: int
    etag_number: int


@functools.lru_cache(maxsize=1)
def list_folder(folder: Address) -> dict[str, State]:
    """Every object below an address, by its name relative to it: one listing, which a plan uses for all its questions.

    The last listing is kept; `list_folder.cache_clear` before a new plan.
    """
    return {each.key: State(each.size, etag_number(each.etag)) for each in Objects(str(folder)).list()}


def etag_number(etag: str) -> int:
    """A whole number of 63 bits for an ETag. Azure lists ETags without the quotes that its GET has."""
    return xxhash.xxh3_64_intdigest(bare_etag(etag).encode()) >> 1


def base_and_key(path: str) -> tuple[str, str]:
    """The bucket (for https: the host and the first folder) of an address, and the key in it."""
    scheme, _, rest = path.partition("://")
    parts = rest.split("/")
    depth = 2 if scheme.startswith("http") and len(parts) > 2 else 1
    return f"{scheme}://{'/'.join(parts[:depth])}", "/".join(parts[depth:])


def fetch(path: str) -> tuple[Any, State]:
    """The bytes of a file, and their state."""
    base, key = base_and_key(path)
    data, etag = Objects(base).read_version(key)
    return data, State(len(data), etag_number(etag))


@functools.lru_cache(maxsize=1)
def read_labels(path: Address) -> bytes:
    """All bytes of a labels file, which is read several times, so that the rows of a large one need not be kept."""
    return bytes(fetch(str(path))[0])


def read_file(path: Address) -> Any:
    """The bytes of a file.

    Raises:
        FileNotFoundError: there is none.
    """
    try:
        return fetch(str(path))[0]
    except MissingObjectError as error:
        raise missing(path) from error


def write_file(path: Address, data: bytes) -> None:
    """Write a file by one request."""
    base, key = base_and_key(str(path))
    Objects(base).write(key, data)


def exists(path: Address) -> bool:
    """Whether there is an object at an address."""
    base, key = base_and_key(str(path))
    return bool(key) and Objects(base).size(key) is not None


def check_folder(word: str, folder: Address) -> None:
    """UserError if there is no object below an address."""
    if not list_folder(folder):
        raise UserError(f"{word}={folder}: expected a folder of TIFFs, found no object below this address.")


class ListedFiles:
    """States of the files below an address, from its listing: no request per file."""

    def __init__(self, folder: Address) -> None:
        self._states, self._start = list_folder(folder), f"{folder}/"

    def begin(self, paths: Iterable[str], largest: int) -> None:
        """Nothing to do: no file is opened."""

    def state(self, path: str) -> State:
        """The state of a file.

        Raises:
            FileNotFoundError: the listing does not have it.
        """
        if (state := self._states.get(path.removeprefix(self._start))) is None:
            raise FileNotFoundError(path)
        return state

    def open(self, path: str | Path) -> BinaryIO:
        """A file in memory."""
        return RemoteFiles().open(path)


class RemoteFiles:
    """Opens files at addresses. After `begin`, it fetches the next ones while the caller works."""

    def __init__(self) -> None:
        self._fetched: dict[str, tuple[Any, State] | FileNotFoundError] = {}
        self._ahead: Iterator[tuple[str, tuple[Any, State] | FileNotFoundError]] = iter(())

    def begin(self, paths: Iterable[str], largest: int) -> None:
        """Fetch these files in order, at most AHEAD_BYTES ahead if none has more than `largest` bytes."""
        count = max(1, min(REQUESTS, AHEAD_BYTES // max(largest, 1)))
        self._ahead = _fetch_all(paths, count)

    def state(self, path: str) -> State:
        """The state of a file, which is fetched and kept until it is opened."""
        return self._of(path)[1]

    def open(self, path: str | Path) -> BinaryIO:
        """A file in memory, with a descriptor as the readers want it."""
        data, _ = self._of(str(path))
        del self._fetched[str(path)]
        # Copying 0.5 MB into it takes 0.1 ms, less than a thousandth of the wait for a request.
        file = open(os.memfd_create("chip"), "w+b", buffering=0)  # noqa: SIM115  # the caller closes it
        file.write(data)
        file.seek(0)
        return file

    def _of(self, path: str) -> tuple[Any, State]:
        while path not in self._fetched and (following := next(self._ahead, None)) is not None:
            self._fetched[following[0]] = following[1]
        if path not in self._fetched:
            self._fetched[path] = _fetch_chip(path)
        if isinstance(fetched := self._fetched[path], FileNotFoundError):
            raise fetched
        return fetched


def _fetch_chip(path: str) -> tuple[Any, State] | FileNotFoundError:
    """The file; or that it is missing, so that the files after it are still fetched ahead."""
    try:
        return fetch(path)
    except MissingObjectError:
        return missing(path)


def missing(path: object) -> FileNotFoundError:
    """The error of a file that is not there, as a disk has it."""
    return FileNotFoundError(errno.ENOENT, "No such object", str(path))


def _fetch_all(paths: Iterable[str], count: int) -> Iterator[tuple[str, tuple[Any, State] | FileNotFoundError]]:
    with ThreadPoolExecutor(count, thread_name_prefix="canopy-chips") as pool:
        yield from read_ahead(pool, lambda path: (path, _fetch_chip(path)), paths, count)
