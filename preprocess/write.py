"""Convert shards: read their chips, encode them, write each shard, then its progress file.

In: a `ShardRun`, which points into the plan's file. Out: a shard file and a progress file per shard. A function of the
plan and the files: any process on any host, and any number of them at once, writes the same bytes. Runs in worker
processes, so it imports neither zarr nor pandas, which saves a quarter of a second per process. Arrays are made once
per shard and reused: in fresh memory, transposing (y, x, band) to (band, y, x) takes four times as long.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from preprocess.chip_reader import ChipReader, state_of
from preprocess.console import advice
from preprocess.files import shard_path, write_atomic
from preprocess.georeference import Place, place_arrays
from preprocess.nodata import nodata_mask
from preprocess.plan_file import ShardRun, ShardTask, load_plan
from preprocess.shard_writer import NotFiniteError, write_shard
from preprocess.tiff_page import ChipError
from preprocess.window_reader import WindowReader

TEMPORARY = "temporary"  # folder in NAME.partial for unfinished shard files: the store is renamed without them


def convert_shards(run: ShardRun) -> ShardRun:
    """Write every shard of a task and its progress file; returns the task.

    Raises:
        UserError: the plan's file is damaged or replaced.
        ChipError: see `convert_shard`.
    """
    plan = load_plan(run.root, run.digest)
    for shard in run.shards:
        convert_shard(plan.task(Path(run.root), shard))
    return run


def progress_path(root: Path, shard: int) -> Path:
    """The file in NAME.partial that marks a shard as done and holds its sums, checksums and places."""
    return root / "progress" / f"{shard}.npz"


def convert_shard(task: ShardTask) -> None:
    """Write one shard and its progress file.

    Raises:
        ChipError: a chip is damaged, has another shape or dtype or values that are not finite, or has changed since it
            was listed.
    """
    reader = ChipReader(task.files)
    places: list[Place | None] = []
    chips = _chips(task, reader, places) if task.corners is None else _windows(task, places)
    try:
        path = _make_shard_folder(task.root / "store", task.shard)
        record = write_shard(path, task.layout, chips, temporary=task.root / TEMPORARY / str(task.shard))
    except NotFiniteError as error:
        only_nan = task.layout.nodata is None and not np.isinf(error.chip).any()
        check_finite(error.chip, task.where(error.index), task.layout.nodata, f"{_NAN if only_nan else ''}{_REPLACE}")
        raise
    fitted = {"fitted": reader.counts.as_array()} if task.files.fit else {}
    progress = io.BytesIO()
    np.savez(
        progress, allow_pickle=False, **record.arrays, source_size=task.size, source_mtime_ns=task.mtime_ns,
        shard_bytes=np.int64(record.num_bytes), **place_arrays(places), **fitted,
    )  # fmt: skip
    write_atomic(progress_path(task.root, task.shard), progress.getvalue())


def _make_shard_folder(store: Path, shard: int) -> Path:
    """Make the folder of a shard's file; returns the file's path.

    The store itself is not made: if another process has just completed and renamed it, this one must fail.
    """
    path = shard_path(store, shard)
    for folder in reversed(path.relative_to(store / "tiles").parents[:-1]):
        with contextlib.suppress(FileExistsError):
            (store / "tiles" / folder).mkdir()
    return path


def _read_planned(task: ShardTask, index: int, reader: ChipReader, places: list[Place | None]) -> np.ndarray:
    """Read one chip as planned, and add its place; the next one overwrites its array."""
    with _planned(task, index):
        chip = reader.read(task.paths[index])
    places.append(reader.place)
    return chip


def _chips(task: ShardTask, reader: ChipReader, places: list[Place | None]) -> Iterator[np.ndarray]:
    return (_read_planned(task, index, reader, places) for index in range(len(task.paths)))


def _windows(task: ShardTask, places: list[Place | None]) -> Iterator[np.ndarray]:
    """Read all windows of the task, raster by raster, so that each block is decoded once, and add their places.

    The windows of a shard take at most 64 MiB, or are one window.
    """
    layout, reader = task.layout, WindowReader(task.files)
    chips = np.empty((len(task.paths), len(layout.bands), layout.height, layout.width), layout.dtype)
    places.extend([None] * len(chips))
    of_path: dict[str, list[int]] = {}
    for index, path in enumerate(task.paths):
        of_path.setdefault(path, []).append(index)
    assert task.corners is not None
    for path, indices in of_path.items():
        with _planned(task, indices[0]):
            where, errors = reader.read(path, task.corners[indices], [chips[index] for index in indices])
            for error in errors.values():
                raise error
        for index, place in zip(indices, where, strict=True):
            places[index] = place
    yield from chips


@contextlib.contextmanager
def _planned(task: ShardTask, index: int) -> Iterator[None]:
    """Check that a chip's files are as they were listed, and turn the system's errors into a ChipError."""
    path = task.paths[index]
    try:
        if state_of(path, task.files.bands) != (task.size[index], task.mtime_ns[index]):
            raise ChipError(path, "the file as listed", "a changed file", "Run the same command again.")
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ChipError(error.filename or path, "a readable file", reason, advice(error)) from error


_REPLACE = "Replace them, or remove the chip from the CSV."
_NAN = "NODATA=nan marks NaN as nodata. "


def check_finite(chip: np.ndarray, path: str | Path, nodata: str | None, advice: str = _REPLACE) -> None:
    """Refuse a chip with values that are neither finite nor `nodata`.

    Raises:
        ChipError: gives the numbers of NaN and infinite values and the position of the first one.
    """
    allowed = np.isfinite(chip) if nodata is None else np.isfinite(chip) | nodata_mask(chip, nodata)
    wrong = np.argwhere(~allowed)
    if not len(wrong):
        return
    band, y, x = wrong[0].tolist()
    nan = int((np.isnan(chip) & ~allowed).sum())
    raise ChipError(
        path, "finite values",
        f"{nan} NaN and {len(wrong) - nan} infinite values of {chip.size} (the first in band {band + 1}, row {y}, "
        f"column {x})",
        advice,
    )  # fmt: skip
