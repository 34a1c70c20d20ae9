"""Mode `cold`: the page cache is dropped before each round, as if the chips were more than fit into memory.

In: the bench chips. Out: a record's rows with `share_of_warm`. Our rows run with default settings, the others with
their fastest. Two rows read as the loader does when no chip fits into memory, two as in the first epoch of a store that
fits, and one from object storage that answers each request after 20 ms. Leaves timing to `measure` and dropping to
`cold_files`.
"""

import gc
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench import cold_files, formats
from bench.check import check
from bench.latency_server import BUCKET, latency_server
from bench.loader import start_row
from bench.measure import Pass, fastest, find, format_of, timed_pass
from bench.process_usage import status_mib
from bench.remote_generator import Remote
from bench.rows import BASELINE, canopy
from bench.work import FLIPS, SEED, Epoch, Row, RowBatch, Setting, Work
from pipeline.loader import default_workers, train_loader
from preprocess.console import say
from preprocess.zarr_store import open_store

STORAGE = "canopy-lz4-storage"
LARGE = ("canopy-lz4", "canopy-none")  # than memory
FIRST = {f"{name}-first": name for name in LARGE}
ROWS = (*LARGE, *FIRST, BASELINE, "dataloader-npy-memmap", STORAGE)
LATENCY_S = 0.02
TRY_S, PASS_S = 0.4, 1.0


def run(work: Work, rounds: int) -> dict[str, Any]:
    """The record's rows.

    Raises:
        UserError: a row gives a wrong batch, or the page cache cannot be dropped.
    """
    remotes: dict[str, Remote] = {}
    passes: dict[str, list[dict[str, Any]]] = {name: [] for name in ROWS}
    disk: list[float] = []
    with ExitStack() as stack:
        stack.enter_context(latency_server(work.folder, LATENCY_S))
        for name in ROWS:
            remotes[name] = start_row(name, "bench.cold:serve", name, work, TRY_S, PASS_S)
            stack.callback(remotes[name].close)
            say(f"{name}: batch checked; workers {remotes[name].first[0]}")
        for number in range(rounds):
            disk.append(cold_files.disk_bytes_per_s(work.stores["lz4"]))
            for name, remote in remotes.items():
                passes[name].append(remote.ask(number))
    rows = [_numbers(name, remotes[name].first, passes, disk) for name in ROWS]
    return {"latency_ms": 1000 * LATENCY_S, "disk_gb_per_s": median(disk) / 1e9, "disk_samples": disk, "rows": rows}


def serve(
    name: str, work: Work, min_try_s: float, min_pass_s: float
) -> Generator[tuple[Setting, float] | dict[str, Any], int, None]:  # fmt: skip
    """Check the first batch; yield the setting and the stored bytes per chip. Then, for each round, the numbers of a
    cold and a warm pass."""
    row = _row(name)
    files = _files(row, work)
    ours = name.startswith("canopy")
    setting = Setting(workers=default_workers()) if ours else fastest(row, work, min_try_s)
    batches = row.make(work, setting)(0)
    check(row, work, next(batches))
    del batches
    gc.collect()
    chip_bytes = (on_disk.num_bytes if (on_disk := format_of(row, work)) else 0) / work.store().num_chips
    number = yield setting, chip_bytes
    while True:
        number = yield _round(row, work, setting, files, number, min_pass_s)


def _round(
    row: Row, work: Work, setting: Setting, files: Path | None, number: int, min_pass_s: float
) -> dict[str, Any]:  # fmt: skip
    """One epoch with an empty page cache, then whole epochs with a full one. Object storage is read once."""
    epoch: Epoch
    if row.name in LARGE:
        assert row.codec is not None
        epoch = canopy(row.codec, page_cache=0)(work, setting)
        # Its memory is made in the first batches, which are few in an epoch of a store that is larger than memory.
        timed_pass(epoch, 1000 * (number + 1) + 3, min_s=0)
    else:
        epoch = row.make(work, setting)
    cached = 0.0 if files is None else cold_files.dropped(files)
    cold: Pass = timed_pass(epoch, 1000 * (number + 1), min_s=0)
    memory = {f"{kind}_mib": status_mib(field) for kind, field in (("anonymous", "RssAnon"), ("mapped", "RssFile"))}
    numbers = {"cold": cold.chips_per_s, "cold_cpu": cold.cpu_s_per_1000, "cached": cached, **memory}
    if row.name in LARGE:
        del epoch
        gc.collect()
        epoch = row.make(work, setting)
    if files is not None:
        timed_pass(epoch, 1000 * (number + 1) + 1, min_s=0)
        warm: Pass = timed_pass(epoch, 1000 * (number + 1) + 2, min_s=min_pass_s)
        numbers |= {"warm": warm.chips_per_s, "warm_cpu": warm.cpu_s_per_1000}
    del epoch
    gc.collect()  # mapped pages cannot be dropped: no loader may live when the next probe or row drops them
    return numbers


def _row(name: str) -> Row:
    if name in FIRST:
        return replace(find(FIRST[name]), name=name)
    if name != STORAGE:
        return find(name)
    return replace(find("canopy-lz4"), name=STORAGE, make=_from_storage)


def _from_storage(work: Work, setting: Setting) -> Epoch:
    store = open_store(f"s3://{BUCKET}/{work.stores['lz4'].name}")
    loader = train_loader(
        store, np.arange(store.num_chips), work.scaling(work.bands), batch_size=work.batch, seed=SEED, flips=FLIPS,
        crop=work.crop, workers=setting.workers,
    )  # fmt: skip
    return lambda epoch: (RowBatch(batch.images_nchw, batch.labels, batch.chips) for batch in loader.epoch(epoch))


def _files(row: Row, work: Work) -> Path | None:
    """What the row reads; None for object storage, which has a page cache of its own."""
    on_disk: formats.OnDisk | None = format_of(row, work)
    return None if row.name == STORAGE or on_disk is None else on_disk.path


def _numbers(
    name: str, first: tuple[Setting, float], passes: dict[str, list[dict[str, Any]]], disk: list[float]
) -> dict[str, Any]:
    """Shares are medians of each round's own. `share_of_warm`: of the warm rate. `share_of_limit`: of the warm rate or
    of the chips that the disk can read, whichever is less. `share_of_disk`: bytes per second, as a share of those of
    whole files. Object storage is always cold: its warm numbers are those of the same store on the disk."""
    setting, chip_bytes = first
    here, there = passes[name], passes["canopy-lz4" if name == STORAGE else name]
    cold, warm = [one["cold"] for one in here], [one["warm"] for one in there]
    readable = None if name == STORAGE or not chip_bytes else [rate / chip_bytes for rate in disk]
    limits = None if readable is None else [min(both) for both in zip(readable, warm, strict=True)]
    return {
        "name": name,
        "workers": str(setting),
        "chips_per_s": median(cold),
        "warm_chips_per_s": median(warm),
        "share_of_warm": _share(cold, warm),
        "share_of_disk": _share(cold, readable),
        "share_of_limit": _share(cold, limits),
        "cpu_s_per_1000": median(one["cold_cpu"] for one in here),
        "warm_cpu_s_per_1000": median(one["warm_cpu"] for one in there),
        "anonymous_mib": max(one["anonymous_mib"] for one in here),
        "mapped_mib": max(one["mapped_mib"] for one in here),
        "samples": cold,
        "warm_samples": warm,
        "limit_samples": limits,
        "cached_samples": [one["cached"] for one in here],
    }


def _share(rates: list[float], limits: list[float] | None) -> float | None:
    return None if limits is None else median(rate / limit for rate, limit in zip(rates, limits, strict=True))


def table(result: dict[str, Any]) -> str:
    """A record's rows as the Markdown table of docs/results.md. Old records have no share of the limit."""
    names = (
        "loader", "chips/s, cold", "chips/s, warm", "share of warm", "of the disk", "of the limit",
        "CPU-s per 1,000, cold", "warm",
    )  # fmt: skip
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for row in result["rows"]:
        rates = f"{row['chips_per_s']:,.0f} | {row['warm_chips_per_s']:,.0f} | {row['share_of_warm']:.2f}"
        shares = (row.get(name) for name in ("share_of_disk", "share_of_limit"))
        limits = " | ".join("-" if share is None else f"{share:.2f}" for share in shares)
        lines.append(
            f"| {row['name']} | {rates} | {limits} | {row['cpu_s_per_1000']:.2f} | {row['warm_cpu_s_per_1000']:.2f} |"
        )
    return "\n".join(lines)
