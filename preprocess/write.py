"""Convert one shard: read its chips, encode them, write the shard, then its progress file.

In: a `ShardTask`. Out: a shard file and a progress file. Runs in worker processes, so it imports neither zarr nor
pandas, which saves a quarter of a second per process. Arrays are made once per task and reused: in fresh memory,
transposing (y, x, band) to (band, y, x) takes four times as long.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocess.chip_reader import ChipFiles, ChipReader, state_of
from preprocess.console import advice
from preprocess.files import shard_path, write_atomic
from preprocess.georeference import Place, place_arrays
from preprocess.layout import Layout
from preprocess.nodata import nodata_mask
from preprocess.shard_writer import NotFiniteError, write_shard
from preprocess.tiff_page import ChipError


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """The planned chips of one shard. `root` is NAME.partial, which holds `store/` and `progress/`."""

    shard: int
    root: Path
    layout: Layout
    paths: tuple[str, ...]
    size: np.ndarray
    mtime_ns: np.ndarray
    files: ChipFiles


def progress_path(task: ShardTask) -> Path:
    """The file that marks a shard as done and holds its sums, checksums and places."""
    return task.root / "progress" / f"{task.shard}.npz"


def convert_shard(task: ShardTask) -> int:
    """Write one shard and its progress file. Returns the shard's number.

    Raises:
        ChipError: a chip is damaged, has another shape or dtype or values that are not finite, or has changed since it
            was listed.
    """
    reader = ChipReader(task.files)
    places: list[Place | None] = []
    chips = (_read_planned(task, index, reader, places) for index in range(len(task.paths)))
    try:
        record = write_shard(shard_path(task.root / "store", task.shard), task.layout, chips)
    except NotFiniteError as error:
        only_nan = task.layout.nodata is None and not np.isinf(error.chip).any()
        check_finite(error.chip, task.paths[error.index], task.layout.nodata, f"{_NAN if only_nan else ''}{_REPLACE}")
        raise
    fitted = {"fitted": reader.counts.as_array()} if task.files.fit else {}
    progress = io.BytesIO()
    np.savez(
        progress, allow_pickle=False, **record.arrays, source_size=task.size, source_mtime_ns=task.mtime_ns,
        shard_bytes=np.int64(record.num_bytes), **place_arrays(places), **fitted,
    )  # fmt: skip
    write_atomic(progress_path(task), progress.getvalue())
    return task.shard


def _read_planned(task: ShardTask, index: int, reader: ChipReader, places: list[Place | None]) -> np.ndarray:
    """Read one chip as planned, and add its place; the next one overwrites its array."""
    path = task.paths[index]
    try:
        if state_of(path, task.files.bands) != (task.size[index], task.mtime_ns[index]):
            raise ChipError(path, "the file as listed", "a changed file", "Run the same command again.")
        chip = reader.read(path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ChipError(error.filename or path, "a readable file", reason, advice(error)) from error
    places.append(reader.place)
    return chip


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
