"""A folder of chips without labels -> test batches, in the view that evaluated the run. No store is made.

In: paths, the stored bands, a run's inputs. Out: a `ChipLoader` over a reader of files. A chip that cannot be used is
noted in `FolderReader.bad` and becomes zeros in its batch, so that the others keep their places and their scores. Files
are read as the conversion of the run's store read them: run.json says how, or else the store.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from analysis.finished_run import Run
from pipeline.inputs import Inputs
from pipeline.loader import ChipLoader, reader_loader
from pipeline.view import View
from preprocess.addresses import Location
from preprocess.chip_listing import list_chips
from preprocess.chip_reader import ChipFiles, ChipReader, FileReader, state_of
from preprocess.chip_words import check_folder
from preprocess.console import SHORTAGES, UserError, say, setting_names
from preprocess.expected import Expected
from preprocess.file_patterns import FilePattern
from preprocess.files import named_errors
from preprocess.fit import Fit
from preprocess.georeference import Place
from preprocess.image_names import chip_name
from preprocess.layout import Layout, plan_layout
from preprocess.packed_texts import PackedTexts
from preprocess.pattern_matching import list_pattern
from preprocess.raster_file import changed
from preprocess.reading import reading_of, unknown_keys
from preprocess.sources import Source, begin, etags_of, listed, source_of
from preprocess.suffixes import PICTURES, SUFFIXES
from preprocess.tiff_page import ChipError
from preprocess.write import check_finite
from preprocess.zarr_store import Store, open_store
from train.config import Config
from train.device import Device
from train.gpu_proof import check_images, first_images


@dataclass(frozen=True, kw_only=True)
class Files:
    """Chips below a folder, sorted by name; `names` are paths below the folder, without the suffix.

    `bands`: with a file per band, the bands' names, which replace {band} in a path; otherwise (). `corners`: if the
    chips are windows of rasters, (N, 2), the first row and column of each window, see `raster_folder`; otherwise None.
    `etags`: see `sources.etags_of`.
    """

    names: Sequence[str]
    paths: Sequence[str]
    size: np.ndarray
    mtime_ns: np.ndarray
    bands: tuple[str, ...] = ()
    corners: np.ndarray | None = None
    etags: Sequence[str] | None = None


def list_files(folder: Location, pattern: FilePattern | None = None) -> Files:
    """Every chip below `folder`, as `make zarr` finds them: TIFFs; PNGs and JPEGs if there are no TIFFs; or the files
    of a pattern. Hidden files are left out; one line has their number.

    Raises:
        UserError: no folder, no chip, or two files with one name.
    """
    check_folder(folder)
    names, paths = _of_pattern(folder, pattern) if pattern else _of_suffix(folder)
    if unreadable := next((path for name, path in zip(names, paths, strict=True) if not _is_utf8(name)), None):
        raise UserError(
            f"DATA={folder}: expected file names in UTF-8, found {os.path.relpath(unreadable, folder)!r}. Rename this "
            "file."
        )
    for (name, other), (path, twin) in zip(pairwise(names), pairwise(paths), strict=True):
        if name == other:
            raise UserError(f"{path} and {twin}: two files for one name, {name!r}. Remove one.")
    bands = pattern.bands if pattern else ()
    size, mtime_ns = np.zeros((2, len(names)), np.int64)
    source = listed(folder)
    for chip, path in enumerate(paths):
        size[chip], mtime_ns[chip] = _state(path, bands, source)
    etags = etags_of(folder, paths, bands)
    return Files(names=names, paths=paths, size=size, mtime_ns=mtime_ns, bands=bands, etags=etags)


def _of_suffix(folder: Location) -> tuple[PackedTexts, PackedTexts]:
    """(names, paths) of the TIFFs below a folder, or else of the PNGs and JPEGs, sorted by name, then by path."""
    listing, alone = list_chips(folder)
    if alone:
        say(f"DATA={folder}: PNGs and JPEGs beside TIFFs are left out; found {alone}.")
    if text := listing.skipped():
        say(f"DATA={folder}: {text}")
    if not listing.names:
        kinds = ", ".join((*SUFFIXES, *PICTURES))
        raise UserError(f"DATA={folder}: expected TIFFs, PNGs or JPEGs ({kinds}), found none.")
    files = listing.names.sorted()
    names = PackedTexts.collect(map(chip_name, files))
    order = names.order()
    return names.take(order), replace(files.take(order), prefix=str(folder / "x").removesuffix("x"))


def _of_pattern(folder: Location, pattern: FilePattern) -> tuple[PackedTexts, PackedTexts]:
    chips = list_pattern(folder, pattern)
    if not chips:
        raise UserError(f"DATA={folder}: expected files as {pattern.text} (FILES of the run's store), found none.")
    return PackedTexts.collect(name for name, _ in chips), PackedTexts.collect(path for _, path in chips)


def _state(path: str, bands: tuple[str, ...], source: Source) -> tuple[int, int]:
    """See `state_of`; (0, 0) of a chip that lacks a file: reading it gives the reason."""
    try:
        return state_of(path, bands, source)
    except FileNotFoundError:
        return 0, 0


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def expected_layout(
    run: Run, files: Files, bands: tuple[str, ...] | None, store: Store | None, reason: str
) -> Layout:  # fmt: skip
    """The bands, size, dtype and nodata that every file must have: those of the chips that the run was trained on.

    They come from the run's store if it opens, else from run.json, else from the first file that can be read.

    Args:
        run, files: the run, and the files to score.
        bands: of the files, in their order, as the user gives them; None: as in the store.
        store, reason: from `how_chips_were_read`.

    Raises:
        UserError: the bands of the files are not known, or a file is needed for the layout and none can be used.
    """
    chip = store.layout if store else run.record.inputs.chip
    bands = bands or (chip.bands if chip else ())
    if not bands:
        raise UserError(f"{reason} Or name the bands of the files: BANDS=blue,green,red,nir.")
    if chip is None:
        say(f"{run.path}: run.json lacks the height, width and dtype of the chips; using those of the first good file.")
        return _first_layout(files, bands)
    return plan_layout(
        bands=bands, height=chip.height, width=chip.width, dtype=chip.dtype, codec="none", nodata=chip.nodata
    )


def how_chips_were_read(run: Run) -> tuple[Store | None, str, dict[str, str]]:
    """(store, reason, reading): how the conversion of the run's store read its files, see `preprocess.reading`.

    run.json has it if it is not {} and the run is not of an earlier version. Only otherwise is the store opened. It is
    None if it cannot be opened or its fingerprint has changed; `reason` says why.

    Raises:
        UserError: a newer version made the run, and this one cannot read files as it did.
    """
    chip = run.record.inputs.chip
    if chip and chip.reading:
        if unknown := unknown_keys(chip.reading):
            words = ", ".join(f"{key.upper()}={chip.reading[key]}" for key in unknown)
            raise UserError(f"{run.path}: its chips were read with {words}, which this version lacks. Update it.")
        return None, "", chip.reading
    store, reason = _store_of(run)
    return store, reason, reading_of(store.source) if store else {}


def _store_of(run: Run) -> tuple[Store | None, str]:
    try:
        store, expected = open_store(run.config.store), run.made_with.store.fingerprint
    except UserError as error:
        return None, str(error)
    if store.fingerprint != expected:
        fingerprint = store.fingerprint[:12]
        return None, f"{store.path}: expected the store with fingerprint {expected[:12]}, found {fingerprint}."
    return store, ""


def _first_layout(files: Files, bands: tuple[str, ...]) -> Layout:
    reason = ""
    for path in files.paths:
        try:
            values = FileReader(source=source_of(path)).read(path, Expected(num_bands=len(bands)))
            count, height, width = values.shape
            if count != len(bands):
                raise ChipError(path, f"{len(bands)} bands ({', '.join(bands)})", str(count))
            return plan_layout(bands=bands, height=height, width=width, dtype=values.dtype.name, codec="none")
        except (UserError, OSError) as error:
            reason = reason or str(error)
    raise UserError(f"none of {len(files.paths)} files can be used. The first: {reason}")


@dataclass(kw_only=True)
class FolderReader:
    """Reads `bands` of chips by number, as `pipeline.chunks.ChunkReader` reads them from a store.

    axes, fit: of the store's conversion. bad: chips that cannot be used, by number, each with the reason. places: where
    chips lie, by number, if their files say it.
    """

    files: Files
    layout: Layout
    bands: tuple[str, ...]
    axes: str | None = None
    fit: Fit | None = None
    bad: dict[int, str] = field(default_factory=dict)
    places: dict[int, Place] = field(default_factory=dict)

    def decode(self, chips: np.ndarray, out: np.ndarray, flip_rows: np.ndarray | None = None) -> None:
        """Read files into `out`, (N, bands, height, width). A file that cannot be used becomes zeros and a reason in
        `bad`."""
        assert flip_rows is None  # test batches are never flipped
        files = self.files
        source = source_of(files.paths[chips[0]])
        etags = None if files.etags is None else [files.etags[chip] for chip in chips.tolist()]
        begin(source, [files.paths[chip] for chip in chips.tolist()], files.bands, files.size[chips], etags)
        reader = ChipReader(self._chip_files(), source)  # one per call: several threads read
        for row, chip in enumerate(chips.tolist()):
            if row and chip == chips[row - 1]:  # the last batch is padded with its last chip
                out[row] = out[row - 1]
            else:
                self._read(chip, reader, out[row])

    def _read(self, chip: int, reader: ChipReader, out: np.ndarray) -> None:
        files, path = self.files, self.files.paths[chip]
        try:
            with named_errors(path):
                if state_of(path, files.bands, reader.source) != (files.size[chip], files.mtime_ns[chip]):
                    raise changed(path)
                values = reader.read(path)
            check_finite(values, path, self.layout.nodata)
        except ChipError as error:
            self.bad[chip] = str(error)
            out[:] = 0
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            self.bad[chip] = (
                f"{error.filename or path}: expected a readable file, found {error.strerror or type(error).__name__}."
            )
            out[:] = 0
        else:
            if reader.place:
                self.places[chip] = reader.place
            for row, band in enumerate(self.bands):
                out[row] = values[self.layout.bands.index(band)]

    def _chip_files(self) -> ChipFiles:
        layout, words = self.layout, self.files.bands
        count = 1 if words else len(layout.bands)
        shape = None if self.fit else (count, layout.height, layout.width)
        expected = Expected(shape=shape, num_bands=count, dtype=layout.dtype, axes=self.axes)
        return ChipFiles(expected=(expected,) * max(len(words), 1), bands=words, fit=self.fit)


def folder_loader(reader: FolderReader, inputs: Inputs, config: Config, device: Device) -> ChipLoader:
    """Test batches of all files, in order; `ChipLoader.subset` chooses some. The view is that of the run's evaluation.

    Raises:
        UserError: CROP is larger than the chips.
    """
    view = View(
        inputs=inputs, crop=config.crop_of(reader.layout.height, reader.layout.width), dtype=device.image_dtype,
        test=config.test,
    )  # fmt: skip
    with setting_names():
        return reader_loader(
            reader, len(reader.files.names), view, batch_size=config.test_batch, device=device.device,
            workers=config.workers,
        )  # fmt: skip


def check_gpu(reader: FolderReader, inputs: Inputs, config: Config, device: Device) -> None:
    """Check that this GPU makes the same batch as the CPU. The verdict is stored per GPU, version and layout.

    Raises:
        UserError: they differ by more than rounding.
    """

    def images(device: Device) -> np.ndarray:
        loader = folder_loader(reader, inputs, config, device)
        first = loader.subset(np.arange(min(config.test_batch, len(reader.files.names))))
        pixels = first_images(first.epoch(0))
        loader.close()
        return pixels

    if device.kind == "cuda":
        crop = config.crop_of(reader.layout.height, reader.layout.width)
        way = ["predict", inputs.kind, ",".join(inputs.stored_bands), f"crop {crop[0]}x{crop[1]}", config.test]
        check_images(device, reader.layout, way, inputs, config.test, images)
