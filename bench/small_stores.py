"""Stores of 64 x 64 x 4 uint16 chips for `scale` and `e2e`, made straight from the bench chips: no TIFFs between.

Chip i is window i % 16 of a 4 x 4 grid in bench chip (i // 16) % 2048, plus i // 32768, so that no two are alike.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.chips import BANDS, NUM_CHIPS, chip
from preprocess import zarr_store
from preprocess.console import Progress
from preprocess.files import shard_path
from preprocess.layout import Layout, plan_layout
from preprocess.shard_writer import ShardRecord, join_records, write_shard
from preprocess.workers import run_tasks

SIDE, _GRID = 64, 4
CLASSES = tuple(f"c{number}" for number in range(17))


def chips_store(folder: Path, count: int, codec: str = "lz4") -> Path:
    """`folder/COUNT-CODEC.zarr`; what is there is kept."""
    path = folder / f"{count}-{codec}.zarr"
    if path.exists():
        return path
    layout = plan_layout(bands=BANDS, height=SIDE, width=SIDE, dtype="uint16", codec=codec)
    part = path.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    zarr_store.create_chips(part, layout, count)
    starts = range(0, count, layout.shard_tiles)
    tasks = [(str(part), layout, start, min(layout.shard_tiles, count - start)) for start in starts]
    records: dict[int, ShardRecord] = {}
    with Progress(f"scale chips, {count}", total=count, unit="chips") as progress:
        for start, record in run_tasks(_write_shard, tasks, jobs=len(os.sched_getaffinity(0))):
            records[start] = record
            progress.update(len(record.checksum))
    rng = np.random.Generator(np.random.Philox(key=7))
    numbers = np.arange(count)
    zarr_store.finish(part, layout, CLASSES, count, {
        "names": np.array([f"chip_{number}" for number in numbers], object),
        "labels": (rng.random((count, len(CLASSES))) < 0.2).astype(np.uint8),
        "csv_row": numbers, "source_size": numbers, "source_mtime_ns": numbers,
        **join_records(records[start] for start in starts),
    })  # fmt: skip
    os.rename(part, path)
    return path


def windows(start: int, count: int) -> Sequence[np.ndarray]:
    """(band, y, x) chips `start` to `start + count`."""
    found: list[np.ndarray] = []
    per_chip = _GRID * _GRID
    for source in range(start // per_chip, -(-(start + count) // per_chip)):
        whole = np.moveaxis(chip(source % NUM_CHIPS), -1, 0) + np.uint16(source // NUM_CHIPS)
        for row in range(0, _GRID * SIDE, SIDE):
            found += [whole[:, row : row + SIDE, column : column + SIDE] for column in range(0, _GRID * SIDE, SIDE)]
    skip = start % per_chip
    return found[skip : skip + count]


def _write_shard(task: tuple[str, Layout, int, int]) -> tuple[int, ShardRecord]:
    root, layout, start, count = task
    path = shard_path(Path(root), start // layout.shard_tiles)
    return start, write_shard(path, layout, windows(start, count))
