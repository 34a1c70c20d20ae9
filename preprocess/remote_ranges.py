"""Rasters in object storage, which are read by range requests: a window needs a few blocks of a raster of gigabytes.

In: an address. Out: a `raster_file.RasterFile`. Memory is a few pieces of the header, and blocks of at most AHEAD_BYTES
that wait to be decoded. Each request has If-Match with the ETag that the first answer had, and the ETag of each answer
is compared with it: some servers ignore the condition.
"""

import io
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, cast

from preprocess.raster_file import changed
from preprocess.read_ahead import read_ahead
from preprocess.remote import ChangedObjectError, MissingObjectError, Objects
from preprocess.remote_chips import AHEAD_BYTES, REQUESTS
from preprocess.remote_files import State, base_and_key, etag_number, missing

_PIECE_BYTES = 1 << 18  # of a header: most headers are one piece, and a table of 60,000 blocks takes two
_PIECES = 8  # that are kept


class RemoteRaster:
    """A raster at an address. Several threads can call `pieces`.

    Raises:
        FileNotFoundError: there is none.
        UserError: see `Objects`.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        base, self._key = base_and_key(path)
        self._objects, self._etag = Objects(base), ""
        first, size, self._etag = self._request(0, _PIECE_BYTES)
        self.size = size
        self.state: tuple[int, int] = State(size, etag_number(self._etag))
        self.file: BinaryIO = cast(BinaryIO, _Header(self, first))

    def read(self, start: int, count: int) -> bytes:
        """Bytes from `start` on, fewer at the end of the file."""
        end = min(start + count, self.size)
        return self._request(start, end)[0] if start < end else b""

    def pieces(self, places: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """See `RasterFile.pieces`. Many requests run at the same time."""
        largest = max((count for _, count in places), default=1)
        ahead = max(1, min(REQUESTS, AHEAD_BYTES // largest))
        with ThreadPoolExecutor(ahead, thread_name_prefix="canopy-raster") as pool:
            yield from read_ahead(pool, lambda place: self.read(*place), places, ahead)

    def _request(self, start: int, end: int) -> tuple[bytes, int, str]:
        try:
            return self._objects.read_part(self._key, start, end, self._etag)
        except ChangedObjectError as error:
            raise changed(self._path) from error
        except MissingObjectError as error:
            raise missing(self._path) from error


class _Header(io.RawIOBase):
    """The file for tifffile, which reads a header in many small steps: pieces of it are kept."""

    def __init__(self, raster: RemoteRaster, first: bytes) -> None:
        self._raster, self._position = raster, 0
        self._kept: OrderedDict[int, bytes] = OrderedDict({0: first})

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a byte of the file."""
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._raster.size}
        self._position = starts[whence] + offset
        return self._position

    def tell(self) -> int:
        """The current byte of the file."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read the bytes that follow, fewer at the end of the file."""
        view = memoryview(buffer).cast("B")
        if len(view) > _PIECES * _PIECE_BYTES:  # a table that would push out all pieces
            data = self._raster.read(self._position, len(view))
        else:
            data = self._of_pieces(len(view))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _of_pieces(self, count: int) -> bytes:
        start, end = self._position, min(self._position + count, self._raster.size)
        if start >= end:
            return b""
        first, last = start // _PIECE_BYTES, (end - 1) // _PIECE_BYTES
        data = b"".join(self._piece(number) for number in range(first, last + 1))
        return data[start - first * _PIECE_BYTES : end - first * _PIECE_BYTES]

    def _piece(self, number: int) -> bytes:
        if number not in self._kept:
            self._kept[number] = self._raster.read(number * _PIECE_BYTES, _PIECE_BYTES)
            if len(self._kept) > _PIECES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]
