"""Read windows of rasters as (bands, height, width) chips: of one TIFF, or of a TIFF per band.

In: `ChipFiles` with a `Cut`, the path of a raster, windows by their first row and column. Out: their pixels, where they
lie, and the reason for each window that cannot be read. Leaves the blocks of a TIFF to `raster`.
"""

import threading
from collections.abc import Sequence

import numpy as np

from preprocess import presets
from preprocess.chip_reader import ChipFiles, check_places, joined_state, paths_of, state_of
from preprocess.files import is_url
from preprocess.fit import Window
from preprocess.georeference import Place, place_in
from preprocess.nodata import nodata_value
from preprocess.raster import Raster
from preprocess.tiff_page import ChipError
from preprocess.window_cut import Cut

_MAX_OPEN = 8  # headers of rasters that are kept: that of 20,000 x 20,000 pixels takes 10 MB


class WindowReader:
    """Reads windows. Several threads can use one object."""

    def __init__(self, files: ChipFiles) -> None:
        assert files.cut is not None
        self._files, self._cut = files, files.cut
        self._check_page = presets.PRESETS[files.preset].check_page if files.preset else None
        self._rasters: dict[str, list[Raster]] = {}
        self._lock = threading.Lock()

    def read(
        self, path: str, corners: np.ndarray, out: Sequence[np.ndarray]
    ) -> tuple[list[Place | None], dict[int, ChipError]]:
        """Read windows of one raster.

        Args:
            path: of the raster; with a file per band it keeps {band}.
            corners: (N, 2), first row and first column of each.
            out: N arrays of (bands, height, width), to be filled.

        Returns:
            The place of each window, and the reason for each window that cannot be read, by its number.

        Raises:
            ChipError: the raster cannot be used at all, or has other properties than the plan expects.
            OSError: raised by the operating system.
        """
        rasters = self.rasters(path)
        errors: dict[int, ChipError] = {}
        if len(rasters) == 1:
            errors = rasters[0].read(corners, out)
        else:
            for band, raster in enumerate(rasters):
                errors = raster.read(corners, [window[band : band + 1] for window in out]) | errors
        if self._cut.pad:
            for (row, column), window in zip(corners.tolist(), out, strict=True):
                _pad(window, rasters[0].shape[1] - row, rasters[0].shape[2] - column, self._cut)
        place = next((raster.place for raster in rasters if raster.place), None)
        return [place and place_of(place, row, column) for row, column in corners.tolist()], errors

    def state(self, path: str) -> tuple[int, int]:
        """The state of a raster's files now, see `state_of`; in object storage, that of its header when it was read.

        Raises:
            ChipError, OSError: see `read`.
        """
        if not is_url(path):
            return state_of(path, self._files.bands)
        states = [raster.state for raster in self.rasters(path)]
        return joined_state(states) if self._files.bands else states[0]

    def rasters(self, path: str) -> list[Raster]:
        """The raster of each file at a path, opened and compared with each other.

        Raises:
            ChipError: see `read`; or the files of bands differ in size or place.
        """
        with self._lock:
            if path in self._rasters:
                return self._rasters[path]
        files = self._files
        rasters = [
            Raster(file, self._check_page, expected)
            for file, expected in zip(paths_of(path, files.bands), files.expected, strict=True)
        ]
        _check_alike(rasters)
        with self._lock:
            self._rasters[path] = rasters
            while len(self._rasters) > _MAX_OPEN:
                del self._rasters[next(iter(self._rasters))]
        return rasters


def place_of(place: Place, row: int, column: int) -> Place:
    """Where a window of a raster at `place` lies."""
    return place_in(place, Window(top=row, left=column, row_size=1, column_size=1))


def _check_alike(rasters: list[Raster]) -> None:
    """Refuse bands of different sizes or places."""
    first = rasters[0]
    for raster in rasters[1:]:
        if raster.shape != first.shape or raster.dtype != first.dtype:
            expected, found = (f"{each.shape[1]} x {each.shape[2]} {each.dtype}" for each in (first, raster))
            raise ChipError(
                raster.path, f"{expected} pixels as in {first.path}, because of WINDOW", found,
                "Bring all bands to one grid: gdalwarp -tr 10 10 in.tif out.tif",
            )  # fmt: skip
    check_places([(raster.path, raster.place) for raster in rasters])


def _pad(window: np.ndarray, rows: int, columns: int, cut: Cut) -> None:
    """Fill what lies behind the first `rows` and `columns` of a window, which are in the raster."""
    _, height, width = window.shape
    if rows >= height and columns >= width:
        return
    inside = window[:, :rows, :columns]
    if cut.nodata is None:
        _, high, wide = inside.shape
        window[:] = np.pad(inside, ((0, 0), (0, height - high), (0, width - wide)), mode="reflect")
        return
    value = window.dtype.type(nodata_value(cut.nodata))
    window[:, rows:], window[:, :, columns:] = value, value
