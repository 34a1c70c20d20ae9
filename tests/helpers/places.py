"""TIFFs with the tags of GeoTIFF, by the numbers of its specification."""

from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from helpers.chips import Chips, smooth, write_csv

# Tags and keys of GeoTIFF 1.1, chapter 7.
SCALE, TIEPOINT, MATRIX, DIRECTORY, ASCII = 33550, 33922, 34264, 34735, 34737
MODEL, RASTER, CITATION, GEOGRAPHIC, ANGULAR_UNIT, PROJECTED, LINEAR_UNIT = 1024, 1025, 1026, 2048, 2054, 3072, 3076
UTM_33N = {MODEL: 1, RASTER: 1, PROJECTED: 32633, LINEAR_UNIT: 9001}
WGS_84 = {MODEL: 2, RASTER: 1, GEOGRAPHIC: 4326, ANGULAR_UNIT: 9102}


def geo_tags(
    keys: dict[int, int | str], *, corner: tuple[float, float] = (0.0, 0.0), side: tuple[float, float] = (1.0, 1.0),
    pixel: tuple[float, float] = (0.0, 0.0), matrix: tuple[float, ...] | None = None,
) -> list[tuple[int, str, int, Any, bool]]:  # fmt: skip
    """`extratags` for tifffile: pixel (column, row) `pixel` lies at `corner` (x, y), and is `side` large."""
    text, directory = "", [1, 1, 0, len(keys)]
    for key, value in sorted(keys.items()):
        if isinstance(value, str):
            directory += [key, ASCII, len(value) + 1, len(text)]
            text += value + "|"
        else:
            directory += [key, 0, 1, value]
    tags: list[tuple[int, str, int, Any, bool]] = [(DIRECTORY, "H", len(directory), tuple(directory), True)]
    if text:
        tags.append((ASCII, "s", 0, text, True))
    if matrix:
        return [*tags, (MATRIX, "d", 16, matrix, True)]
    return [*tags, (SCALE, "d", 3, (*side, 0.0), True), (TIEPOINT, "d", 6, (*pixel, 0.0, *corner, 0.0), True)]


def write_geo(path: Path, values: np.ndarray, tags: list[tuple[int, str, int, Any, bool]], **options: Any) -> None:
    """(bands, height, width) values as a chunky TIFF."""
    tifffile.imwrite(
        path, np.moveaxis(values, 0, -1).squeeze(-1) if len(values) == 1 else np.moveaxis(values, 0, -1),
        photometric="minisblack", planarconfig="contig" if len(values) > 1 else None, metadata=None, extratags=tags,
        **options,
    )  # fmt: skip


def geo_chips(
    folder: Path, places: list[list[tuple[int, str, int, Any, bool]]], *, bands: int = 4, side: int = 16
) -> Chips:
    """A chip per place; chips with tags [] say nothing about where they lie."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    values = np.stack([smooth(rng, (bands, side, side), "uint16") for _ in places])
    for index, (chip, tags) in enumerate(zip(values, places, strict=True)):
        write_geo(folder / f"t_{index}.tif", chip, tags)
    write_csv(folder / "tags.csv", [(f"t_{index}", "ab"[index % 2]) for index in range(len(places))])
    return Chips(folder, folder / "tags.csv", values, [])
