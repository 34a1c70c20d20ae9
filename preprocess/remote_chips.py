"""Chips in object storage: files in memory that the readers of TIFFs, PNGs and JPEGs open like those on a disk.

In: addresses and the ETags of their listing. Out: two `sources.Source`: the states that a listing has, and files that
are fetched ahead. A request has the ETag as If-Match. The state of the answer is compared with the listed one, too:
some servers ignore the condition. Leaves requests to `remote`, and listings to `remote_files`.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from preprocess.addresses import Address
from preprocess.raster_file import changed
from preprocess.read_ahead import read_ahead
from preprocess.remote import ChangedObjectError, MissingObjectError
from preprocess.remote_files import State, fetch, listed_state, missing
from preprocess.sources import NO_ETAGS
from preprocess.tiff_page import ChipError

REQUESTS = 32  # files that one process fetches at the same time, ahead of the encoder
AHEAD_BYTES = 64 << 20  # of files that wait for the encoder: as much as a shard, decoded

Fetched: TypeAlias = tuple[Any, State] | FileNotFoundError | ChipError


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


def _fetch_all(paths: Iterable[str], count: int, etags: Mapping[str, str]) -> Iterator[tuple[str, Fetched]]:
    with ThreadPoolExecutor(count, thread_name_prefix="canopy-chips") as pool:
        yield from read_ahead(pool, lambda path: (path, _fetch_chip(path, etags)), paths, count)
