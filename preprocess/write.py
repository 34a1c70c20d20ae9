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
import xxhash

from preprocess import presets, shard, tiff
from preprocess.band_statistics import band_sums, one_blas_thread
from preprocess.console import advice
from preprocess.files import atomic_file, shard_path, write_atomic
from preprocess.layout import Layout


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
    layout, count = task.layout, len(task.paths)
    num_bands = len(layout.bands)
    band_sum, band_sumsq = (np.empty((count, num_bands), dtype) for dtype in layout.sum_dtypes)
    checksum = np.empty(count, np.uint64)
    reader, writer = tiff.Reader(), shard.ShardWriter(layout)
    path_out = shard_path(task.root / "store", task.shard)
    path_out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path_out) as file, one_blas_thread():
        for index in range(count):
            chip = _read_planned(task, index, reader)
            file.write(writer.add(chip))
            band_sum[index], band_sumsq[index] = band_sums(chip, layout)
            if not np.isfinite(band_sum[index]).all():
                check_finite(chip, task.paths[index])
            checksum[index] = pixel_checksum(chip)
        file.write(writer.end())
        shard_bytes = file.tell()
    progress = io.BytesIO()
    np.savez(
        progress, band_sum=band_sum, band_sumsq=band_sumsq, checksum=checksum, source_size=task.size,
        source_mtime_ns=task.mtime_ns, shard_bytes=np.int64(shard_bytes), shard_digest=np.uint64(writer.digest),
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


def pixel_checksum(chip: np.ndarray) -> int:
    """xxh3-64 of the (bands, height, width) values, C order, little-endian."""
    little = np.ascontiguousarray(chip, dtype=chip.dtype.newbyteorder("<"))
    return xxhash.xxh3_64_intdigest(little.view(np.uint8).reshape(-1).data)
