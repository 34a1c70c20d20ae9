"""One path -> one (bands, height, width) array of exactly the file's values.

In: a TIFF of a dtype in DTYPES, chunky or planar, strips or tiles, in any compression that `tiff_segments` lists.
Out: a C-contiguous array in native byte order, every value of it from this file, or a ChipError. Leaves the header to
`tiff_header`, decoding to `tiff_segments`, naming the bands to `plan`.
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
from preprocess.files import open_regular
from preprocess.layout import DTYPES as DTYPES
from preprocess.tiff_header import ChipError as ChipError
from preprocess.tiff_header import Header, complaints_are_errors, read_header
from preprocess.tiff_metadata import AXES as AXES
from preprocess.tiff_metadata import Facts as Facts

PageCheck = Callable[[tifffile.TiffPage], str | None]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a file has to be; None: anything.

    `shape` is (bands, height, width), `dtype` a name. `example` is the path that they come from. `axes` names the
    stored dimensions ("YXS" or "SYX"); `num_bands` helps to find them out where `shape` is not known yet. `is_rgb`
    wants a file that does not call its samples anything but red, green and blue; `zero_is_white` one that says so, or
    one that does not.
    """

    shape: tuple[int, int, int] | None = None
    dtype: str | None = None
    example: str = ""
    axes: str | None = None
    num_bands: int | None = None
    is_rgb: bool = False
    zero_is_white: bool | None = None


ANY = Wanted()


def read(path: str | Path, check_page: PageCheck | None = None, wanted: Wanted = ANY) -> np.ndarray:
    """Read one chip; see `Reader.read`. The array is the caller's own."""
    return Reader().read(path, check_page, wanted)


def read_facts(path: str | Path, wanted: Wanted = ANY) -> Facts:
    """Read the header only; raises as `Reader.read` does."""
    with open_regular(path) as file:
        return _open(file, path, None, wanted).facts


@dataclass(frozen=True, kw_only=True)
class _Known:
    """Layout of the previous file, if its pixels were one contiguous, uncompressed, native-endian block: header,
    trailer, stored shape and dtype; and what it was checked for."""

    before: bytes
    behind: bytes
    check_page: PageCheck | None
    wanted: Wanted
    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype


class Reader:
    """Reads chips into memory that is reused: fresh memory costs more than the reading does.

    Chips of one data set often differ in their pixels only, all of Planet's for one. A file that equals the one before
    in every other byte is not parsed again, which halves the time.
    """

    def __init__(self) -> None:
        self._file_values = self._tile = np.empty(0, np.uint8)
        self._known: _Known | None = None

    def read(self, path: str | Path, check_page: PageCheck | None = None, wanted: Wanted = ANY) -> np.ndarray:
        """Read one chip.

        Shape and dtype come from the header, and are compared with what is wanted before a value is decoded.

        Args:
            path: the file.
            check_page: returns why a page must not be used (a preset's rule), or None.
            wanted: what it has to be.

        Returns:
            (bands, height, width), one of DTYPES, native byte order, C-contiguous; valid until the next call.

        Raises:
            ChipError: not a TIFF, damaged, truncated, another dtype or shape, or a layout that is no single image.
            FileNotFoundError, PermissionError: as the operating system says.
        """
        with open_regular(path) as file:
            known = self._known
            if known is not None and (known.check_page, known.wanted) == (check_page, wanted):
                if self._reads_as(file, known):
                    return self._tile_of(_bands_first(known.axes, self._file_values))
            self._known = None
            opened = _open(file, path, check_page, wanted)
            with _damage_named(file, path), complaints_are_errors():
                return self._decode(file, opened, check_page, wanted)

    def _reads_as(self, file: BinaryIO, known: _Known) -> bool:
        """Read the file's values in place, if all else in it is as in the known one."""
        values = self._room(known.shape, known.dtype)
        before, behind = bytearray(len(known.before)), bytearray(len(known.behind) + 1)  # 1 more, to notice its end
        count = os.preadv(file.fileno(), [before, values.data, behind], 0)
        whole = count == len(before) + values.nbytes + len(known.behind)
        return whole and before == known.before and behind[:-1] == known.behind

    def _decode(self, file: BinaryIO, opened: "_Opened", check_page: PageCheck | None, wanted: Wanted) -> np.ndarray:
        header, axes = opened.header, opened.axes
        if header.block is not None:
            values = self._room(header.shape, header.dtype)
            if os.preadv(file.fileno(), [values.data], header.block) != values.nbytes:
                raise ValueError("the file ended early")
            if header.pages[0].parent.byteorder == _BYTEORDER:
                self._remember(file, opened, check_page, wanted)
            elif values.itemsize > 1:
                values.byteswap(inplace=True)
            return self._tile_of(_bands_first(axes, values))
        self._know_shape(bands_first_shape(header.shape, axes), header.dtype)
        stored = _stored_view(self._tile, axes, header.shape, header.axes)
        for part in header.segments:
            data = os.pread(file.fileno(), part.count, part.offset)
            if len(data) != part.count:
                raise ValueError("the file ended early")
            values = tiff_segments.decode(header.pages[part.page], data, part.index, part.shape)
            out = stored[part.page, part.plane, part.y : part.y + part.shape[0], part.x : part.x + part.shape[1]]
            np.copyto(out, values[: out.shape[0], : out.shape[1]])
        return self._tile

    def _remember(self, file: BinaryIO, opened: "_Opened", check_page: PageCheck | None, wanted: Wanted) -> None:
        values, start = self._file_values, opened.header.block
        assert start is not None
        end = file.seek(0, os.SEEK_END)
        if end - values.nbytes > _MAX_OTHER_BYTES:
            return
        before = os.pread(file.fileno(), start, 0)
        behind = os.pread(file.fileno(), end - start - values.nbytes + 1, start + values.nbytes)
        if len(before) + values.nbytes + len(behind) == end:
            self._known = _Known(
                before=before, behind=behind, check_page=check_page, wanted=wanted, axes=opened.axes,
                shape=values.shape, dtype=values.dtype,
            )  # fmt: skip

    def _tile_of(self, bands_first: np.ndarray) -> np.ndarray:
        if bands_first.flags.c_contiguous:
            return bands_first
        self._know_shape(bands_first.shape, bands_first.dtype)
        np.copyto(self._tile, bands_first)
        return self._tile

    def _know_shape(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        if (self._tile.shape, self._tile.dtype) != (shape, dtype):
            self._tile = np.empty(shape, dtype)

    def _room(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        if (self._file_values.shape, self._file_values.dtype) != (shape, dtype):
            self._file_values = np.empty(shape, dtype)
        return self._file_values


_BYTEORDER = "<" if sys.byteorder == "little" else ">"
_MAX_OTHER_BYTES = 64 * 1024  # what is compared a file; more of it would cost what it saves
_ADVICE = "Fetch it again, or leave it out of the CSV."


@dataclass(frozen=True, kw_only=True)
class _Opened:
    header: Header
    axes: str
    facts: Facts


@contextmanager
def _damage_named(file: BinaryIO, path: str | Path) -> Iterator[None]:
    """Turn all that goes wrong in reading a file into a ChipError that names it."""
    try:
        yield
    except (ChipError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk is at fault
        # tifffile and the codecs raise a dozen kinds on damaged input (struct.error, KeyError,
        # ValueError, ImcdError, ...): whatever it is, this one file is at fault.
        kind = "not a TIFF" if isinstance(error, tifffile.TiffFileError) and _not_tiff(file) else "damaged"
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ChipError(path, "a whole TIFF", f"a file that is {kind} ({reason})", _ADVICE) from error


def _open(file: BinaryIO, path: str | Path, check_page: PageCheck | None, wanted: Wanted) -> _Opened:
    """Read the header, and compare it with what is wanted."""
    with _damage_named(file, path):
        with complaints_are_errors():
            tif = tifffile.TiffFile(file, name=os.fspath(path))
        header = read_header(tif, path)
        if check_page is not None and (reason := check_page(header.pages[0])):
            raise ChipError(path, "a chip that the preset allows", reason)
        tiff_metadata.check_description(header, path)
        axes, guess = tiff_metadata.order(
            header, path, axes=wanted.axes, shape=wanted.shape, num_bands=wanted.num_bands
        )
        shape, dtype = bands_first_shape(header.shape, axes), header.dtype.name
        if (wanted.shape or shape, wanted.dtype or dtype) != (shape, dtype):
            as_in = f" as in {wanted.example}" if wanted.example else ""
            raise ChipError(
                path, f"{wanted.shape} {wanted.dtype} (bands, height, width){as_in}", f"{shape} {dtype}",
                "All chips of a store are alike: mend it or leave it out of the CSV." if wanted.example else "",
            )  # fmt: skip
        facts = tiff_metadata.facts(header, shape[0], order=axes, axes=wanted.axes, guess=guess)
        _check_meaning(facts, path, wanted)
        return _Opened(header=header, axes=axes, facts=facts)


def _check_meaning(facts: Facts, path: str | Path, wanted: Wanted) -> None:
    if wanted.is_rgb and facts.is_other_than_rgb:
        raise ChipError(
            path, f"red, green and blue samples as in {wanted.example}", "samples that the file calls something else",
            "Say what all files hold: BANDS=red,green,blue",
        )  # fmt: skip
    if wanted.zero_is_white not in (None, facts.zero_is_white):
        kinds = ("0 as black", "0 as white")
        raise ChipError(
            path, f"{kinds[not facts.zero_is_white]} as in {wanted.example}", kinds[facts.zero_is_white],
            "Leave it out of the CSV, or write all chips alike.",
        )  # fmt: skip


def _not_tiff(file: BinaryIO) -> bool:
    return os.pread(file.fileno(), 2, 0) not in (b"II", b"MM")


def bands_first_shape(stored: tuple[int, ...], axes: str) -> tuple[int, int, int]:
    """(bands, height, width) of a stored array of two dimensions, or of three that `axes` names."""
    if len(stored) == 2:
        return 1, stored[0], stored[1]
    first, second, third = stored
    return (third, first, second) if axes == "YXS" else (first, second, third)


def _bands_first(axes: str, values: np.ndarray) -> np.ndarray:
    if values.ndim == 2:
        return values[None]
    return np.moveaxis(values, -1, 0) if axes == "YXS" else values


def _stored_view(tile: np.ndarray, axes: str, shape: tuple[int, ...], stored_axes: str) -> np.ndarray:
    """`tile` as (page, plane, y, x, sample) of the file."""
    if len(shape) == 2:
        return tile.reshape(1, 1, *shape, 1)
    stored = np.moveaxis(tile, 0, -1) if axes == "YXS" else tile
    if stored_axes == "YXS":
        return stored[None, None]
    return stored[:, None, :, :, None] if stored_axes == "PYX" else stored[None, ..., None]
