"""Where the files of chips come from: a disk, or object storage.

In: paths or addresses. Out: a `Source`, which opens files and knows their states. Leaves what is in a file to the
readers, and requests to `remote_chips`, which is loaded for addresses only.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

import numpy as np

from preprocess.addresses import Address, Location, is_url
from preprocess.file_patterns import paths_of
from preprocess.files import open_regular

if TYPE_CHECKING:
    from preprocess.packed_texts import PackedTexts


NO_ETAGS: Mapping[str, str] = {}


class Source(Protocol):
    """Opens files, and says in which state they are."""

    def begin(self, paths: Iterable[str], largest: int, etags: Mapping[str, str] = NO_ETAGS) -> None:
        """These files are needed next, in this order; none has more than `largest` bytes. `etags`: those of the
        listing; a file with another one raises a ChipError."""

    def state(self, path: str) -> tuple[int, int]:
        """The size of a file in bytes, and a number that changes with its content: its time in ns, or its ETag's."""

    def open(self, path: str | Path) -> BinaryIO:
        """The file, open for reading, with a descriptor."""


class Disk:
    """Files on a disk. The operating system reads ahead."""

    def begin(self, paths: Iterable[str], largest: int, etags: Mapping[str, str] = NO_ETAGS) -> None:
        """Nothing to do."""

    def state(self, path: str) -> tuple[int, int]:
        """Size, and time of modification in ns."""
        status = os.stat(path)
        return status.st_size, status.st_mtime_ns

    def open(self, path: str | Path) -> BinaryIO:
        """A regular file; see `open_regular`."""
        return open_regular(path)


DISK = Disk()


def listed(folder: Location) -> Source:
    """The source for the states of files below a folder: an address is listed once."""
    if not isinstance(folder, Address):
        return DISK
    from preprocess.remote_chips import ListedFiles

    return ListedFiles(folder)


def etags_of(folder: Location, paths: Iterable[str], bands: tuple[str, ...]) -> "PackedTexts | None":
    """The ETags of each chip's files, see `remote_files.etags_of`; None on a disk."""
    if not isinstance(folder, Address):
        return None
    from preprocess import remote_files

    return remote_files.etags_of(folder, paths, bands)


def begin(
    source: Source, paths: Sequence[str], bands: tuple[str, ...], size: np.ndarray, etags: Sequence[str] | None
) -> None:
    """Tell a source which chips are needed next: their paths, sizes and ETags."""
    files = dict.fromkeys(file for path in paths for file in paths_of(path, bands))
    known = NO_ETAGS
    if etags is not None:
        known = {
            file: etag
            for path, of_chip in zip(paths, etags, strict=True)
            for file, etag in zip(paths_of(path, bands), of_chip.split("\n"), strict=True)
        }
    source.begin(files, int(size.max()), known)


def forget_objects(data: Location, labels: Location | None) -> None:
    """List and read addresses anew for the next plan, and refuse a DATA with no object."""
    if isinstance(data, Address) or isinstance(labels, Address):
        from preprocess.remote_files import check_folder, list_folder, read_labels

        list_folder.cache_clear()
        read_labels.cache_clear()
        if isinstance(data, Address):
            check_folder("DATA", data)


def source_of(path: str) -> Source:
    """The source of a chip's files."""
    if not is_url(path):
        return DISK
    from preprocess.remote_chips import RemoteFiles

    return RemoteFiles()
