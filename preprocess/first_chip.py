"""Read the first chip of a conversion, which decides shape and dtype of all of them.

In: its path and the settings. Out: a `FirstChip`: its values, what its files say, and how all chips are read. Leaves
the names of the bands to `plan`.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from preprocess.chip_reader import ChipFiles, FileReader, paths_of
from preprocess.commands import ConversionSettings
from preprocess.console import UserError, advice
from preprocess.expected import Expected
from preprocess.file_patterns import FilePattern
from preprocess.fit import Fit
from preprocess.image_names import is_picture
from preprocess.raster_list import find_rasters, read_rasters
from preprocess.sources import source_of
from preprocess.tiff_header import MAX_CHIP_BYTES
from preprocess.tiff_metadata import Facts
from preprocess.tiff_page import ChipError
from preprocess.window_cut import Cut
from preprocess.window_grid import Grid, edge_line, num_windows


@dataclass(frozen=True, kw_only=True)
class FirstChip:
    """(bands, height, width) values before SIZE and FIT, facts of its file, and how every chip is read.

    With a file per band, `facts` are those of the first band, and `values` hold the largest band once per band: smaller
    ones are not yet resized. `note`: a line about that, or "".
    """

    values: np.ndarray
    facts: Facts
    files: ChipFiles
    note: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every chip in the store."""
        fit = self.files.fit
        return (fit.height, fit.width) if fit else (self.values.shape[1], self.values.shape[2])


def read_first(path: str, settings: ConversionSettings, pattern: FilePattern | None) -> FirstChip:
    """Read it and plan how all others are read.

    Raises:
        ChipError: it cannot be read, or its bands differ in size or dtype.
        UserError: AXES with PNG or JPEG.
    """
    fit = Fit(height=settings.size, width=settings.size, way=settings.fit) if settings.size and settings.fit else None
    try:
        if pattern and pattern.bands:
            return _per_band(path, settings, pattern.bands, fit)
        return _one_file(path, settings, fit)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ChipError(error.filename or path, "a readable file", reason, advice(error)) from error


def read_first_raster(
    settings: ConversionSettings, pattern: FilePattern | None, cut: Cut
) -> tuple[FirstChip, list[Grid]]:
    """Read the headers of all rasters, and plan how their windows are read. The values of the first chip are zeros.

    Raises:
        ChipError: a raster cannot be used, or differs from the first.
        UserError: there is no raster, or no window fits into one.
    """
    bands = pattern.bands if pattern else ()
    count = 1 if bands else len(settings.bands) if settings.bands else None
    asked = Expected(axes=settings.axes, num_bands=count, is_rgb=settings.bands is None)
    rasters = read_rasters(find_rasters(settings.data, pattern), cut, bands=bands, asked=asked)
    shape = (len(bands) or rasters.count, cut.window, cut.window)
    if (num_bytes := math.prod(shape) * np.dtype(rasters.dtype).itemsize) > MAX_CHIP_BYTES:
        raise UserError(
            f"WINDOW={cut.window}: expected chips of at most {MAX_CHIP_BYTES >> 20} MiB, found {num_bytes >> 20} MiB "
            f"({shape[0]} bands of {rasters.dtype}). Choose a smaller WINDOW."
        )
    facts = replace(rasters.facts, is_rgb=False, descriptions=()) if bands else rasters.facts
    return FirstChip(
        values=np.broadcast_to(np.zeros((), rasters.dtype), shape), facts=facts, files=rasters.files,
        note=f"{num_windows(rasters.grids)}. {edge_line(rasters.grids)}".rstrip(),
    ), rasters.grids  # fmt: skip


def _one_file(path: str, settings: ConversionSettings, fit: Fit | None) -> FirstChip:
    bands = settings.bands
    if settings.axes and is_picture(path):
        raise UserError(f"AXES={settings.axes} has no effect with PNG and JPEG files ({path}); leave it out.")
    asked = Expected(axes=settings.axes, num_bands=len(bands) if bands else None)
    reader = FileReader(settings.preset, source_of(path))
    first, facts = reader.read(path, asked), reader.facts(path, asked)
    count, height, width = first.shape
    if is_picture(path) and count in (2, 4) and first[-1].min() == np.iinfo(first.dtype).max:
        raise ChipError(
            path, f"{count} bands", f"{count - 1} and opaque alpha", "BANDS names one too many."
        )  # fmt: skip
    expected = Expected(
        shape=None if fit else (count, height, width), num_bands=count if fit else None, dtype=first.dtype.name,
        axes=facts.axes, is_rgb=bands is None and facts.is_rgb, zero_is_white=facts.zero_is_white, example=path,
    )  # fmt: skip
    return FirstChip(
        values=first, facts=facts, files=ChipFiles(expected=(expected,), preset=settings.preset, fit=fit)
    )  # fmt: skip


def _per_band(path: str, settings: ConversionSettings, bands: tuple[str, ...], fit: Fit | None) -> FirstChip:
    reader, asked = FileReader(settings.preset, source_of(path)), Expected(num_bands=1)
    files = paths_of(path, bands)
    values = []
    for file in files:
        band = reader.read(file, asked).copy()
        if len(band) != 1:
            raise ChipError(file, "one band", str(len(band)), "FILES without {band} reads files of several bands.")
        values.append(band)
    largest = max(values, key=np.size)
    if other := next((k for k, band in enumerate(values) if band.dtype != values[0].dtype), None):
        found = f"{values[0].dtype} in {bands[0]} and {values[other].dtype} in {bands[other]}"
        raise ChipError(path, "bands of one dtype", found, "Convert them: gdal_translate -ot Float32 in.tif out.tif")
    if fit is None and settings.fit == "resize":
        fit = Fit(height=largest.shape[1], width=largest.shape[2], way="resize")
    if (fit is None or fit.way != "resize") and any(band.shape != largest.shape for band in values):
        sizes = ", ".join(f"{name} {band.shape[1]} x {band.shape[2]}" for name, band in zip(bands, values, strict=True))
        raise ChipError(path, "bands of one size", sizes, "FIT=resize brings smaller bands to the largest.")
    facts = reader.facts(files[0], asked)
    expected = Expected(num_bands=1, dtype=largest.dtype.name, zero_is_white=facts.zero_is_white)
    # Only SIZE lets chips differ from each other.
    each = tuple(
        replace(expected, shape=None if settings.size else band.shape, example=file)
        for file, band in zip(files, values, strict=True)
    )
    return FirstChip(
        values=np.broadcast_to(largest, (len(bands), *largest.shape[1:])),
        facts=replace(facts, is_rgb=False, descriptions=(), axes=None, guess=""),
        files=ChipFiles(expected=each, bands=bands, preset=settings.preset, fit=fit),
        note=_resized(bands, values, fit) if fit else "",
    )


def _resized(bands: tuple[str, ...], values: list[np.ndarray], fit: Fit) -> str:
    """A line about bands that do not have the size of the chip in the store."""
    of_size: dict[tuple[int, ...], list[str]] = {}
    for name, band in zip(bands, values, strict=True):
        of_size.setdefault(band.shape[1:], []).append(name)
    if len(of_size) == 1:
        return ""
    sizes = "; ".join(f"{height} x {width} ({', '.join(names)})" for (height, width), names in of_size.items())
    return f"bands have different sizes, {sizes}. FIT=resize makes all {fit.height} x {fit.width}."
