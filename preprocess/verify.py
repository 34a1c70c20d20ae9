"""Verify everything in a store against what the conversion recorded; print what is in a store.

In: a store. Out: a line for every missing, damaged or altered array, shard and chip. Every chunk's crc32c is checked,
every chip is decoded and compared with its xxh3-64 and its band sums, every shard with its digest. Each array and each
shard is read once: time grows with the bytes, memory with the small arrays.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocess import shard, zarr_store
from preprocess.band_statistics import band_sums, one_blas_thread
from preprocess.console import Progress, UserError, one_line, say
from preprocess.files import FILE_FAULTS, named_errors, open_regular
from preprocess.header import StoreHeader, read_header
from preprocess.labels import settings_of
from preprocess.layout import MIB, Layout
from preprocess.splits import SPLIT_NAMES, make_split
from preprocess.workers import run_tasks

MAX_LINES = 20  # of findings on the terminal; the count is always whole


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One shard. Arrays are of its chips; None where the store's array is damaged itself."""

    path: Path
    layout: Layout
    first: int
    count: int
    digest: int | None
    names: np.ndarray | None
    checksum: np.ndarray | None
    band_sum: np.ndarray | None
    band_sumsq: np.ndarray | None

    def name(self, index: int) -> str:
        """Of one chip; its number where the names are damaged."""
        return f"number {self.first + index}" if self.names is None else str(self.names[index])


def verify(path: Path, *, jobs: int) -> int:
    """Verify the store. Returns the number of findings, each printed as a line.

    Raises:
        UserError: the attributes are missing or damaged, so nothing else can be checked.
    """
    header = read_header(path)
    num_shards = header.layout.num_shards(header.num_chips)
    count = 0
    for finding in _findings(path, header, jobs):
        count += 1
        if count <= MAX_LINES:
            say(f"bad: {finding}")
    if count > MAX_LINES:
        say(f"... and {count - MAX_LINES} more")
    if not count:
        say(f"{path}: whole and unaltered: {header.num_chips} chips in {num_shards} shards.")
        if header.version == 1:
            say("  (store version 1 records less: num_csv_rows and source files are not proved)")
    else:
        say(f"{path}: {count} finding{'s' if count > 1 else ''}. Remove the store and convert again.")
    return count


def _findings(path: Path, header: StoreHeader, jobs: int) -> Iterator[str]:
    yield from header.findings()
    with Progress("verify", total=header.num_chips, unit="chips") as progress:
        for count, found in run_tasks(_check_shard, _tasks(path, header), jobs=jobs):
            yield from found
            progress.update(count)


def _tasks(path: Path, header: StoreHeader) -> list[_Task]:
    """One for each shard; arrays that are damaged, which `findings` has said, are left out."""
    arrays: dict[str, np.ndarray | None] = {}
    for name in ("names", "checksum", "band_sum", "band_sumsq", "shard_digest"):
        try:
            arrays[name] = header.read(name) if name in header.specs else None
        except UserError:
            arrays[name] = None
    digests = arrays.pop("shard_digest")
    step = header.layout.shard_tiles
    return [
        _Task(
            path=zarr_store.shard_path(path, number),
            layout=header.layout,
            first=number * step,
            count=min(step, header.num_chips - number * step),
            digest=None if digests is None else int(digests[number]),
            **{
                name: None if values is None else values[number * step : (number + 1) * step]
                for name, values in arrays.items()
            },
        )
        for number in range(header.layout.num_shards(header.num_chips))
    ]


def _check_shard(task: _Task) -> tuple[int, list[str]]:
    """(chips, findings) of one shard."""
    layout, count, findings = task.layout, task.count, []
    if not task.path.exists():
        return count, [f"shard {task.path} is missing ({count} chips from {task.name(0)})"]
    try:
        offsets, sizes = shard.read_index(task.path, layout, count, task.digest)
    except shard.ForeignShardError as error:
        findings.append(str(error))  # its chips say what is in it
        offsets, sizes = shard.read_index(task.path, layout, count)
    except shard.DamagedChunkError as error:
        return count, [str(error)]
    try:
        # Read, not mapped: a page that the disk cannot give would end the process.
        with named_errors(task.path), open_regular(task.path) as file:
            data = np.fromfile(file, np.uint8)
    except OSError as error:
        if error.errno not in FILE_FAULTS:
            raise
        return count, [f"{task.path}: the shard cannot be read ({error.strerror})"]
    chip = np.empty((len(layout.bands), layout.height, layout.width), layout.dtype)
    scratch = shard.decode_scratch(layout, len(layout.bands))
    with one_blas_thread():
        for index in range(count):
            where = f"chip {task.name(index)} (number {task.first + index}) in {task.path}"
            try:
                shard.decode_chip(data, offsets[index], sizes[index], layout, chip, scratch)
            except ValueError as error:
                findings.append(f"{where} is damaged: {error}")
                continue
            if task.checksum is not None and shard.pixel_checksum(chip) != task.checksum[index]:
                findings.append(f"{where} is altered: its pixels are not those that were converted")
                continue
            total, squares = band_sums(chip, layout)
            for name, values, expected in (
                ("band_sum", total, task.band_sum),
                ("band_sumsq", squares, task.band_sumsq),
            ):
                if expected is not None and (values != expected[index]).any():
                    findings.append(f"{where}: {name} is not that of its pixels")
    return count, findings


def info(path: Path, split_rule: str) -> None:
    """Print sizes, bands with statistics, classes with counts, codec and ratio, split sizes."""
    store = zarr_store.open_store(path)
    layout = store.layout
    num_shards = layout.num_shards(store.num_chips)
    encoded = zarr_store.encoded_bytes(path, layout, store.num_chips)
    digests = store.shard_digest
    for index in range(num_shards):
        count = min(layout.shard_tiles, store.num_chips - index * layout.shard_tiles)
        digest = None if digests is None else int(digests[index])
        shard.read_index(zarr_store.shard_path(path, index), layout, count, digest)
    raw = layout.chip_bytes * store.num_chips
    missing = store.num_csv_rows - store.num_chips
    say(f"store        {path}")
    say(f"chips        {store.num_chips}" + (f" ({missing} more rows in the CSV have no chip)" if missing else ""))
    say(f"chip         {len(layout.bands)} bands x {layout.height} x {layout.width} {layout.dtype}")
    say(f"codec        {layout.codec}; chunks of {layout.chunk_rows} rows, {num_shards} shards")
    ratio = f"ratio {raw / encoded:.3f}"
    say(f"size         {encoded / MIB:.1f} MiB on disk, {raw / MIB:.1f} MiB raw, {ratio}")
    if "nodata" in store.source:
        say(f"nodata       {store.source['nodata']} (marked by the files; counts as a value in mean and std)")
    say(f"fingerprint  {store.fingerprint}")
    if read_with := " ".join(f"{name}={value!r}" for name, value in settings_of(store).variables().items()):
        say(f"labels       read with {read_with}")
    try:
        split = make_split(split_rule, store)
    except UserError as error:
        say(f"split        none: {error}")
        split = None
    all_chips = np.arange(store.num_chips)
    mean, std = store.band_statistics(all_chips)
    say("")
    say(f"{'band':<20}{'mean':>12}{'std':>12}")
    form = ".5g" if layout.dtype == "float32" else ".3f"  # reflectances are far below 1
    for index, band in enumerate(layout.bands):
        say(f"{one_line(band):<20}{mean[index]:>12{form}}{std[index]:>12{form}}")
    parts = [part for part in SPLIT_NAMES if split is not None and len(split.indices(part))]
    say("")
    say(f"{'class':<20}{'all':>10}" + "".join(f"{part:>10}" for part in parts))
    for index, name in enumerate(store.classes):
        row = f"{one_line(name):<20}{int(store.labels[:, index].sum()):>10}"
        if split is not None:
            row += "".join(f"{int(store.labels[split.indices(part), index].sum()):>10}" for part in parts)
        say(row)
    sizes = "".join(f"{len(split.indices(part)):>10}" for part in parts) if split is not None else ""
    say(f"{'chips':<20}{store.num_chips:>10}{sizes}" + (f"   (split {split.rule})" if split is not None else ""))
