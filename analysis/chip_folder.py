"""A folder of TIFFs without labels -> test batches, in the view that evaluated the run. No store is made.

In: paths, the stored bands, a run's inputs. Out: a `ChipLoader` over a reader of TIFFs. A file that cannot be used is
noted in `TiffReader.bad` and becomes zeros in its batch, so that the others keep their places and their scores.
"""

import os
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from analysis.finished_run import Run
from pipeline.inputs import Inputs
from pipeline.loader import ChipLoader, reader_loader
from pipeline.view import View
from preprocess import tiff
from preprocess.console import SHORTAGES, UserError, say, setting_names
from preprocess.files import named_errors
from preprocess.image_names import SUFFIXES, list_tiffs, stem
from preprocess.layout import Layout, plan_layout
from preprocess.write import check_finite
from preprocess.zarr_store import Store, open_store
from train.config import Config
from train.device import Device
from train.gpu_proof import check_images, first_images


@dataclass(frozen=True, kw_only=True)
class Files:
    """TIFFs below a folder, sorted by name; `names` are paths below the folder, without the suffix."""

    names: list[str]
    paths: list[Path]
    size: np.ndarray
    mtime_ns: np.ndarray


def list_files(folder: Path) -> Files:
    """Every TIFF below `folder`, as `make zarr` finds them. Hidden files are left out; one line has their number.

    Raises:
        UserError: no folder, no TIFF, or two files with one name.
    """
    if not folder.is_dir():
        raise UserError(
            f"DATA={folder}: expected a folder of TIFFs, found {'a file' if folder.exists() else 'nothing'}."
        )
    listing = list_tiffs(folder)
    if text := listing.skipped():
        say(f"DATA={folder}: {text}")
    if not listing.names:
        raise UserError(f"DATA={folder}: expected TIFFs ({', '.join(SUFFIXES)}), found none.")
    if unreadable := next((name for name in listing.names if not _is_utf8(name)), None):
        raise UserError(f"DATA={folder}: expected file names in UTF-8, found {unreadable!r}. Rename this file.")
    named = sorted((stem(name), folder / name) for name in listing.names)
    for (name, path), (other, twin) in pairwise(named):
        if name == other:
            raise UserError(f"{path} and {twin}: two files for one name, {name!r}. Remove one.")
    stats = [os.stat(path) for _, path in named]
    return Files(
        names=[name for name, _ in named],
        paths=[path for _, path in named],
        size=np.array([stat.st_size for stat in stats]),
        mtime_ns=np.array([stat.st_mtime_ns for stat in stats]),
    )


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def expected_layout(
    run: Run, files: Files, bands: tuple[str, ...] | None, store: Store | None, reason: str
) -> Layout:  # fmt: skip
    """The bands, size and dtype that every file must have: those of the chips that the run was trained on.

    They come from the run's store if it opens, else from run.json, else from the first file that can be read.

    Args:
        run, files: the run, and the files to score.
        bands: of the files, in their order, as the user gives them; None: as in the store.
        store, reason: from `store_of`.

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
    return plan_layout(bands=bands, height=chip.height, width=chip.width, dtype=chip.dtype, codec="none")


def store_of(run: Run) -> tuple[Store | None, str]:
    """The run's store; None and the reason if it cannot be opened or its fingerprint has changed."""
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
            values = tiff.read(path, expected=tiff.Expected(num_bands=len(bands)))
            count, height, width = values.shape
            if count != len(bands):
                raise tiff.ChipError(path, f"{len(bands)} bands ({', '.join(bands)})", str(count))
            return plan_layout(bands=bands, height=height, width=width, dtype=values.dtype.name, codec="none")
        except (UserError, OSError) as error:
            reason = reason or str(error)
    raise UserError(f"none of {len(files.paths)} files can be used. The first: {reason}")


@dataclass(kw_only=True)
class TiffReader:
    """Reads `bands` of files by number, as `pipeline.chunks.ChunkReader` reads them from a store.

    axes: the files' stored dimensions, if the store was made with AXES. bad: files that cannot be used, by number, each
    with the reason.
    """

    files: Files
    layout: Layout
    bands: tuple[str, ...]
    axes: str | None = None
    bad: dict[int, str] = field(default_factory=dict)

    def decode(self, chips: np.ndarray, out: np.ndarray, flip_rows: np.ndarray | None = None) -> None:
        """Read files into `out`, (N, bands, height, width). A file that cannot be used becomes zeros and a reason in
        `bad`."""
        assert flip_rows is None  # test batches are never flipped
        for row, chip in enumerate(chips.tolist()):
            self._read(chip, out[row])

    def _read(self, chip: int, out: np.ndarray) -> None:
        layout, path = self.layout, self.files.paths[chip]
        expected = (len(layout.bands), layout.height, layout.width)
        try:
            with named_errors(path):
                values = tiff.read(path, expected=tiff.Expected(shape=expected, dtype=layout.dtype, axes=self.axes))
            check_finite(values, path)
        except tiff.ChipError as error:
            self.bad[chip] = str(error)
            out[:] = 0
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            self.bad[chip] = f"{path}: expected a readable file, found {error.strerror or type(error).__name__}."
            out[:] = 0
        else:
            for row, band in enumerate(self.bands):
                out[row] = values[layout.bands.index(band)]


def folder_loader(reader: TiffReader, inputs: Inputs, config: Config, device: Device) -> ChipLoader:
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


def check_gpu(reader: TiffReader, inputs: Inputs, config: Config, device: Device) -> None:
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
