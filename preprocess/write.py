"""One shard of a conversion: read its chips, encode them, write the shard, then its progress file.

This runs in worker processes, so it imports neither zarr nor pandas: a process is at work a quarter of a second
earlier. Every array is made once a task and reused: on fresh memory, turning (y, x, band) into (band, y, x) takes
four times as long.
"""

import io
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import threadpoolctl
import xxhash

from preprocess import presets, shard, tiff
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
    example: str


def progress_path(task: ShardTask) -> Path:
    """The file that says that a shard is done, and holds its sums and checksums."""
    return task.root / "progress" / f"{task.shard}.npz"


def convert_shard(task: ShardTask) -> int:
    """Write one shard and its progress file. Returns the shard's number.

    Raises:
        TileError: a chip that is damaged, of another shape or dtype, or changed since it was listed.
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
            tile = _read_planned(task, index, reader)
            file.write(writer.add(tile))
            band_sum[index], band_sumsq[index] = band_sums(tile, layout)
            checksum[index] = pixel_checksum(tile)
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
    path, layout = task.paths[index], task.layout
    try:
        stat = os.stat(path)
        if (stat.st_size, stat.st_mtime_ns) != (task.size[index], task.mtime_ns[index]):
            raise tiff.TileError(path, "the file that was listed", "one that has changed since", "Run it again.")
        tile = reader.read(path, presets.get(task.preset).check_page if task.preset else None)
    except OSError as error:
        raise tiff.TileError(path, "a readable file", error.strerror or type(error).__name__) from error
    expected = (len(layout.bands), layout.height, layout.width)
    if tile.shape != expected or tile.dtype.name != layout.dtype:
        raise tiff.TileError(
            path, f"{expected} {layout.dtype} (bands, height, width) as in {task.example}",
            f"{tile.shape} {tile.dtype.name}", "All chips of a store are alike: mend it or leave it out of the CSV.",
        )  # fmt: skip
    return tile


def band_sums(tile: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Exact uint64 (sum, sum of squares) a band of a (bands, height, width) tile.

    Added in float64, a chunk at a time: 65535**2 times a chunk's values stays below 2**53, so every partial sum is
    an exact integer in whatever order it is added, and float64 adds several times faster than uint64. Callers keep
    BLAS to one thread (`one_blas_thread`): its own, beside the other workers, made a conversion ten times slower.
    """
    chunks = tile.reshape(len(layout.bands), layout.chunks_per_band, -1)
    assert 65535**2 * chunks.shape[-1] < 2**53
    values, ones = _working_memory(chunks.shape[-1])
    sums = np.zeros((2, len(layout.bands)), np.uint64)
    for band, of_band in enumerate(chunks):
        for chunk in of_band:
            np.copyto(values, chunk)
            sums[0, band] += np.uint64(values @ ones)
            sums[1, band] += np.uint64(values @ values)
    return sums[0], sums[1]


_memory = threading.local()


def _working_memory(count: int) -> tuple[np.ndarray, np.ndarray]:
    """This thread's: `count` float64 to write over, and as many ones; kept from chip to chip."""
    if getattr(_memory, "count", None) != count:
        _memory.count, _memory.arrays = count, (np.empty(count), np.ones(count))
    arrays: tuple[np.ndarray, np.ndarray] = _memory.arrays
    return arrays


def one_blas_thread() -> threadpoolctl.threadpool_limits:
    """A context in which numpy's dot products start no threads."""
    return threadpoolctl.threadpool_limits(limits=1, user_api="blas")


def pixel_checksum(tile: np.ndarray) -> int:
    """xxh3-64 of the (bands, height, width) values, C order, little-endian."""
    little = np.ascontiguousarray(tile, dtype=tile.dtype.newbyteorder("<"))
    return xxhash.xxh3_64_intdigest(little.view(np.uint8).reshape(-1).data)
