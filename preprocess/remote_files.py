"""Chips and labels in object storage: which there are, and their bytes.

In: addresses. Out: one listing of a folder, files in memory that the readers of TIFFs, PNGs and JPEGs open like those
on a disk, and their states. A file's state is its size and, in place of its time, a number made from its ETag. Listing
and GET both have it, so a file that changed after it was listed is noticed without If-Match, and the plan needs no text
per file. Leaves requests to `remote`.
"""

import errno
import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import xxhash

from preprocess.addresses import Address
from preprocess.console import UserError
from preprocess.file_patterns import paths_of
from preprocess.packed_texts import PackedTexts
from preprocess.raster_file import changed
from preprocess.read_ahead import read_ahead
from preprocess.remote import ChangedObjectError, MissingObjectError, Objects, bare_etag
from preprocess.sources import NO_ETAGS
from preprocess.tiff_page import ChipError

REQUESTS = 32  # files that one process fetches at the same time, ahead of the encoder
AHEAD_BYTES = 64 << 20  # of files that wait for the encoder: as much as a shard, decoded


class State(NamedTuple):
    """Size in bytes, and the number made from the ETag, which stands for the time of a file on disk."""

    size: int
    etag_number: int


Fetched: TypeAlias = tuple[Any, State] | FileNotFoundError | ChipError


@functools.lru_cache(maxsize=1)
def list_folder(folder: Address) -> dict[str, tuple[int, str]]:
    """Size and ETag of every object below an address, by its name relative to it: one listing, which a plan uses for
    all its questions.

    The last listing is kept; `list_folder.cache_clear` before a new plan.
    """
    return {each.key: (each.size, each.etag) for each in Objects(str(folder)).list()}


def listed_state(folder: Address, name: str) -> State:
    """The state of an object below an address, as the listing says.

    Raises:
        KeyError: the listing does not have it.
    """
    size, etag = list_folder(folder)[name]
    return State(size, etag_number(etag))


def etags_of(folder: Address, paths: Iterable[str], bands: tuple[str, ...]) -> PackedTexts:
    """The ETags of each chip's files as the listing says, a line each; "" for one that is missing."""
    listing, start = list_folder(folder), f"{folder}/"

    def etag(path: str) -> str:
        return listing.get(path.removeprefix(start), (0, ""))[1]

    return PackedTexts.collect("\n".join(map(etag, paths_of(path, bands))) for path in paths)


def etag_number(etag: str) -> int:
    """A whole number of 63 bits for an ETag. Azure lists ETags without the quotes that its GET has."""
    return xxhash.xxh3_64_intdigest(bare_etag(etag).encode()) >> 1


def base_and_key(path: str) -> tuple[str, str]:
    """The bucket (for https: the host and the first folder) of an address, and the key in it."""
    scheme, _, rest = path.partition("://")
    parts = rest.split("/")
    depth = 2 if scheme.startswith("http") and len(parts) > 2 else 1
    return f"{scheme}://{'/'.join(parts[:depth])}", "/".join(parts[depth:])


def fetch(path: str, etag: str = "") -> tuple[Any, State]:
    """The bytes of a file, and their state. See `Objects.read_version`."""
    base, key = base_and_key(path)
    data, etag = Objects(base).read_version(key, etag)
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
        self._folder, self._start = folder, f"{folder}/"

    def begin(self, paths: Iterable[str], largest: int, etags: Mapping[str, str] = NO_ETAGS) -> None:
        """Nothing to do: no file is opened."""

    def state(self, path: str) -> State:
        """The state of a file.

        Raises:
            FileNotFoundError: the listing does not have it.
        """
        try:
            return listed_state(self._folder, path.removeprefix(self._start))
        except KeyError as error:
            raise FileNotFoundError(path) from error

    def open(self, path: str | Path) -> BinaryIO:
        """A file in memory."""
        return RemoteFiles().open(path)


class RemoteFiles:
    """Opens files at addresses. After `begin`, it fetches the next ones while the caller works."""

    def __init__(self) -> None:
        self._fetched: dict[str, Fetched] = {}
        self._ahead: Iterator[tuple[str, Fetched]] = iter(())
        self._etags = NO_ETAGS

    def begin(self, paths: Iterable[str], largest: int, etags: Mapping[str, str] = NO_ETAGS) -> None:
        """Fetch these files in order, at most AHEAD_BYTES ahead if none has more than `largest` bytes."""
        count = max(1, min(REQUESTS, AHEAD_BYTES // max(largest, 1)))
        self._etags = etags
        self._ahead = _fetch_all(paths, count, etags)

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
            self._fetched[path] = _fetch_chip(path, self._etags)
        if isinstance(fetched := self._fetched[path], Exception):
            raise fetched
        return fetched


def _fetch_chip(path: str, etags: Mapping[str, str]) -> Fetched:
    """The file; or that it is missing or changed, so that the files after it are still fetched ahead."""
    try:
        return fetch(path, etags.get(path, ""))
    except MissingObjectError:
        return missing(path)
    except ChangedObjectError:
        return changed(path)


def missing(path: object) -> FileNotFoundError:
    """The error of a file that is not there, as a disk has it."""
    return FileNotFoundError(errno.ENOENT, "No such object", str(path))


def _fetch_all(paths: Iterable[str], count: int, etags: Mapping[str, str]) -> Iterator[tuple[str, Fetched]]:
    with ThreadPoolExecutor(count, thread_name_prefix="canopy-chips") as pool:
        yield from read_ahead(pool, lambda path: (path, _fetch_chip(path, etags)), paths, count)
