"""`make windows`: write a CSV of all windows of the rasters in a folder, so that a person can label them.

In: the settings that say how windows are cut. Out: a CSV with a row per window: its name, its raster, first row and
column, and where it lies, if a raster says that. Reads headers and no pixels.
"""

import csv
import io
import os
from pathlib import Path

from preprocess.addresses import Location
from preprocess.console import UserError, say
from preprocess.expected import Expected
from preprocess.file_patterns import read_pattern
from preprocess.files import atomic_file
from preprocess.georeference import bounds
from preprocess.raster_list import find_rasters, read_rasters
from preprocess.sources import forget_objects
from preprocess.window_cut import Cut
from preprocess.window_grid import Grid, edge_line, num_windows
from preprocess.window_reader import place_of

HEADER = ("image_name", "raster", "row", "column")
PLACE = ("crs", "left", "bottom", "right", "top")


def list_windows(
    folder: Location, out: Path, cut: Cut, *, files: str | None, bands: tuple[str, ...] | None, axes: str | None
) -> None:
    """Write the CSV.

    Raises:
        UserError: OUT exists, or a raster cannot be used.
    """
    if out.exists():
        raise UserError(f"OUT={out}: exists. Choose another OUT, or remove the file.")
    forget_objects(folder, None)
    pattern = read_pattern(files, bands) if files else None
    of_bands = pattern.bands if pattern else ()
    count = 1 if of_bands else len(bands) if bands else None
    asked = Expected(axes=axes, num_bands=count)
    grids = read_rasters(find_rasters(folder, pattern), cut, bands=of_bands, asked=asked).grids
    located = any(grid.place for grid in grids)
    with atomic_file(out) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*HEADER, *(PLACE if located else ())])
        for grid in grids:
            writer.writerows(_rows(grid, os.path.relpath(grid.path, folder), located=located))
        text.detach()  # writes what is left; atomic_file closes the file
    where = ", with their coordinates" if located else ""
    say(f"{out}: {num_windows(grids)}{where}. {edge_line(grids)}".rstrip())


def _rows(grid: Grid, file: str, *, located: bool) -> list[list[object]]:
    rows: list[list[object]] = []
    for name, (row, column) in zip(grid.names(), grid.corners.tolist(), strict=True):
        fields: list[object] = [name, file, row, column]
        if located and grid.place:
            place = place_of(grid.place, row, column)
            fields += [place.crs, *bounds(place.transform, grid.cut.window, grid.cut.window)]
        elif located:
            fields += [""] * len(PLACE)
        rows.append(fields)
    return rows
