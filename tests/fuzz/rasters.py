"""Damaged TIFFs, read as rasters: windows of `preprocess.raster.Raster` are compared with the reader of whole chips.

Bases and damage: as in `tiffs`.

Oracle. Each window that is not refused must have the pixels that the reader of whole chips finds there. If that one
refuses the file, because another block is damaged, the window must have the undamaged pixels, or those of the block as
tifffile decodes it. silent: other pixels; or pixels that no block has.
"""

import io
from pathlib import Path
from unittest import mock

import numpy as np
import tifffile

from fuzz.outcome import Case, Refused, attempt
from fuzz.tiffs import Tiffs, make_bases
from preprocess import tiff
from preprocess.expected import Expected
from preprocess.raster import Raster
from preprocess.tiff_page import ChipError

__all__ = ["Rasters", "make_bases"]

WINDOW = (5, 7)
MAX_SIDE = 40  # windows are read up to here: damage can make a raster huge


class Rasters(Tiffs):
    """Damage of TIFFs, read window by window. Files without compression are read in pieces of few rows."""

    def __init__(self, bases: Path, work: Path) -> None:
        super().__init__(bases, work)
        mock.patch("preprocess.raster.PIECE_BYTES", 100).start()  # until this process ends

    def judge(self, case: Case) -> Case:
        """Read all windows twice, into memory with other values, and compare them with the whole chip."""
        try:
            raster = attempt(lambda: _open(self._path))
        except Refused as error:
            return case.to("refused", str(error))
        _, height, width = raster.shape
        starts = [
            range(0, min(side, MAX_SIDE) - size + 1, 3) for side, size in zip((height, width), WINDOW, strict=True)
        ]
        corners = np.array([(row, column) for row in starts[0] for column in starts[1]], np.int64).reshape(-1, 2)
        if not len(corners):
            return case.to("refused", f"no window in {raster.shape}")
        try:
            one, refusals = attempt(lambda: _windows(raster, corners, 0))
            other, _ = attempt(lambda: _windows(raster, corners, 171))
        except Refused as error:
            return case.to("refused", str(error))
        read = [number for number in range(len(corners)) if number not in refusals]
        if any(one[number].tobytes() != other[number].tobytes() for number in read):
            return case.to("silent", "a window has pixels that no block has")
        pixels = self._whole(raster)
        if isinstance(pixels, str):
            return case.to("silent", pixels) if read else case.to("refused", str(next(iter(refusals.values()))))
        for number in read:
            row, column = corners[number].tolist()
            if one[number].tobytes() != pixels[:, row : row + WINDOW[0], column : column + WINDOW[1]].tobytes():
                return case.to(
                    "silent", f"the window at {row}, {column} of {raster.shape} has other pixels than the chip"
                )
        if refusals:
            return case.to("refused", str(next(iter(refusals.values()))))
        same = pixels.shape == self._base.pixels.shape and pixels.tobytes() == self._base.pixels.tobytes()
        return case.to("equal" if same else "altered")

    def _whole(self, raster: Raster) -> np.ndarray | str:
        """The pixels as the reader of chips finds them; if it refuses the file, as tifffile does, block by block. A
        text: nobody else reads the file."""
        try:
            return tiff.Reader().read(self._path).copy()
        except (ChipError, OSError) as error:
            refusal = str(error)
        try:
            return _by_blocks(self._path.read_bytes(), raster)
        except Exception as error:  # tifffile raises a dozen exception types on damaged input
            return f"windows of {raster.shape} are read; the reader of chips: {refusal}; tifffile: {error}"


def _open(path: Path) -> Raster:
    try:
        return Raster(str(path), None, Expected())
    except OSError as error:
        raise ChipError(path, "a readable file", error.strerror or type(error).__name__) from error


def _windows(raster: Raster, corners: np.ndarray, fill: int) -> tuple[list[np.ndarray], dict[int, ChipError]]:
    out = [np.full((raster.shape[0], *WINDOW), fill, raster.dtype) for _ in corners]
    return out, raster.read(corners, out)


def _by_blocks(data: bytes, raster: Raster) -> np.ndarray:
    """(bands, height, width) with every block that tifffile can decode; blocks that it cannot are 0."""
    bands, height, width = raster.shape
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        chunky = len(tif.pages) == 1 and tif.pages[0].planarconfig == 1
        out = np.zeros((height, width, bands) if chunky else raster.shape, raster.dtype)
        for number, page in enumerate(tif.pages if not chunky and len(tif.pages) == bands else tif.pages[:1]):
            for index, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
                try:
                    values, place, shape = page.decode(data[offset : offset + count], index, jpegtables=page.jpegtables)
                except Exception:  # its windows must be refused, which the caller sees
                    continue
                plane, _, row, column, _ = place
                block = values[0, : shape[1], : shape[2]]
                rows, columns = slice(row, row + shape[1]), slice(column, column + shape[2])
                if chunky:
                    out[rows, columns] = block
                else:
                    out[number + plane, rows, columns] = block[..., 0]
    return np.moveaxis(out, -1, 0) if chunky else out
