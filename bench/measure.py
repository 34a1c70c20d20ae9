"""One row in its own process: choose its fastest setting, check its first batch, then time passes on request.

`choose` and `serve` are generators for `bench.remote_generator`. The choice runs in a
process of its own, so that the timed process starts fresh: its first batch and its memory are not affected. Rounds are
interleaved: A, B, C, A, B, C ...
"""

import gc
import importlib
import os
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import formats
from bench.check import check
from bench.process_usage import PeakMemory, cpu_s
from bench.rows import OURS, PLAIN
from bench.work import Epoch, Row, Setting, Work

ROWS = {row.name: row for row in (*OURS, *PLAIN)}
MIN_PASS_S = 1.5  # an epoch of 2,048 chips alone may take less than half a second
# With one epoch (0.13 s for the fastest row), a setting of 9,800 chips/s was once chosen over one of 16,000.
MIN_TRY_S = 0.75
# With one try, DataLoader + tifffile was once timed with a setting of 900 chips/s where another one reaches 1,700.
TRIES = 2


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A row whose batch was checked, ready to be timed."""

    first_batch_s: float
    peak_mib: float
    stored_bytes: int | None
    convert_s: float | None


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Rates over whole epochs: chips/s, and CPU seconds of all processes per 1,000 chips."""

    chips_per_s: float
    cpu_s_per_1000: float


def find(name: str) -> Row:
    """A row by name, with the modules of its library imported.

    Raises:
        ImportError: the library is not installed.
    """
    if name not in ROWS:
        from bench.peers import PEERS

        ROWS.update({row.name: row for row in PEERS})
    for module in ROWS[name].modules:
        importlib.import_module(module)
    return ROWS[name]


def prepare(name: str, work: Work) -> Iterator[None]:
    """Write the row's format if it does not exist yet."""
    format_of(find(name), work)
    yield None


def choose(name: str, work: Work) -> Iterator[Setting]:
    """Yield the setting with the highest rate."""
    yield fastest(find(name), work)


def fastest(row: Row, work: Work, min_try_s: float = MIN_TRY_S) -> Setting:
    """The setting with the highest rate. All settings are tried in turn, and again: the better try of each counts."""
    if len(row.settings) == 1:
        return row.settings[0]
    rates: dict[Setting, float] = {}
    for setting in row.settings * TRIES:
        epoch = row.make(work, setting)
        if setting.persistent or not rates:  # starting workers and the very first pass do not count
            timed_pass(epoch, 0, min_s=0)
        rates[setting] = max(rates.get(setting, 0.0), timed_pass(epoch, 1, min_s=min_try_s).chips_per_s)
        del epoch
        gc.collect()
    return max(rates, key=lambda setting: rates[setting])


def serve(name: str, work: Work, setting: Setting) -> Iterator[Ready | Pass]:
    """Yield `Ready`, then a `Pass` for every epoch number received."""
    row = find(name)
    on_disk = format_of(row, work)
    started = time.perf_counter()
    epoch = row.make(work, setting)
    batches = epoch(0)
    batch = next(batches)
    first_batch_s = time.perf_counter() - started
    check(row, work, batch)
    del batch
    for _ in batches:  # to the end: a library may keep the state of an unfinished epoch
        pass
    with PeakMemory() as peak:
        timed_pass(epoch, 1, min_s=0)
    message: Any = yield Ready(
        first_batch_s=first_batch_s, peak_mib=peak.mib,
        stored_bytes=on_disk.num_bytes if on_disk else None, convert_s=on_disk.seconds if on_disk else None,
    )  # fmt: skip
    while True:
        message = yield timed_pass(epoch, 1000 * (message + 1))


def serve_quickly(
    name: str, work: Work, min_try_s: float, min_pass_s: float
) -> Generator[Setting | Pass, int, None]:  # fmt: skip
    """Choose the setting, check the first batch and yield the setting, all in one process; then a `Pass` for every
    number received. For many rows of which neither memory nor the time to the first batch is reported."""
    row = find(name)
    format_of(row, work)
    setting = fastest(row, work, min_try_s)
    epoch = row.make(work, setting)
    batches = epoch(0)
    check(row, work, next(batches))
    for _ in batches:
        pass
    message = yield setting
    while True:
        message = yield timed_pass(epoch, 1000 * (message + 1), min_s=min_pass_s)


def format_of(row: Row, work: Work) -> formats.OnDisk | None:
    """The format that the row reads. TIFFs and stores are made before any row starts."""
    if row.format == "tif":
        return None if work.tif is None else formats.OnDisk(path=work.tif, seconds=None, num_bytes=_tif_bytes(work.tif))
    if row.format in work.stores:
        path = work.stores[row.format]
        return formats.OnDisk(path=path, seconds=_convert_s(work, row.format), num_bytes=formats.num_bytes(path))
    return formats.written(work, row.format)


def _tif_bytes(folder: Path) -> int:
    with os.scandir(folder) as entries:
        return sum(entry.stat().st_size for entry in entries)


def _convert_s(work: Work, codec: str) -> float | None:
    path = work.folder / f"{codec}.seconds"
    return float(path.read_text()) if path.exists() else None


def timed_pass(epoch: Epoch, number: int, *, min_s: float = MIN_PASS_S) -> Pass:
    """Time whole epochs from `number` on, for at least `min_s` seconds."""
    cpu, started, count, elapsed = cpu_s(), time.perf_counter(), 0, 0.0
    while not count or elapsed < min_s:
        for batch in epoch(number):
            count += len(batch.chips)
        number += 1
        elapsed = time.perf_counter() - started
    return Pass(chips_per_s=count / elapsed, cpu_s_per_1000=1000 * (cpu_s() - cpu) / count)
