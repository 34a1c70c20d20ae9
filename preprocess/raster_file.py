"""An open raster: its header for tifffile, and any of its bytes.

In: a path or an address. Out: a `RasterFile`. On a disk it reads by a descriptor; in object storage `remote_ranges`,
which is loaded for addresses only, requests ranges. Leaves what the bytes mean to `raster`.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, Protocol

from preprocess.files import is_url, open_regular
from preprocess.tiff_page import ChipError


class RasterFile(Protocol):
    """A raster. `file`: to read its header. `state`: as of a chip's file, see `sources.Source.state`."""

    file: BinaryIO
    state: tuple[int, int]

    def pieces(self, places: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """The bytes at each (offset, count), in order. Fewer come if the file has ended."""


class DiskRaster:
    """A raster on a disk."""

    def __init__(self, file: BinaryIO) -> None:
        status = os.fstat(file.fileno())
        self.file, self.state = file, (status.st_size, status.st_mtime_ns)

    def pieces(self, places: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """See `RasterFile.pieces`. The operating system reads ahead."""
        return (os.pread(self.file.fileno(), count, offset) for offset, count in places)


@contextmanager
def open_raster(path: str, before: RasterFile | None = None) -> Iterator[RasterFile]:
    """Open a raster, again if `before` is not None.

    Raises:
        ChipError: it has changed since `before`. In object storage `pieces` raises it.
        OSError: raised by the operating system.
    """
    if is_url(path):
        from preprocess.remote_ranges import RemoteRaster

        yield before or RemoteRaster(path)
        return
    with open_regular(path) as file:
        raster = DiskRaster(file)
        if before is not None and raster.state != before.state:
            raise changed(path)
        yield raster


def changed(path: str) -> ChipError:
    """The error of a file that is not the one that was listed."""
    return ChipError(path, "the file as listed", "a changed file", "Run the same command again.")
