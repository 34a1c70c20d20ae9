"""Modes `loader` and `peers`: rows in processes of their own, interleaved; the machine's limits probed each round."""

import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bench import environments, formats
from bench.limits import Limits, probe, speed_of_light
from bench.measure import Pass, Ready
from bench.remote_generator import Remote, RemoteError
from bench.rows import BASELINE, OURS, PLAIN
from bench.work import Row, Work
from preprocess import zarr_store
from preprocess.console import UserError, say


def run(work: Work, rounds: int, *, peers: bool, only: tuple[str, ...] = ()) -> dict[str, Any]:
    """The record's `limits` and `rows`; a row that cannot be had is there with its reason, `skipped`.

    Raises:
        UserError: `only` names a row that is not there, or a row gives a wrong batch.
    """
    rows: Sequence[Row] = (*PLAIN[:1], *OURS, *PLAIN[1:])
    if peers:
        from bench.peers import PEERS

        rows = (*PLAIN[:1], *OURS, *PEERS)
    possible = [row for row in rows if _possible(row, work)]
    if unknown := sorted(set(only) - {row.name for row in possible}):
        raise UserError(f"ROWS={','.join(unknown)}: expected some of {', '.join(row.name for row in possible)}.")
    return time_rows([row for row in possible if not only or row.name in only], work, rounds)


def _possible(row: Row, work: Work) -> bool:
    """On a user's own store: the rows of its codec and bands."""
    if row in OURS:
        return row.format in work.stores and set(row.bands or ()) <= set(work.bands)
    return work.tif is not None


def time_rows(rows: Sequence[Row], work: Work, rounds: int) -> dict[str, Any]:
    """Start them, go round, end them."""
    entries: dict[str, dict[str, Any]] = {}
    remotes: dict[str, Remote] = {}
    passes: dict[str, list[Pass]] = {row.name: [] for row in rows}
    limits: list[Limits] = []
    try:
        _prepare(rows, work)
        for row in rows:
            entries[row.name] = {"name": row.name}
            try:
                remotes[row.name] = _start(row, work, entries[row.name])
            except RemoteError as error:
                reason = environments.why_not(row.library) or str(error)
                # A wrong batch is a defect, so is a row that needs no library. A library that cannot run is a finding.
                if error.kind == "WrongBatchError" or not row.modules:
                    raise UserError(f"{row.name}: {error}") from error
                entries[row.name]["skipped"] = reason
                say(f"{row.name}: skipped: {reason}")
        for number in range(rounds):
            limits.append(probe(work))
            for name, remote in remotes.items():
                passes[name].append(remote.ask(number))
    finally:
        for remote in remotes.values():
            remote.close()
    baseline = statistics.median(one.chips_per_s for one in passes[BASELINE]) if passes.get(BASELINE) else None
    for row in rows:
        if passes[row.name]:
            entries[row.name] |= _numbers(row, work, passes[row.name], limits, baseline)
        entries[row.name]["note"] = row.note
    return {"limits": [asdict(limit) for limit in limits], "rows": list(entries.values())}


def _prepare(rows: Sequence[Row], work: Work) -> None:
    """Write the formats that are missing before any row is timed: the disk would still be busy with the last one."""
    missing = [row for row in rows if not formats.is_made(work, row.format)]
    for row in missing:
        say(f"{row.name}: its format is written")
        try:
            Remote("bench.measure:prepare", row.name, work, python=environments.python(row.library)).close()
        except RemoteError as error:
            say(f"{row.name}: {error}")  # and again when the row is started, where it becomes its reason
    if missing:
        os.sync()


def _start(row: Row, work: Work, entry: dict[str, Any]) -> Remote:
    python = environments.python(row.library)
    chooser = Remote("bench.measure:choose", row.name, work, python=python)
    setting = chooser.first
    chooser.close()
    remote = Remote("bench.measure:serve", row.name, work, setting, python=python)
    ready: Ready = remote.first
    entry |= {**asdict(ready), "workers": str(setting)}
    say(f"{row.name}: checked; workers {setting} are its best")
    return remote


def _numbers(row: Row, work: Work, passes: list[Pass], limits: list[Limits], baseline: float | None) -> dict[str, Any]:
    rates = [one.chips_per_s for one in passes]
    cpu = [one.cpu_s_per_1000 for one in passes]
    return {
        "chips_per_s": statistics.median(rates),
        "ratio": statistics.median(rates) / baseline if baseline else None,
        "r_sol": r_sol(row, work, rates, limits),
        "cpu_s_per_1000": statistics.median(cpu),
        "samples": rates,
        "cpu_samples": cpu,
        **bytes_a_chip(row, work),
    }


def bytes_a_chip(row: Row, work: Work) -> dict[str, float]:
    """stored: read from the store. raw: decoded. crop_in, out: copied into the batch and written there as float32."""
    if row.codec is None:
        return {}
    store = work.store(row.codec)
    bands = row.bands or work.bands
    share = len(bands) / len(work.bands)
    pixels = work.crop[0] * work.crop[1] * len(bands)
    return {
        "stored_bytes_a_chip": zarr_store.encoded_bytes(store.local_path, store.layout, store.num_chips)
        / store.num_chips
        * share,
        "raw_bytes_a_chip": store.layout.chip_bytes * share,
        "crop_bytes_a_chip": store.layout.itemsize * pixels,
        "out_bytes_a_chip": 4 * pixels,
    }


def r_sol(row: Row, work: Work, rates: list[float], limits: list[Limits]) -> float | None:
    """Share of what read, LZ4 and copy alone would allow on all cores, each round against its own probe."""
    if row.codec is None:
        return None
    sizes, cores = bytes_a_chip(row, work), len(os.sched_getaffinity(0))
    light = [
        cores * speed_of_light(
            limit, stored=sizes["stored_bytes_a_chip"], raw=sizes["raw_bytes_a_chip"],
            crop_in=sizes["crop_bytes_a_chip"], out=sizes["out_bytes_a_chip"], inflate=row.codec == "lz4",
        )
        for limit in limits
    ]  # fmt: skip
    return statistics.median(rate / best for rate, best in zip(rates, light, strict=True))
