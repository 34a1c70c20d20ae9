"""Re-read a whole store and prove it against its manifest; print what is in one.

In: a store. Out: lines naming every missing, damaged or altered shard and tile. Every chunk's crc32c is
checked, every tile is decoded and compared with its xxh3-64 and its band sums, and the small arrays with
the store's fingerprint.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocess import schema, shard
from preprocess.console import Progress, UserError, say
from preprocess.layout import MIB, Layout
from preprocess.schema import Store
from preprocess.splits import PARTS, make_split
from preprocess.workers import run_tasks
from preprocess.write import band_sums, one_blas_thread, pixel_checksum

MAX_LINES = 20  # of findings on the terminal; the count is always whole


@dataclass(frozen=True, kw_only=True)
class _Task:
    path: Path
    layout: Layout
    first: int
    names: np.ndarray
    checksum: np.ndarray
    band_sum: np.ndarray
    band_sumsq: np.ndarray


def verify(path: Path, *, jobs: int) -> int:
    """Prove the store. Returns the number of findings, each printed as a line."""
    store = schema.open_store(path)
    findings = _small_arrays(store)
    step = store.layout.shard_tiles
    tasks = [
        _Task(
            path=schema.shard_path(path, first // step),
            layout=store.layout,
            first=first,
            names=store.names[first : first + step],
            checksum=store.checksum[first : first + step],
            band_sum=store.band_sum[first : first + step],
            band_sumsq=store.band_sumsq[first : first + step],
        )
        for first in range(0, store.num_tiles, step)
    ]
    with Progress("verify", total=store.num_tiles, unit="chips") as progress:
        for count, found in run_tasks(_check_shard, tasks, jobs=jobs):
            findings += found
            progress.update(count)
    for finding in findings[:MAX_LINES]:
        say(f"bad: {finding}")
    if len(findings) > MAX_LINES:
        say(f"... and {len(findings) - MAX_LINES} more")
    if not findings:
        say(f"{path}: whole and unaltered: {store.num_tiles} chips in {len(tasks)} shards.")
    else:
        say(f"{path}: {len(findings)} finding{'s' if len(findings) > 1 else ''}. Remove the store and convert again.")
    return len(findings)


def _small_arrays(store: Store) -> list[str]:
    now = schema.fingerprint(store.layout, store.classes, {name: getattr(store, name) for name in schema.ARRAYS})
    return [] if now == store.fingerprint else [f"{store.path}: names, labels, csv_row or checksum were altered"]


def _check_shard(task: _Task) -> tuple[int, list[str]]:
    """(tiles, findings) of one shard."""
    layout, count = task.layout, len(task.names)
    if not task.path.is_file():
        return count, [f"shard {task.path} is missing ({count} tiles from {task.names[0]})"]
    try:
        offsets, sizes = shard.read_index(task.path, layout, count)
    except shard.DamagedChunkError as error:
        return count, [str(error)]
    data = np.memmap(task.path, np.uint8, mode="r")
    tile = np.empty((len(layout.bands), layout.height, layout.width), layout.dtype)
    scratch = shard.decode_scratch(layout, len(layout.bands))
    findings = []
    with one_blas_thread():
        for index in range(count):
            where = f"tile {task.names[index]} (number {task.first + index}) in {task.path}"
            try:
                shard.decode_tile(data, offsets[index], sizes[index], layout, tile, scratch)
            except ValueError as error:
                findings.append(f"{where} is damaged: {error}")
                continue
            if pixel_checksum(tile) != task.checksum[index]:
                findings.append(f"{where} is altered: its pixels are not those that were converted")
                continue
            total, squares = band_sums(tile, layout)
            if (total != task.band_sum[index]).any() or (squares != task.band_sumsq[index]).any():
                findings.append(f"{where}: band_sum or band_sumsq were altered")
    return count, findings


def info(path: Path, split_rule: str) -> None:
    """Print sizes, bands with statistics, classes with counts, codec and ratio, split sizes."""
    store = schema.open_store(path)
    layout = store.layout
    num_shards = layout.num_shards(store.num_tiles)
    encoded = schema.encoded_bytes(path, layout, store.num_tiles)
    for index in range(num_shards):
        count = min(layout.shard_tiles, store.num_tiles - index * layout.shard_tiles)
        shard.read_index(schema.shard_path(path, index), layout, count)
    raw = layout.tile_bytes * store.num_tiles
    missing = store.num_csv_rows - store.num_tiles
    print(f"store        {path}")
    print(f"chips        {store.num_tiles}" + (f" ({missing} more rows in the CSV have no chip)" if missing else ""))
    print(f"chip         {len(layout.bands)} bands x {layout.height} x {layout.width} {layout.dtype}")
    print(f"codec        {layout.codec}; chunks of {layout.chunk_rows} rows, {num_shards} shards")
    ratio = f"ratio {raw / encoded:.3f}"
    print(f"size         {encoded / MIB:.1f} MiB on disk, {raw / MIB:.1f} MiB raw, {ratio}")
    print(f"fingerprint  {store.fingerprint}")
    try:
        split = make_split(split_rule, store)
    except UserError as error:
        print(f"split        none: {error}")
        split = None
    all_tiles = np.arange(store.num_tiles)
    mean, std = store.band_statistics(all_tiles)
    print(f"\n{'band':<20}{'mean':>12}{'std':>12}")
    for index, band in enumerate(layout.bands):
        print(f"{band:<20}{mean[index]:>12.3f}{std[index]:>12.3f}")
    parts = [part for part in PARTS if split is not None and len(split.part(part))]
    print(f"\n{'class':<20}{'all':>10}" + "".join(f"{part:>10}" for part in parts))
    for index, name in enumerate(store.classes):
        row = f"{name:<20}{int(store.labels[:, index].sum()):>10}"
        if split is not None:
            row += "".join(f"{int(store.labels[split.part(part), index].sum()):>10}" for part in parts)
        print(row)
    sizes = "".join(f"{len(split.part(part)):>10}" for part in parts) if split is not None else ""
    print(f"{'chips':<20}{store.num_tiles:>10}{sizes}" + (f"   (split {split.rule})" if split is not None else ""))
