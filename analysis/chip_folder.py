"""A folder of TIFFs without labels -> test batches, through the graph that evaluated the run. No store in between.

In: paths, the stored bands, a run's inputs. Out: an object with `epoch`, as `train.predict` takes. A file that cannot
be used is noted and stands as zeros in its batch, so that the others keep their places and their scores.
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
    """TIFFs below a folder in the order of their names; `names` are paths below it, without the suffix."""

    names: list[str]
    paths: list[Path]
    size: np.ndarray
    mtime_ns: np.ndarray


def list_files(folder: Path) -> Files:
    """Every TIFF below `folder`, as `make zarr` finds them. Hidden ones are left out, and counted in a line.

    Raises:
        UserError: no folder, no TIFF, or two files of one name.
    """
    if not folder.is_dir():
        raise UserError(
            f"DATA={folder}: expected a folder of TIFFs, found {'a file' if folder.exists() else 'nothing'}."
        )
    listing = list_tiffs(folder)
    if text := listing.left_out():
        say(f"DATA={folder}: {text}")
    if not listing.names:
        raise UserError(f"DATA={folder}: expected TIFFs ({', '.join(SUFFIXES)}), found none.")
    if odd := next((name for name in listing.names if not _is_utf8(name)), None):
        raise UserError(f"DATA={folder}: expected names of files in UTF-8, found {odd!r}. Rename it.")
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
    """What every file is held to: bands, size and dtype of the chips that the run was trained on.

    They are its store's, where that opens; else those that run.json keeps; only where neither is there, those of the
    first file that can be read. `bands` are said by the user, of the files, in their order; None: as in the store.
    `store` and `reason`: see `store_of`.

    Raises:
        UserError: the files' bands are not known, or the first file had to be asked and none can be used.
    """
    chip = store.layout if store else run.record.inputs.chip
    bands = bands or (chip.bands if chip else ())
    if not bands:
        raise UserError(f"{reason} Or say what the files hold: BANDS=blue,green,red,nir.")
    if chip is None:
        say(f"{run.path}: run.json does not say the chips' height, width, dtype; the first file that can be read does.")
        return _first_layout(files, bands)
    return plan_layout(bands=bands, height=chip.height, width=chip.width, dtype=chip.dtype, codec="none")


def store_of(run: Run) -> tuple[Store | None, str]:
    """The run's store; where it has gone or is another by now, None and the reason."""
    try:
        store, expected = open_store(run.config.store), run.made_with.store.fingerprint
    except UserError as error:
        return None, str(error)
    if store.fingerprint != expected:
        found = store.fingerprint[:12]
        return None, f"{store.path}: expected the store with fingerprint {expected[:12]}, found {found}."
    return store, ""


def _first_layout(files: Files, bands: tuple[str, ...]) -> Layout:
    reason = ""
    for path in files.paths:
        try:
            values = tiff.read(path, wanted=tiff.Wanted(num_bands=len(bands)))
            count, height, width = values.shape
            if count != len(bands):
                raise tiff.ChipError(path, f"{len(bands)} bands ({', '.join(bands)})", str(count))
            return plan_layout(bands=bands, height=height, width=width, dtype=values.dtype.name, codec="none")
        except (UserError, OSError) as error:
            reason = reason or str(error)
    raise UserError(f"none of {len(files.paths)} files can be used. The first: {reason}")


@dataclass(kw_only=True)
class TiffReader:
    """Reads `bands` of files by number, as `pipeline.chunks.ChunkReader` reads them of a store. `bad`: why not.

    `axes` names the files' stored dimensions, where the store was made with AXES.
    """

    files: Files
    layout: Layout
    bands: tuple[str, ...]
    axes: str | None = None
    bad: dict[int, str] = field(default_factory=dict)

    def decode(self, chips: np.ndarray, out: np.ndarray, flip_rows: np.ndarray | None = None) -> None:
        """Read files into `out`, (N, bands, height, width); zeros, and a reason in `bad`, for one that cannot be
        used."""
        assert flip_rows is None  # test batches are never flipped
        for row, chip in enumerate(chips.tolist()):
            self._read(chip, out[row])

    def _read(self, chip: int, out: np.ndarray) -> None:
        layout, path = self.layout, self.files.paths[chip]
        expected = (len(layout.bands), layout.height, layout.width)
        try:
            with named_errors(path):
                values = tiff.read(path, wanted=tiff.Wanted(shape=expected, dtype=layout.dtype, axes=self.axes))
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
        made = first_images(first.epoch(0))
        loader.close()
        return made

    if device.kind == "cuda":
        crop = config.crop_of(reader.layout.height, reader.layout.width)
        way = ["predict", inputs.kind, ",".join(inputs.stored_bands), f"crop {crop[0]}x{crop[1]}", config.test]
        check_images(device, reader.layout, way, inputs, config.test, images)
