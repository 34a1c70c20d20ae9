"""The windows of a raster: where they begin, what they are called, and what is left over at the edges.

In: the size of a raster, and the settings WINDOW, STRIDE and FIT. Out: a `Grid`. Leaves reading to `raster`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from preprocess.georeference import Place
from preprocess.window_cut import Cut

_NAME = re.compile(r"(.+)_r(\d{1,7})_c(\d{1,7})")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The windows of one raster. `name`: the raster's name. `path`: its file; with a file per band it keeps {band}.

    place: of the raster. state: see `chip_reader.state_of`.
    """

    name: str
    path: str
    height: int
    width: int
    cut: Cut
    place: Place | None
    state: tuple[int, int]

    @property
    def rows(self) -> range:
        """First rows of the windows."""
        return self.cut.starts(self.height)

    @property
    def columns(self) -> range:
        """First columns of the windows."""
        return self.cut.starts(self.width)

    @property
    def corners(self) -> np.ndarray:
        """(windows, 2) int64: first row and column of each window, row by row."""
        return np.stack(np.meshgrid(self.rows, self.columns, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.int64)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    @property
    def num_padded(self) -> int:
        """Windows that pass the right or the lower edge."""
        inside = [
            sum(start + self.cut.window <= side for start in self.cut.starts(side))
            for side in (self.height, self.width)
        ]  # fmt: skip
        return len(self) - inside[0] * inside[1]

    def names(self) -> Iterator[str]:
        """The name of each window, in the order of `corners`."""
        return (window_name(self.name, row, column) for row in self.rows for column in self.columns)


def window_name(raster: str, row: int, column: int) -> str:
    """ "a/scene_r00512_c00256": the name of the raster, and the first row and column of the window."""
    return f"{raster}_r{row:05d}_c{column:05d}"


def parse_name(name: str) -> tuple[str, int, int] | None:
    """(raster, first row, first column) of a window's name; None if it has another form."""
    match = _NAME.fullmatch(name)
    return (match[1], int(match[2]), int(match[3])) if match else None


def num_windows(grids: list[Grid]) -> str:
    """ "12 windows of 256 x 256 in 1 raster" """
    count, window = sum(map(len, grids)), grids[0].cut.window
    return f"{count} windows of {window} x {window} in {len(grids)} raster{'s' if len(grids) > 1 else ''}"


def edge_line(grids: list[Grid]) -> str:
    """A sentence about the windows that pass an edge, or about the pixels there that are in no window; "" if there are
    none."""
    cut = grids[0].cut
    if cut.pad:
        passing = sum(grid.num_padded for grid in grids)
        return f"{passing} of them pass an edge and are padded." if passing else ""
    edges = [(grid, cut.left_over(grid.height), cut.left_over(grid.width)) for grid in grids]
    edges = [edge for edge in edges if any(edge[1:])]
    if not edges:
        return ""
    grid, rows, columns = edges[0]
    sides = [f"{count} {word}" for count, word in ((rows, "rows below"), (columns, "columns at the right")) if count]
    first = f"{grid.path}: {' and '.join(sides)}"
    count = f" (the first of {len(edges)} such rasters)" if len(edges) > 1 else ""
    return f"{first} are in no window{count}. FIT=pad adds windows that pass the edges."
