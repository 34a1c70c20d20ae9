"""One row in its own process: choose its best setting, check its first batch, then passes as they are asked for.

`choose` and `serve` are generators for `bench.remote_generator`. The process that chooses ends; the timed one is
new, so that its first batch and its memory are its own. Rounds then go A, B, C, A, B, C ...
"""

import gc
import importlib
import os
import time
from collections.abc import Iterator
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
# One epoch, 0.13 s of the fastest row, once chose a setting that did 9,800 chips/s where another does 16,000.
MIN_TRY_S = 0.75


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A row that may be timed."""

    first_batch_s: float
    peak_mib: float
    stored_bytes: int | None
    convert_s: float | None


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Whole epochs: chips a second, and CPU seconds (of all processes) for 1,000 chips."""

    chips_per_s: float
    cpu_s_per_1000: float


def find(name: str) -> Row:
    """A row by name, with everything its library needs imported.

    Raises:
        ImportError: the library is not there.
    """
    if name not in ROWS:
        from bench.peers import PEERS

        ROWS.update({row.name: row for row in PEERS})
    for module in ROWS[name].modules:
        importlib.import_module(module)
    return ROWS[name]


def prepare(name: str, work: Work) -> Iterator[None]:
    """Write the row's format if it is not there yet."""
    _format(find(name), work)
    yield None


def choose(name: str, work: Work) -> Iterator[Setting]:
    """The setting with the highest rate."""
    row = find(name)
    rates: dict[Setting, float] = {}
    for setting in row.settings:
        if len(row.settings) == 1:
            rates[setting] = 0.0
            break
        epoch = row.make(work, setting)
        if setting.persistent or not rates:  # starting workers, and what is first of all, is no part of the rate
            timed_pass(epoch, 0, min_s=0)
        rates[setting] = timed_pass(epoch, 1, min_s=MIN_TRY_S).chips_per_s
        del epoch
        gc.collect()
    yield max(rates, key=lambda setting: rates[setting])


def serve(name: str, work: Work, setting: Setting) -> Iterator[Ready | Pass]:
    """First `Ready`; then a `Pass` for every epoch number sent."""
    row = find(name)
    kept = _format(row, work)
    started = time.perf_counter()
    epoch = row.make(work, setting)
    batches = epoch(0)
    batch = next(batches)
    first_batch_s = time.perf_counter() - started
    check(row, work, batch)
    del batch
    for _ in batches:  # to the end: a library may keep state of an epoch that is broken off
        pass
    with PeakMemory() as peak:
        timed_pass(epoch, 1, min_s=0)
    message: Any = yield Ready(
        first_batch_s=first_batch_s, peak_mib=peak.mib,
        stored_bytes=kept.num_bytes if kept else None, convert_s=kept.seconds if kept else None,
    )  # fmt: skip
    while True:
        message = yield timed_pass(epoch, 1000 * (message + 1))


def _format(row: Row, work: Work) -> formats.Kept | None:
    """What the row reads; the TIFFs and stores are made before any row starts."""
    if row.format == "tif":
        return None if work.tif is None else formats.Kept(path=work.tif, seconds=None, num_bytes=_tif_bytes(work.tif))
    if row.format in work.stores:
        path = work.stores[row.format]
        return formats.Kept(path=path, seconds=_convert_s(work, row.format), num_bytes=formats.num_bytes(path))
    return formats.kept(work, row.format)


def _tif_bytes(folder: Path) -> int:
    with os.scandir(folder) as entries:
        return sum(entry.stat().st_size for entry in entries)


def _convert_s(work: Work, codec: str) -> float | None:
    path = work.folder / f"{codec}.seconds"
    return float(path.read_text()) if path.exists() else None


def timed_pass(epoch: Epoch, number: int, *, min_s: float = MIN_PASS_S) -> Pass:
    """Whole epochs from `number` on, for at least `min_s` seconds."""
    cpu, started, count, elapsed = cpu_s(), time.perf_counter(), 0, 0.0
    while not count or elapsed < min_s:
        for batch in epoch(number):
            count += len(batch.chips)
        number += 1
        elapsed = time.perf_counter() - started
    return Pass(chips_per_s=count / elapsed, cpu_s_per_1000=1000 * (cpu_s() - cpu) / count)
