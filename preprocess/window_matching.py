"""Find the window of every row of the CSV.

In: a `LabelTable`, and the windows of all rasters. Out: `Windows`: the raster and corner of each row. A name is that of
its raster, with the first row and column: `scene_r00512_c00256`. Leaves the rasters to `raster_list`.
"""

from dataclasses import dataclass

import numpy as np

from preprocess.addresses import Location
from preprocess.console import UserError, say
from preprocess.file_matching import Files
from preprocess.image_names import Index, bare
from preprocess.label_files import number_of
from preprocess.labels import LabelTable
from preprocess.window_grid import Grid, parse_name, window_name

_SHOWN = 3  # names in a message


@dataclass(frozen=True, kw_only=True)
class Windows:
    """The rasters of the rows that have a window, and `corners`, (N, 2): its first row and column."""

    files: Files
    corners: np.ndarray


def match_windows(
    csv: Location, table: LabelTable, folder: Location, grids: list[Grid], *, allow_missing: bool
) -> Windows:
    """Look up every row. Rows without a window are refused, or skipped and counted.

    Raises:
        UserError: a row names no window, or two rows name one.
    """
    by_name = {grid.name: grid for grid in grids}
    index = Index(by_name, folder)
    rows: dict[tuple[str, int, int], int] = {}
    missing: list[str] = []
    others: list[tuple[str, str]] = []
    for row, name in enumerate(table.names):
        rasters, window = _find(name, by_name, index)
        if len(rasters) > 1:
            first = ", ".join(map(repr, rasters[:_SHOWN]))
            raise UserError(
                f"{csv} {number_of(csv, table.lines[row])}: {name!r} can mean windows of {len(rasters)} rasters: "
                f"{first}. Write the exact name of the raster."
            )
        if window is None:
            missing.append(name)
            continue
        if (before := rows.setdefault(window, row)) != row:
            raise UserError(
                f"{csv} {number_of(csv, table.lines[row])}: {name!r} means the window {window_name(*window)}, and so "
                f"does {table.names[before]!r} in {number_of(csv, table.lines[before])}. Remove one of the rows."
            )
        if bare(name) != window_name(*window):
            others.append((name, window_name(*window)))
    _check_missing(csv, table, folder, grids, missing, allow_missing=allow_missing)
    if others:
        name, meant = others[0]
        say(
            f"{csv}: {len(others)} of {len(table.names)} names differ from the names of their windows. The first, "
            f"{name!r}, means {meant!r}."
        )
    if left := sum(map(len, grids)) - len(rows):
        say(f"{csv}: {left} of {left + len(rows)} windows have no row; leaving them out.")
    used = [by_name[name] for name, _, _ in rows]
    return Windows(
        files=Files(
            paths=tuple(grid.path for grid in used), csv_row=np.array(list(rows.values()), np.int64),
            size=np.array([grid.state[0] for grid in used], np.int64),
            mtime_ns=np.array([grid.state[1] for grid in used], np.int64),
        ),
        corners=np.array([corner for _, *corner in rows], np.int64),
    )  # fmt: skip


def _find(name: str, by_name: dict[str, Grid], index: Index) -> tuple[list[str], tuple[str, int, int] | None]:
    """The rasters that a name can mean; if it is one, and has that window: (raster, row, column)."""
    parsed = parse_name(bare(name))
    if parsed is None:
        return [], None
    raster, row, column = parsed
    rasters = [raster] if raster in by_name else index.find(raster)
    if len(rasters) != 1 or row not in by_name[rasters[0]].rows or column not in by_name[rasters[0]].columns:
        return rasters, None
    return rasters, (rasters[0], row, column)


def _check_missing(
    csv: Location, table: LabelTable, folder: Location, grids: list[Grid], missing: list[str], *, allow_missing: bool
) -> None:
    if not missing:
        return
    example = next(name for grid in grids for name in grid.names())
    text = (
        f"{csv}: {len(missing)} of {len(table.names)} rows name no window of the rasters in {folder} (first: "
        f"{', '.join(missing[:_SHOWN])}). Windows have names such as {example}"
    )
    if len(missing) == len(table.names):
        raise UserError(f"{text}. No chip is left. `make windows` lists all names.")
    if not allow_missing:
        raise UserError(f"{text}. ALLOW_MISSING=1 skips such rows.")
    say(f"{text}. Skipping them.")
