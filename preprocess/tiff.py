"""Read one TIFF as a (bands, height, width) array of exactly the file's values.

In: a TIFF with a dtype in DTYPES, chunky or planar, in strips or tiles, in any compression of `tiff_segments`. Out: a
C-contiguous array in native byte order with every value from the file, or a ChipError. Leaves the header to
`tiff_header`, decoding to `tiff_segments`, the names of the bands to `plan`.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile

from preprocess import tiff_metadata, tiff_segments
from preprocess.console import UserError
from preprocess.expected import ANY as ANY
from preprocess.expected import Expected as Expected
from preprocess.files import open_regular
from preprocess.georeference import Place, read_place
from preprocess.layout import DTYPES as DTYPES
from preprocess.tiff_header import ChipError as ChipError
from preprocess.tiff_header import Header, complaints_are_errors, read_header
from preprocess.tiff_metadata import AXES as AXES
from preprocess.tiff_metadata import Facts as Facts

OpenFile = Callable[[str | Path], BinaryIO]
PageCheck = Callable[[tifffile.TiffPage], str | None]


def read(path: str | Path, check_page: PageCheck | None = None, expected: Expected = ANY) -> np.ndarray:
    """Read one chip; see `Reader.read`. The caller owns the array."""
    return Reader().read(path, check_page, expected)


def read_facts(path: str | Path, expected: Expected = ANY, open_file: OpenFile = open_regular) -> Facts:
    """Read only the header; raises like `Reader.read`."""
    with open_file(path) as file:
        return open_checked(file, path, None, expected).facts


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Layout of the previous file, if its pixels were one contiguous, uncompressed, native-endian block: header,
    trailer, stored shape and dtype; and the arguments of its checks. A file with the same header has the same place."""

    before: bytes
    after: bytes
    check_page: PageCheck | None
    expected: Expected
    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype
    place: Place | None


class Reader:
    """Reads chips into memory that is reused: fresh memory costs more time than reading.

    Chips of one data set often differ only in their pixels; all of Planet's do. A file whose other bytes equal those of
    the previous file is not parsed again, which halves the time.

    `place`: where the chip of the last call lies; None if the file does not say it.
    """

    def __init__(self, open_file: OpenFile = open_regular) -> None:
        self._open_file = open_file
        self._stored = self._chip = np.empty(0, np.uint8)
        self._known: _Layout | None = None
        self.place: Place | None = None

    def read(self, path: str | Path, check_page: PageCheck | None = None, expected: Expected = ANY) -> np.ndarray:
        """Read one chip.

        Shape and dtype come from the header and are compared with `expected` before any value is decoded.

        Args:
            path: the file.
            check_page: returns the reason why a page must not be used (a preset's rule), or None.
            expected: properties that the file must have.

        Returns:
            (bands, height, width), one of DTYPES, native byte order, C-contiguous; valid until the next call.

        Raises:
            ChipError: the file is not a TIFF, damaged or truncated, has another dtype or shape, or is not a single
            image. FileNotFoundError, PermissionError: raised by the operating system.
        """
        with self._open_file(path) as file:
            known = self._known
            if known is not None and (known.check_page, known.expected) == (check_page, expected):
                if self._reads_as(file, known):
                    self.place = known.place
                    return self._to_chip(known.axes, self._stored)
            self._known = None
            opened = open_checked(file, path, check_page, expected)
            self.place = read_place(opened.header.pages[0])
            with damage_named(file, path), complaints_are_errors():
                return self._decode(file, opened, check_page, expected)

    def _reads_as(self, file: BinaryIO, known: _Layout) -> bool:
        """Read the values in place if all other bytes equal those of the known file."""
        values = self._stored_array(known.shape, known.dtype)
        before, after = bytearray(len(known.before)), bytearray(len(known.after) + 1)  # 1 more, to notice the end
        count = os.preadv(file.fileno(), [before, values.data, after], 0)
        complete = count == len(before) + values.nbytes + len(known.after)
        return complete and before == known.before and after[:-1] == known.after

    def _decode(self, file: BinaryIO, opened: "Opened", check_page: PageCheck | None, expected: Expected) -> np.ndarray:
        header, axes = opened.header, opened.axes
        if header.block is not None:
            values = self._stored_array(header.shape, header.dtype)
            if os.preadv(file.fileno(), [values.data], header.block) != values.nbytes:
                raise ValueError("the file ended early")
            if header.pages[0].parent.byteorder == _BYTEORDER:
                self._remember(file, opened, check_page, expected)
            elif values.itemsize > 1:
                values.byteswap(inplace=True)
            return self._to_chip(axes, values)
        self._allocate_chip(bands_first_shape(header.shape, axes), header.dtype)
        stored = _stored_view(self._chip, axes, header.shape, header.axes)
        has_pixels = axes == header.axes == "YXS"  # all bands of a pixel lie side by side
        for segment in header.segments:
            data = os.pread(file.fileno(), segment.count, segment.offset)
            if len(data) != segment.count:
                raise ValueError("the file ended early")
            values = tiff_segments.decode(header.pages[segment.page], data, segment.index, segment.shape)
            if has_pixels and values.dtype == self._chip.dtype:
                _copy_to_planes(values, self._chip, segment.y, segment.x)
                continue
            out = stored[
                segment.page, segment.plane, segment.y : segment.y + segment.shape[0],
                segment.x : segment.x + segment.shape[1],
            ]  # fmt: skip
            np.copyto(out, values[: out.shape[0], : out.shape[1]])
        return self._chip

    def _remember(self, file: BinaryIO, opened: "Opened", check_page: PageCheck | None, expected: Expected) -> None:
        values, start = self._stored, opened.header.block
        assert start is not None
        end = file.seek(0, os.SEEK_END)
        if end - values.nbytes > _MAX_OTHER_BYTES:
            return
        before = os.pread(file.fileno(), start, 0)
        after = os.pread(file.fileno(), end - start - values.nbytes + 1, start + values.nbytes)
        if len(before) + values.nbytes + len(after) == end:
            self._known = _Layout(
                before=before, after=after, check_page=check_page, expected=expected, axes=opened.axes,
                shape=values.shape, dtype=values.dtype, place=self.place,
            )  # fmt: skip

    def _to_chip(self, axes: str, values: np.ndarray) -> np.ndarray:
        """(bands, height, width) of values in the order `axes`, or of one band without axes."""
        if values.ndim == 2 or axes != "YXS":
            return values.reshape(-1, *values.shape[-2:])
        self._allocate_chip(bands_first_shape(values.shape, axes), values.dtype)
        _copy_to_planes(values, self._chip)
        return self._chip

    def _allocate_chip(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        if (self._chip.shape, self._chip.dtype) != (shape, dtype):
            self._chip = np.empty(shape, dtype)

    def _stored_array(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        if (self._stored.shape, self._stored.dtype) != (shape, dtype):
            self._stored = np.empty(shape, dtype)
        return self._stored


def _copy_to_planes(values: np.ndarray, chip: np.ndarray, top: int = 0, left: int = 0) -> None:
    from preprocess.planes import copy_to_planes  # here: it needs numba, which takes 0.3 s

    copy_to_planes(values, chip, top, left)


_BYTEORDER = "<" if sys.byteorder == "little" else ">"
_MAX_OTHER_BYTES = 64 * 1024  # compared per file; comparing more would cost what it saves
_ADVICE = "Fetch it again, or remove it from the CSV."


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A file whose header was read and compared with what is expected. `axes`: order of its stored dimensions."""

    header: Header
    axes: str
    facts: Facts


@contextmanager
def damage_named(file: BinaryIO, path: str | Path) -> Iterator[None]:
    """Turn every error while reading a file into a ChipError that names the file."""
    try:
        yield
    except (UserError, MemoryError):  # a ChipError; or a server failed
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk fails
        # tifffile and the codecs raise a dozen kinds of errors on damaged input (struct.error, KeyError, ValueError,
        # ImcdError, ...). In each case this file is the cause.
        kind = "not a TIFF" if isinstance(error, tifffile.TiffFileError) and _not_tiff(file) else "damaged"
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ChipError(path, "a valid TIFF", f"a file that is {kind} ({reason})", _ADVICE) from error


def open_checked(file: BinaryIO, path: str | Path, check_page: PageCheck | None, expected: Expected) -> Opened:
    """Read the header, and compare it with what is expected."""
    with damage_named(file, path):
        with complaints_are_errors():
            tif = tifffile.TiffFile(file, name=os.fspath(path))
        header = read_header(tif, path, is_raster=expected.is_raster)
        if check_page is not None and (reason := check_page(header.pages[0])):
            raise ChipError(path, "a chip that the preset allows", reason)
        tiff_metadata.check_description(header, path)
        axes, guess = tiff_metadata.order(
            header, path, axes=expected.axes, shape=expected.shape, num_bands=expected.num_bands
        )
        shape = bands_first_shape(header.shape, axes)
        expected.check(path, shape, header.dtype.name)
        facts = tiff_metadata.facts(header, shape[0], order=axes, axes=expected.axes, guess=guess)
        _check_meaning(facts, path, expected)
        expected.check_nodata(path, facts.nodata_tag, header.dtype.name)
        return Opened(header=header, axes=axes, facts=facts)


def _check_meaning(facts: Facts, path: str | Path, expected: Expected) -> None:
    if expected.is_rgb and facts.is_other_than_rgb:
        raise ChipError(
            path, f"red, green and blue samples as in {expected.example}", "samples with another meaning",
            "If all files hold red, green and blue: BANDS=red,green,blue",
        )  # fmt: skip
    if expected.zero_is_white not in (None, facts.zero_is_white):
        kinds = ("0 as black", "0 as white")
        raise ChipError(
            path, f"{kinds[not facts.zero_is_white]} as in {expected.example}", kinds[facts.zero_is_white],
            "Remove it from the CSV, or write all chips in the same way.",
        )  # fmt: skip


def _not_tiff(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(2) not in (b"II", b"MM")


def bands_first_shape(stored: tuple[int, ...], axes: str) -> tuple[int, int, int]:
    """(bands, height, width) of a stored array with two dimensions, or with three in the order `axes`."""
    if len(stored) == 2:
        return 1, stored[0], stored[1]
    first, second, third = stored
    return (third, first, second) if axes == "YXS" else (first, second, third)


def _stored_view(chip: np.ndarray, axes: str, shape: tuple[int, ...], stored_axes: str) -> np.ndarray:
    """View of `chip` as (page, plane, y, x, sample), as in the file."""
    if len(shape) == 2:
        return chip.reshape(1, 1, *shape, 1)
    stored = np.moveaxis(chip, 0, -1) if axes == "YXS" else chip
    if stored_axes == "YXS":
        return stored[None, None]
    return stored[:, None, :, :, None] if stored_axes == "PYX" else stored[None, ..., None]
