"""One path -> one (bands, height, width) array of exactly the file's values.

In: a TIFF, uint8, uint16, int16 or float32, chunky or planar, strips or tiles, any compression tifffile and
imagecodecs know. Out: a C-contiguous array in native byte order. Leaves naming the bands, and
comparing a chip with its neighbours, to `convert`.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import tifffile

from preprocess.console import UserError

SUFFIXES = (".tif", ".tiff", ".TIF", ".TIFF")
DTYPES = ("uint8", "uint16", "int16", "float32")

PageCheck = Callable[[tifffile.TiffPage], str | None]


class TileError(UserError):
    """A chip that cannot be used: names the file, what was expected and what was found."""

    def __init__(self, path: str | Path, expected: str, found: str, advice: str = "") -> None:
        super().__init__(f"{path}: expected {expected}, found {found}.{' ' + advice if advice else ''}")
        self._parts = (path, expected, found, advice)

    def __reduce__(self) -> tuple[type, tuple[str | Path, str, str, str]]:
        # Exceptions cross the process boundary by pickling their arguments.
        return type(self), self._parts


def read(path: str | Path, check_page: PageCheck | None = None) -> np.ndarray:
    """Read one chip; see `Reader.read`. The array is the caller's own."""
    return Reader().read(path, check_page)


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What a file was found to hold whose values lie in one piece, uncompressed, in this machine's byte order; and
    every byte before and behind them."""

    before: bytes
    behind: bytes
    check_page: PageCheck | None
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

    def read(self, path: str | Path, check_page: PageCheck | None = None) -> np.ndarray:
        """Read one chip.

        Args:
            path: the file.
            check_page: returns why a page must not be used (a preset's rule), or None.

        Returns:
            (bands, height, width), one of DTYPES, native byte order, C-contiguous; valid until the next call.

        Raises:
            TileError: not a TIFF, corrupt, truncated, another dtype, or a layout that is no single image.
            FileNotFoundError, PermissionError: as the operating system says.
        """
        if self._known is not None and self._known.check_page is check_page and self._reads_as(path, self._known):
            axes, values = self._known.axes, self._file_values
        else:
            axes, values = self._parse(path, check_page)
        bands_first = _bands_first(path, axes, values)
        if bands_first.flags.c_contiguous:
            return bands_first
        if (self._tile.shape, self._tile.dtype) != (bands_first.shape, bands_first.dtype):
            self._tile = np.empty(bands_first.shape, bands_first.dtype)
        np.copyto(self._tile, bands_first)
        return self._tile

    def _reads_as(self, path: str | Path, known: _Known) -> bool:
        """Read the file's values in place, if all else in it is as in the known one."""
        values = self._room(known.shape, known.dtype)
        before, behind = bytearray(len(known.before)), bytearray(len(known.behind) + 1)  # 1 more, to notice its end
        with open(path, "rb", buffering=0) as file:
            count = os.preadv(file.fileno(), [before, values.data, behind], 0)
        whole = count == len(before) + values.nbytes + len(known.behind)
        return whole and before == known.before and behind[:-1] == known.behind

    def _parse(self, path: str | Path, check_page: PageCheck | None) -> tuple[str, np.ndarray]:
        self._known = None
        with open(path, "rb") as file:
            try:
                with tifffile.TiffFile(file, name=os.fspath(path)) as tif:
                    if check_page is not None and (reason := check_page(_first_page(tif))):
                        raise TileError(path, "a chip that the preset allows", reason)
                    series = tif.series[0]
                    if series.dtype is None or series.dtype.name not in DTYPES:
                        raise TileError(
                            path, "uint8, uint16, int16 or float32 values", getattr(series.dtype, "name", "none")
                        )
                    axes, values = series.axes, series.asarray(out=self._room(series.shape, series.dtype))
                    if series.dataoffset is not None and tif.byteorder == _BYTEORDER:
                        self._remember(file, series.dataoffset, check_page, axes)
            except (TileError, MemoryError):
                raise
            except Exception as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise  # the disk is at fault
                # tifffile and the codecs raise a dozen kinds on damaged input (struct.error, KeyError,
                # ValueError, ImcdError, ...): whatever it is, this one file is at fault.
                kind = "not a TIFF" if isinstance(error, tifffile.TiffFileError) and _not_tiff(path) else "damaged"
                reason = " ".join(str(error).split()) or type(error).__name__
                raise TileError(path, "a whole TIFF", f"a file that is {kind} ({reason})", _ADVICE) from error
        return axes, values

    def _remember(self, file: BinaryIO, start: int, check_page: PageCheck | None, axes: str) -> None:
        values = self._file_values
        end = file.seek(0, os.SEEK_END)
        if end - values.nbytes > _MAX_OTHER_BYTES:
            return
        file.seek(0)
        before = file.read(start)
        file.seek(start + values.nbytes)
        self._known = _Known(
            before=before, behind=file.read(), check_page=check_page, axes=axes, shape=values.shape, dtype=values.dtype
        )

    def _room(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        native = dtype.newbyteorder("=")
        if (self._file_values.shape, self._file_values.dtype) != (shape, native):
            self._file_values = np.empty(shape, native)
        return self._file_values


_BYTEORDER = "<" if sys.byteorder == "little" else ">"
_MAX_OTHER_BYTES = 64 * 1024  # what is compared a file; more of it would cost what it saves
_ADVICE = "Fetch it again, or leave it out of the CSV."


def _first_page(tif: tifffile.TiffFile) -> tifffile.TiffPage:
    page = tif.pages[0]
    assert isinstance(page, tifffile.TiffPage)  # the first page is never a TiffFrame
    return page


def _not_tiff(path: str | Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) not in (b"II", b"MM")


def _bands_first(path: str | Path, axes: str, values: np.ndarray) -> np.ndarray:
    kept = [index for index, axis in enumerate(axes) if axis in "YX" or values.shape[index] > 1]
    axes, values = "".join(axes[index] for index in kept), values.reshape([values.shape[index] for index in kept])
    if axes == "YX":
        return values[None]
    if axes == "YXS":
        return np.moveaxis(values, -1, 0)
    if len(axes) == 3 and axes.endswith("YX"):  # planar samples (S), or one page a band (Q, I, C, Z, T)
        return values
    raise TileError(path, "one image of one or more bands", f"axes {axes} of shape {values.shape}")
