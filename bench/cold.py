"""Mode `cold`: the page cache is dropped before each round, as if the chips were more than fit into memory.

In: the bench chips. Out: a record's rows with `share_of_warm`. Our rows run with default settings, the others with
their fastest. One row reads from object storage that answers each request after 20 ms. Leaves timing to `measure` and
dropping to `cold_files`.
"""

import gc
import time
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
from bench.measure import Pass, fastest, find, format_of, timed_pass
from bench.process_usage import status_mib
from bench.remote_generator import Remote, RemoteError
from bench.rows import BASELINE
from bench.work import FLIPS, SEED, Epoch, Row, RowBatch, Setting, Work
from pipeline.loader import default_workers, train_loader
from preprocess.console import UserError, say
from preprocess.zarr_store import open_store

STORAGE = "canopy-lz4-storage"
ROWS = ("canopy-lz4", "canopy-none", BASELINE, "dataloader-npy-memmap", STORAGE)
LATENCY_S = 0.02
TRY_S, PASS_S = 0.4, 1.0
MOST_CACHED = 0.02  # of the pages of the files, after they were dropped
_DROPS = 10  # tries


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
            remotes[name] = _start(name, work)
            stack.callback(remotes[name].close)
        for number in range(rounds):
            disk.append(cold_files.disk_bytes_per_s(work.stores["lz4"]))
            for name, remote in remotes.items():
                passes[name].append(remote.ask(number))
    warm_here = [one["warm"] for one in passes["canopy-lz4"]]
    rows = [_numbers(name, remotes[name].first, passes[name], disk, warm_here) for name in ROWS]
    return {"latency_ms": 1000 * LATENCY_S, "disk_gb_per_s": median(disk) / 1e9, "disk_samples": disk, "rows": rows}


def _start(name: str, work: Work) -> Remote:
    try:
        remote = Remote("bench.cold:serve", name, work, TRY_S, PASS_S)
    except RemoteError as error:
        raise UserError(f"{name}: {error}") from error
    say(f"{name}: batch checked; workers {remote.first[0]}")
    return remote


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
    chip_bytes = (on_disk.num_bytes if (on_disk := format_of(row, work)) else 0) / work.store().num_chips
    number = yield setting, chip_bytes
    while True:
        number = yield _round(row, work, setting, files, number, min_pass_s)


def _round(
    row: Row, work: Work, setting: Setting, files: Path | None, number: int, min_pass_s: float
) -> dict[str, Any]:  # fmt: skip
    """One epoch with an empty page cache, then whole epochs with a full one. Object storage is read once."""
    epoch: Epoch = row.make(work, setting)
    gc.collect()  # mapped pages cannot be dropped: no loader of the last round may live
    cached = 0.0 if files is None else _dropped(files)
    cold: Pass = timed_pass(epoch, 1000 * (number + 1), min_s=0)
    memory = {f"{kind}_mib": status_mib(field) for kind, field in (("anonymous", "RssAnon"), ("mapped", "RssFile"))}
    warm = cold
    if files is not None:
        timed_pass(epoch, 1000 * (number + 1) + 1, min_s=0)
        warm = timed_pass(epoch, 1000 * (number + 1) + 2, min_s=min_pass_s)
    return {
        "cold": cold.chips_per_s, "warm": warm.chips_per_s, "cached": cached, **memory,
        "cold_cpu": cold.cpu_s_per_1000, "warm_cpu": warm.cpu_s_per_1000,
    }  # fmt: skip


def _dropped(files: Path) -> float:
    """Drop the files from the page cache; returns the share that is left.

    Raises:
        UserError: more than `MOST_CACHED` is left.
    """
    for attempt in range(_DROPS):
        cold_files.drop(files)
        share = cold_files.cached_share(files)
        if share <= MOST_CACHED:
            break
        time.sleep(0.1 * attempt)  # a page that a core has just read or written stays for a moment
    else:
        raise UserError(
            f"{files}: {share:.0%} of it lie in the page cache after they were dropped. Another program has it open, "
            "or the file system (such as tmpfs) has no other place for it."
        )
    return share


def _row(name: str) -> Row:
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
    name: str, first: tuple[Setting, float], passes: list[dict[str, Any]], disk: list[float], warm_here: list[float]
) -> dict[str, Any]:
    """`share_of_warm`: median of each round's cold rate divided by its warm rate. Object storage is always cold: its
    warm rate is that of the same store on the disk. `share_of_disk`: bytes per second, as a share of those of whole
    files."""
    setting, chip_bytes = first
    warm = warm_here if name == STORAGE else [one["warm"] for one in passes]
    cold = [one["cold"] for one in passes]
    return {
        "name": name,
        "workers": str(setting),
        "chips_per_s": median(cold),
        "warm_chips_per_s": median(warm),
        "share_of_warm": median(one / other for one, other in zip(cold, warm, strict=True)),
        "share_of_disk": None
        if name == STORAGE
        else median(one * chip_bytes / rate for one, rate in zip(cold, disk, strict=True)),
        "cpu_s_per_1000": median(one["cold_cpu"] for one in passes),
        "warm_cpu_s_per_1000": median(one["warm_cpu"] for one in passes),
        "anonymous_mib": max(one["anonymous_mib"] for one in passes),
        "mapped_mib": max(one["mapped_mib"] for one in passes),
        "samples": cold,
        "warm_samples": warm,
        "cached_samples": [one["cached"] for one in passes],
    }


def table(result: dict[str, Any]) -> str:
    """A record's rows as the Markdown table of docs/results.md."""
    lines = [
        "| loader | chips/s, cold | chips/s, warm | share of warm | share of disk | CPU-s per 1,000, cold | warm |",
        "|" + "---|" * 7,
    ]
    for row in result["rows"]:
        rates = f"{row['chips_per_s']:,.0f} | {row['warm_chips_per_s']:,.0f} | {row['share_of_warm']:.2f}"
        cpu = f"{row['cpu_s_per_1000']:.2f} | {row['warm_cpu_s_per_1000']:.2f}"
        disk = "-" if row["share_of_disk"] is None else f"{row['share_of_disk']:.2f}"
        lines.append(f"| {row['name']} | {rates} | {disk} | {cpu} |")
    return "\n".join(lines)
