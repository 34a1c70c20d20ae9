"""One shard of a conversion: read its chips, encode them, write the shard, then its progress file.

This runs in worker processes, so it imports neither zarr nor pandas: a process is at work a quarter of a second
earlier. Every array is made once a task and reused: on fresh memory, turning (y, x, band) into (band, y, x) takes
four times as long.
"""

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocess import presets, tiff
from preprocess.console import advice
from preprocess.files import shard_path, write_atomic
from preprocess.layout import Layout
from preprocess.shard_writer import NotFiniteError, write_shard


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One shard's chips, as planned. `root` is NAME.partial: `store/` grows in it, beside `progress/`."""

    shard: int
    root: Path
    layout: Layout
    preset: str | None
    paths: tuple[str, ...]
    size: np.ndarray
    mtime_ns: np.ndarray
    wanted: tiff.Wanted


def progress_path(task: ShardTask) -> Path:
    """The file that says that a shard is done, and holds its sums and checksums."""
    return task.root / "progress" / f"{task.shard}.npz"


def convert_shard(task: ShardTask) -> int:
    """Write one shard and its progress file. Returns the shard's number.

    Raises:
        ChipError: a chip that is damaged, of another shape or dtype, with values that are not finite, or changed since
            it was listed.
    """
    reader = tiff.Reader()
    chips = (_read_planned(task, index, reader) for index in range(len(task.paths)))
    try:
        record = write_shard(shard_path(task.root / "store", task.shard), task.layout, chips)
    except NotFiniteError as error:
        check_finite(error.chip, task.paths[error.index])
        raise
    progress = io.BytesIO()
    np.savez(
        progress, allow_pickle=False, **record.arrays, source_size=task.size, source_mtime_ns=task.mtime_ns,
        shard_bytes=np.int64(record.num_bytes),
    )  # fmt: skip
    write_atomic(progress_path(task), progress.getbuffer())
    return task.shard


def _read_planned(task: ShardTask, index: int, reader: tiff.Reader) -> np.ndarray:
    """One chip as planned; its array is overwritten by the next."""
    path = task.paths[index]
    try:
        stat = os.stat(path)
        if (stat.st_size, stat.st_mtime_ns) != (task.size[index], task.mtime_ns[index]):
            raise tiff.ChipError(path, "the file that was listed", "one that has changed since", "Run it again.")
        return reader.read(path, presets.get(task.preset).check_page if task.preset else None, task.wanted)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise tiff.ChipError(path, "a readable file", reason, advice(error)) from error


def check_finite(chip: np.ndarray, path: str | Path) -> None:
    """Refuse a chip with values that are not finite.

    Raises:
        ChipError: says how many are NaN, how many infinite, and where the first lies.
    """
    wrong = np.argwhere(~np.isfinite(chip))
    if not len(wrong):
        return
    band, y, x = wrong[0].tolist()
    nan = int(np.isnan(chip).sum())
    raise tiff.ChipError(
        path, "finite values",
        f"{nan} NaN and {len(wrong) - nan} infinite values of {chip.size} (the first in band {band + 1}, row {y}, "
        f"column {x})",
        "Replace them, or leave the chip out of the CSV.",
    )  # fmt: skip
