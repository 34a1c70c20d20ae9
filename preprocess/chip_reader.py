"""Read the files of one chip as a (bands, height, width) array: one TIFF, one PNG or JPEG, or a file per band.

In: a chip's path, and `ChipFiles`, which a plan makes once for all chips. Out: the chip. Leaves the kinds of files to
`tiff` and `image_file`, sizes to `fit`, and which files a chip has to `file_matching` and `pattern_matching`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from preprocess import presets, tiff
from preprocess.expected import Expected
from preprocess.file_patterns import paths_of as paths_of
from preprocess.fit import Fit, FitCounts, Fitter, window_of
from preprocess.georeference import Place, place_in
from preprocess.image_file import ImageReader, read_facts
from preprocess.image_names import is_picture
from preprocess.sources import DISK, Source
from preprocess.tiff_metadata import Facts
from preprocess.tiff_page import ChipError
from preprocess.window_cut import Cut


@dataclass(frozen=True, kw_only=True)
class ChipFiles:
    """How the files of a chip become its bands.

    `expected`: what each file must have: one entry, or one per band. `bands`: with a file per band, the bands' names,
    which replace {band} in a path; otherwise (). `preset`: a key of PRESETS, whose rule for TIFFs holds. `fit`: the
    size to bring chips to, if sizes differ. `cut`: chips are windows of rasters, which `window_reader` reads.
    """

    expected: tuple[Expected, ...]
    bands: tuple[str, ...] = ()
    preset: str | None = None
    fit: Fit | None = None
    cut: Cut | None = None


def state_of(path: str, bands: tuple[str, ...], source: Source = DISK) -> tuple[int, int]:
    """(size, time) of a chip's files, to notice that one has changed.

    For one file its bytes and its time of modification in ns (in object storage: the number of its ETag). For several
    the sum of their bytes, and a checksum of all sizes and times.
    """
    if not bands:
        return source.state(path)
    return joined_state([source.state(each) for each in paths_of(path, bands)])


def joined_state(of_files: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The state of a chip with several files; see `state_of`."""
    states = np.array(of_files, "<i8")
    return int(states[:, 0].sum()), xxhash.xxh3_64_intdigest(states.tobytes()) >> 1


class FileReader:
    """Reads single files: a TIFF, or a PNG or JPEG if the name says so. `place`: of the last one."""

    def __init__(self, preset: str | None = None, source: Source = DISK) -> None:
        self._check_page = presets.PRESETS[preset].check_page if preset else None
        self._source, self._tiff, self._image = source, tiff.Reader(source.open), ImageReader(source.open)
        self.place: Place | None = None

    def read(self, path: str, expected: Expected) -> np.ndarray:
        """(bands, height, width), valid until the next call."""
        if is_picture(path):
            self.place = None
            return self._image.read(path, expected)
        values = self._tiff.read(path, self._check_page, expected)
        self.place = self._tiff.place
        return values

    def facts(self, path: str, expected: Expected) -> Facts:
        """Metadata of a file."""
        read = read_facts if is_picture(path) else tiff.read_facts
        return read(path, expected, self._source.open)


class ChipReader:
    """Reads the chips of a plan. Readers and arrays are made once.

    `place`: where the chip of the last call lies; with a file per band, as the first file says that says it.
    """

    def __init__(self, files: ChipFiles, source: Source = DISK) -> None:
        self._files, self.source = files, source
        # A reader per band: each remembers the header of its previous file.
        self._readers = [FileReader(files.preset, source) for _ in files.expected]
        self._fitter = Fitter(fit=files.fit) if files.fit else None
        self._chip = np.empty(0, np.uint8)
        self.place: Place | None = None

    @property
    def counts(self) -> FitCounts:
        """How many chips were cropped, padded and resized so far."""
        return self._fitter.counts if self._fitter else FitCounts()

    def read(self, path: str) -> np.ndarray:
        """(bands, height, width) of one chip; the next call overwrites it.

        Raises:
            ChipError: a file is damaged, or has other properties than the plan expects.
            OSError: raised by the operating system.
        """
        files = self._files
        if not files.bands:
            chip = _counted(self._readers[0].read(path, files.expected[0]), files.expected[0], path)
            self._locate(chip)
            return self._fitter.apply(chip, path) if self._fitter else chip
        bands = [
            _counted(reader.read(file, expected), expected, file)[0]
            for reader, expected, file in zip(self._readers, files.expected, paths_of(path, files.bands), strict=True)
        ]
        check_places(list(zip(paths_of(path, files.bands), (reader.place for reader in self._readers), strict=True)))
        self._locate(bands)
        if self._fitter:
            return self._fitter.apply(bands, path)
        shape = (len(bands), *bands[0].shape)
        if (self._chip.shape, self._chip.dtype) != (shape, bands[0].dtype):
            self._chip = np.empty(shape, bands[0].dtype)
        return np.stack(bands, out=self._chip)

    def _locate(self, bands: Sequence[np.ndarray] | np.ndarray) -> None:
        """Set `place` from the bands before they are fitted."""
        places = [(reader.place, band.shape) for reader, band in zip(self._readers, bands, strict=False)]
        place, (height, width) = next((each for each in places if each[0]), places[0])
        if place and self._files.fit:
            place = place_in(place, window_of(self._files.fit, height, width))
        self.place = place


def check_places(files: list[tuple[str, Place | None]]) -> None:
    """Refuse files of one chip that lie in different places. Files that do not say where they lie are not compared.

    The origins may differ by less than a pixel of the coarser band: bands of 15 m and 30 m of Landsat have the same
    centres, and so other corners. A CRS with an EPSG code is not compared with one without.

    Raises:
        ChipError: names both files.
    """
    known = [(path, place) for path, place in files if place]
    for path, place in known[1:]:
        other, first = known[0]
        codes = first.crs, place.crs
        is_other_crs = codes[0] != codes[1] and all(code.startswith("EPSG:") for code in codes)
        if is_other_crs or not _same_origin(first, place):
            found = f"{place.crs} at x {place.transform[2]:.10g}, y {place.transform[5]:.10g}"
            at = f"{first.crs} at x {first.transform[2]:.10g}, y {first.transform[5]:.10g}"
            raise ChipError(
                path, f"the place of {other} ({at}), a band of the same chip", found,
                "Bring both to one grid with gdalwarp, or remove the chip.",
            )  # fmt: skip


def _same_origin(one: Place, two: Place) -> bool:
    """Whether the upper left corners differ by less than a pixel of the coarser band."""
    a, b, c, d, e, f = one.transform
    a2, b2, c2, d2, e2, f2 = two.transform
    across, down = max(abs(a) + abs(b), abs(a2) + abs(b2)), max(abs(d) + abs(e), abs(d2) + abs(e2))
    return abs(c - c2) < across and abs(f - f2) < down


def _counted(values: np.ndarray, expected: Expected, path: str) -> np.ndarray:
    """Refuse another number of bands. Readers refuse it only where the size is fixed, too."""
    if expected.count is not None and len(values) != expected.count:
        raise ChipError(
            path, f"{expected.count} bands", str(len(values)), "Convert the file, or remove it from the CSV."
        )
    return values
