"""Verify everything in a store against what the conversion recorded.

In: a store. Out: one line for every missing, damaged or altered array, shard and chip. Compares every chunk with its
crc32c, every decoded chip with its xxh3-64 and its band sums, and every shard with its digest. Each array and each
shard is read once: time grows with the bytes, memory with the small arrays. Leaves what a store contains to `info`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preprocess import shard, zarr_store
from preprocess.addresses import Location, absolute
from preprocess.band_statistics import band_sums
from preprocess.console import AccessError, Progress, UserError, say
from preprocess.engine import Engine, open_engine
from preprocess.files import FILE_FAULTS, named_errors, open_regular
from preprocess.header import StoreHeader, read_header
from preprocess.layout import Layout
from preprocess.nodata import valid_counts
from preprocess.packed_texts import PackedTexts

_MODULES = ("preprocess.verify", "preprocess.lz4")  # what processes of CLUSTER=local:8 import before they start
MAX_LINES = 20  # findings on the terminal; the count includes all


@dataclass(frozen=True, kw_only=True)
class _Task:
    """One shard, and what the store records of its chips. An array is None if it is damaged in the store."""

    path: Location
    layout: Layout
    first: int
    count: int
    digest: int | None
    names: PackedTexts | None
    checksum: np.ndarray | None
    band_sum: np.ndarray | None
    band_sumsq: np.ndarray | None
    valid_count: np.ndarray | None

    def __str__(self) -> str:
        return f"shard {self.path}"

    def name(self, index: int) -> str:
        """Name of one chip; its number if the names are damaged."""
        return f"number {self.first + index}" if self.names is None else self.names[index]


def verify(path: Location, *, jobs: int, cluster: str | None = None) -> int:
    """Verify the store and print one line for each finding. Returns the number of findings.

    Raises:
        UserError: the attributes are missing or damaged, so nothing else can be checked.
    """
    header = read_header(path)
    num_shards = header.layout.num_shards(header.num_chips)
    count = 0
    with open_engine(cluster, jobs=jobs, modules=_MODULES if cluster else ()) as engine:
        for finding in _findings(absolute(path) if cluster else path, header, engine):
            count += 1
            if count <= MAX_LINES:
                say(f"bad: {finding}")
    if count > MAX_LINES:
        say(f"... and {count - MAX_LINES} more")
    if not count:
        say(f"{path}: complete and unaltered: {header.num_chips} chips in {num_shards} shards.")
        if header.version == 1:
            say("  (a store of version 1 records less: num_csv_rows and the source files cannot be verified)")
    else:
        say(f"{path}: {count} finding{'s' if count > 1 else ''}. Remove the store and convert again.")
    return count


def _findings(path: Location, header: StoreHeader, engine: Engine) -> Iterator[str]:
    yield from header.findings()
    megabytes = header.layout.chip_bytes / 1e6
    with Progress(
        "verify", total=header.num_chips, unit="chips", every_s=engine.log_every_s, megabytes=megabytes
    ) as progress:
        for count, lines in engine.run(_check_shard, _tasks(path, header), needs=path / "zarr.json"):
            yield from lines
            progress.update(count, engine.note.rstrip(", "))


def _tasks(path: Location, header: StoreHeader) -> list[_Task]:
    """One task per shard, without the arrays that are damaged: `StoreHeader.findings` has reported them."""
    arrays: dict[str, Any] = {}
    for name in ("names", "checksum", "band_sum", "band_sumsq", "valid_count", "shard_digest"):
        try:
            arrays[name] = _read(header, name) if name in header.specs else None
        except AccessError:
            raise
        except UserError:
            arrays[name] = None
    digests = arrays.pop("shard_digest")
    step = header.layout.shard_tiles
    return [
        _Task(
            path=path / zarr_store.shard_key(number),
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


def _read(header: StoreHeader, name: str) -> np.ndarray | PackedTexts:
    """A small array; the names packed: an array of them has 4 bytes per character."""
    return PackedTexts.collect(header.read(name, as_objects=True)) if name == "names" else header.read(name)


def _check_shard(task: _Task) -> tuple[int, list[str]]:
    """(chips, findings) of one shard."""
    try:
        data = _read_shard(task.path)
    except FileNotFoundError:
        return task.count, [f"shard {task.path} is missing ({task.count} chips from {task.name(0)})"]
    except OSError as error:
        if error.errno not in FILE_FAULTS:
            raise
        return task.count, [f"{task.path}: the shard cannot be read ({error.strerror})"]
    findings = []
    tail, name = data[-shard.tail_bytes(task.layout) :].tobytes(), str(task.path)
    try:
        offsets, sizes = shard.parse_index(tail, len(data), name, task.layout, task.count, task.digest)
    except shard.ForeignShardError as error:
        findings.append(str(error))  # its chips are checked too
        offsets, sizes = shard.parse_index(tail, len(data), name, task.layout, task.count)
    except shard.DamagedChunkError as error:
        return task.count, [str(error)]
    return task.count, [*findings, *_check_chips(task, data, offsets, sizes)]


def _read_shard(path: Location) -> np.ndarray:
    """The bytes of a shard.

    Raises:
        OSError: raised by the operating system; FileNotFoundError also for an object that is missing.
    """
    if isinstance(path, Path):
        # Read, not mapped: if the disk cannot deliver a page of a map, the process ends.
        with named_errors(path), open_regular(path) as file:
            return np.fromfile(file, np.uint8)
    from preprocess.remote_files import read_file

    return np.frombuffer(read_file(path), np.uint8)


def _check_chips(task: _Task, data: np.ndarray, offsets: np.ndarray, sizes: np.ndarray) -> Iterator[str]:
    """Findings about the chips in a shard's bytes."""
    layout = task.layout
    chip = np.empty((len(layout.bands), layout.height, layout.width), layout.dtype)
    scratch = shard.decode_scratch(layout, len(layout.bands))
    for index in range(task.count):
        where = f"chip {task.name(index)} (number {task.first + index}) in {task.path}"
        try:
            shard.decode_chip(data, offsets[index], sizes[index], layout, chip, scratch)
        except ValueError as error:
            yield f"{where} is damaged: {error}"
            continue
        if task.checksum is not None and shard.pixel_checksum(chip) != task.checksum[index]:
            yield f"{where} is altered: its pixels are not those that were converted"
            continue
        for name, values, words in _computed(chip, layout):
            expected = getattr(task, name)
            if expected is not None and (values != expected[index]).any():
                yield f"{where}: {name} is not the {words} pixels"


def _computed(chip: np.ndarray, layout: Layout) -> Iterator[tuple[str, np.ndarray, str]]:
    """(array, row that a chip must have in it, words for a finding)."""
    total, squares = band_sums(chip, layout)
    yield "band_sum", total, "sum of its"
    yield "band_sumsq", squares, "sum of its"
    if layout.nodata is not None:
        yield "valid_count", valid_counts(chip, layout.nodata), "number of its valid"
