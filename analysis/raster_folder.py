"""A folder of large rasters -> test batches of their windows, for a run whose chips were windows.

In: a folder, and how windows are cut. Out: `Files` with a name per window, and a reader as `chip_folder` has one for
files. A raster that cannot be used is one bad name; a damaged block makes the windows that need it bad.
"""

import os
from dataclasses import dataclass, field

import numpy as np

from analysis.chip_folder import Files, FolderReader
from preprocess.addresses import Location
from preprocess.chip_reader import ChipFiles
from preprocess.console import SHORTAGES, UserError, say
from preprocess.expected import Expected
from preprocess.file_patterns import FilePattern
from preprocess.raster_file import changed
from preprocess.raster_list import find_rasters, read_grid
from preprocess.tiff_page import ChipError
from preprocess.window_cut import Cut
from preprocess.window_grid import Grid, edge_line, num_windows
from preprocess.window_reader import WindowReader
from preprocess.write import check_finite


def window_files(
    *, bands: tuple[str, ...], dtype: str, axes: str | None, cut: Cut, pattern: FilePattern | None
) -> ChipFiles:
    """How the windows of rasters with these bands are read."""
    words = pattern.bands if pattern else ()
    expected = Expected(num_bands=1 if words else len(bands), dtype=dtype, axes=axes)
    return ChipFiles(expected=(expected,) * max(len(words), 1), bands=words, cut=cut)


def list_windows(folder: Location, pattern: FilePattern | None, how: ChipFiles) -> Files:
    """Every window of every raster below `folder`, raster by raster. Reads headers and no pixels.

    Raises:
        UserError: there is no raster, two have one name, or no window fits into any.
    """
    grids: list[Grid] = []
    unusable: list[tuple[str, str]] = []
    named = find_rasters(folder, pattern)
    for name, path in named:
        try:
            name.encode()
            grids.append(read_grid(name, path, how))
        except UnicodeEncodeError as error:
            text = os.path.relpath(path, folder)
            raise UserError(
                f"DATA={folder}: expected file names in UTF-8, found {text!r}. Rename this file."
            ) from error
        except (ChipError, OSError) as error:
            if isinstance(error, OSError) and error.errno in SHORTAGES:
                raise
            unusable.append((name, path))
    assert how.cut is not None
    if grids:
        say(f"DATA={folder}: {num_windows(grids)}. {edge_line(grids)}".rstrip())
    used = [grid for grid in grids if len(grid)]
    if not used and not unusable:
        raise UserError(
            f"DATA={folder}: none of {len(named)} rasters has {how.cut.window} rows and columns, as the windows of the "
            "run's store have."
        )
    states = [grid.state for grid in used for _ in range(len(grid))] + [(0, 0)] * len(unusable)
    size, mtime_ns = np.array(states, np.int64).T
    return Files(
        names=[name for grid in used for name in grid.names()] + [name for name, _ in unusable],
        paths=[grid.path for grid in used for _ in range(len(grid))] + [path for _, path in unusable],
        size=size, mtime_ns=mtime_ns, bands=how.bands,
        corners=np.concatenate([*(grid.corners for grid in used), np.zeros((len(unusable), 2), np.int64)]),
    )  # fmt: skip


@dataclass(kw_only=True)
class RasterReader(FolderReader):
    """Reads windows by number. how: see `window_files`."""

    how: ChipFiles
    _windows: WindowReader = field(init=False)

    def __post_init__(self) -> None:
        self._windows = WindowReader(self.how)

    def decode(self, chips: np.ndarray, out: np.ndarray, flip_rows: np.ndarray | None = None) -> None:
        """Read windows into `out`, (N, bands, height, width), raster by raster: each block is decoded once per call."""
        assert flip_rows is None  # test batches are never flipped
        rows_of: dict[str, list[int]] = {}
        for row, chip in enumerate(chips.tolist()):
            rows_of.setdefault(self.files.paths[chip], []).append(row)
        for path, rows in rows_of.items():
            self._read_windows(path, chips[rows].tolist(), [out[row] for row in rows])

    def _read_windows(self, path: str, chips: list[int], out: list[np.ndarray]) -> None:
        layout = self.layout
        shape = (len(chips), len(layout.bands), layout.height, layout.width)
        values = np.empty(shape, layout.dtype)
        assert self.files.corners is not None
        try:
            places, errors = self._windows.read(path, self.files.corners[chips], list(values))
            if self._windows.state(path) != (self.files.size[chips[0]], self.files.mtime_ns[chips[0]]):
                raise changed(path)
        except ChipError as error:
            places, errors = [None] * len(chips), dict.fromkeys(range(len(chips)), error)
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            reason = error.strerror or type(error).__name__
            unreadable = ChipError(error.filename or path, "a readable file", reason)
            places, errors = [None] * len(chips), dict.fromkeys(range(len(chips)), unreadable)
        order = [layout.bands.index(band) for band in self.bands]
        for number, chip in enumerate(chips):
            try:
                if number in errors:
                    raise errors[number]
                check_finite(values[number], path, layout.nodata)
            except ChipError as error:
                self.bad[chip] = str(error)
                out[number][:] = 0
                continue
            if place := places[number]:
                self.places[chip] = place
            for row, band in enumerate(order):
                out[number][row] = values[number, band]
