"""The rasters below a folder, and the windows of each.

In: a folder, the setting FILES, how windows are cut. Out: `Rasters`: a `Grid` per raster, what their headers say, and
how their windows are read. Reads headers and no pixels. Leaves labels to `window_matching`.
"""

import os
from dataclasses import dataclass, replace
from itertools import pairwise

from preprocess.addresses import Location
from preprocess.chip_reader import ChipFiles
from preprocess.console import UserError, advice, say
from preprocess.expected import Expected
from preprocess.file_patterns import FilePattern
from preprocess.image_names import chip_name, list_tiffs
from preprocess.pattern_matching import list_pattern
from preprocess.raster import Raster
from preprocess.tiff_metadata import Facts
from preprocess.tiff_page import ChipError
from preprocess.window_cut import Cut
from preprocess.window_grid import Grid
from preprocess.window_reader import WindowReader


@dataclass(frozen=True, kw_only=True)
class Rasters:
    """The grids of all rasters, sorted by name; facts of the first file, its number of bands and its dtype.

    With a file per band, `count` is 1. `files`: how windows are read.
    """

    grids: list[Grid]
    facts: Facts
    dtype: str
    count: int
    files: ChipFiles


def find_rasters(folder: Location, pattern: FilePattern | None) -> list[tuple[str, str]]:
    """(name, path) of every TIFF below a folder, or of the files of a pattern, sorted by name.

    Raises:
        UserError: there is none, or two files have one name.
    """
    if pattern:
        named = list_pattern(folder, pattern)
    else:
        listing = list_tiffs(folder)
        if text := listing.skipped():
            say(f"DATA={folder}: {text}")
        named = sorted((chip_name(name), os.path.join(folder, name)) for name in listing.names)
    if not named:
        form = f"files as {pattern.text} (FILES)" if pattern else "TIFFs"
        raise UserError(
            f"DATA={folder}: expected {form} to cut windows from, found none. Other rasters: gdal_translate in out.tif"
        )
    for (name, path), (other, twin) in pairwise(named):
        if name == other:
            raise UserError(f"{path} and {twin}: two files for one name, {name!r}. Remove one.")
    return named


def read_rasters(
    named: list[tuple[str, str]], cut: Cut, *, bands: tuple[str, ...] = (), asked: Expected
) -> Rasters:  # fmt: skip
    """Read the header of every raster. All must have the number of bands, the dtype and the colours of the first.

    Args:
        named: from `find_rasters`.
        cut: how windows are cut.
        bands: with a file per band, the bands' names, which replace {band} in a path; otherwise ().
        asked: what every file must have; the first one decides the rest.

    Raises:
        ChipError: a raster cannot be used.
        UserError: no window fits into any raster.
    """
    files = ChipFiles(expected=(asked,) * max(len(bands), 1), bands=bands, cut=cut)
    first: Raster | None = None
    grids = []
    for name, path in named:
        try:
            grids.append(read_grid(name, path, files))
            if first is None:
                first = WindowReader(files).rasters(path)[0]
                files = replace(files, expected=(_expected(first, asked),) * max(len(bands), 1))
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ChipError(error.filename or path, "a readable file", reason, advice(error)) from error
    assert first is not None  # there is a raster
    if not any(map(len, grids)):
        raise UserError(
            f"WINDOW={cut.window}: none of {len(named)} rasters has so many rows and columns (the first, {first.path}, "
            f"has {first.shape[1]} x {first.shape[2]}). Choose a smaller WINDOW, or FIT=pad."
        )
    return Rasters(grids=grids, facts=first.facts, dtype=first.dtype.name, count=first.shape[0], files=files)


def _expected(raster: Raster, asked: Expected) -> Expected:
    facts = raster.facts
    return replace(
        asked, num_bands=raster.shape[0], dtype=raster.dtype.name, axes=facts.axes,
        is_rgb=asked.is_rgb and facts.is_rgb, zero_is_white=facts.zero_is_white, example=raster.path,
    )  # fmt: skip


def read_grid(name: str, path: str, files: ChipFiles) -> Grid:
    """The windows of one raster, from its header.

    Raises:
        ChipError: it has other properties than `files` expects.
        OSError: raised by the operating system.
    """
    assert files.cut is not None
    reader = WindowReader(files)
    state, raster = reader.state(path), reader.rasters(path)[0]
    _, height, width = raster.shape
    return Grid(name=name, path=path, height=height, width=width, cut=files.cut, place=raster.place, state=state)
