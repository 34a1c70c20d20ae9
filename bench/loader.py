"""Modes `loader` and `peers`: each row runs in its own process; rounds are interleaved.

In: rows. Out: a record's rows, and the machine's limits, probed in each round. Leaves timing to `measure`.
"""

import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from bench import environments, formats
from bench.limits import BareLoader, probe
from bench.measure import Pass, Ready
from bench.remote_generator import Remote, RemoteError
from bench.rows import BASELINE, OURS, PLAIN
from bench.work import Row, Setting, Work
from preprocess import zarr_store
from preprocess.console import UserError, say


def run(work: Work, rounds: int, *, peers: bool, only: tuple[str, ...] = ()) -> dict[str, Any]:
    """The record's `limits` and `rows`. A row that cannot run has the reason under `skipped`.

    Raises:
        UserError: `only` names an unknown row, or a row gives a wrong batch.
    """
    rows: Sequence[Row] = (*PLAIN[:1], *OURS, *PLAIN[1:])
    if peers:
        from bench.peers import PEERS

        rows = (*PLAIN[:1], *OURS, *PEERS)
    usable = [row for row in rows if _usable(row, work)]
    if unknown := sorted(set(only) - {row.name for row in usable}):
        raise UserError(f"ROWS={','.join(unknown)}: expected some of {', '.join(row.name for row in usable)}.")
    return time_rows([row for row in usable if not only or row.name in only], work, rounds)


def _usable(row: Row, work: Work) -> bool:
    """Whether a row can run: on a user's store only our rows with its codec and bands can."""
    if row in OURS:
        return row.format in work.stores and set(row.bands or ()) <= set(work.bands)
    return work.tif is not None


def time_rows(rows: Sequence[Row], work: Work, rounds: int) -> dict[str, Any]:
    """Start the rows, time them in rounds, end them."""
    entries: dict[str, dict[str, Any]] = {}
    remotes: dict[str, Remote] = {}
    passes: dict[str, list[Pass]] = {row.name: [] for row in rows}
    limits: list[dict[str, Any]] = []
    bare: dict[str, BareLoader] = {}
    light: dict[str, list[float]] = {row.name: [] for row in rows}
    try:
        _prepare(rows, work)
        for row in rows:
            entries[row.name] = {"name": row.name}
            try:
                remotes[row.name], setting = _start(row, work, entries[row.name])
                if row.codec is not None:
                    bare[row.name] = BareLoader(work, row.codec, row.bands or work.bands, setting.workers)
            except RemoteError as error:
                reason = environments.why_not(row.library) or str(error)
                # A wrong batch is a defect; so is a failure without a peer library. A library that cannot run is a
                # result.
                if error.kind == "WrongBatchError" or not row.modules:
                    raise UserError(f"{row.name}: {error}") from error
                entries[row.name]["skipped"] = reason
                say(f"{row.name}: skipped: {reason}")
        for number in range(rounds):
            limits.append(asdict(probe(work)))
            _round(number, remotes, bare, passes, light)
    finally:
        for remote in remotes.values():
            remote.close()
    baseline = statistics.median(one.chips_per_s for one in passes[BASELINE]) if passes.get(BASELINE) else None
    for row in rows:
        if passes[row.name]:
            entries[row.name] |= _numbers(row, work, passes[row.name], light[row.name], baseline)
        entries[row.name]["note"] = row.note
    check_limits(list(entries.values()))
    return {"limits": limits, "rows": list(entries.values())}


def _round(
    number: int, remotes: dict[str, Remote], bare: dict[str, BareLoader], passes: dict[str, list[Pass]],
    light: dict[str, list[float]],
) -> None:  # fmt: skip
    """Time each row once, and its limit just before it."""
    for name, remote in remotes.items():
        if name in bare:
            light[name].append(bare[name].rate(number))
        passes[name].append(remote.ask(number))


def _prepare(rows: Sequence[Row], work: Work) -> None:
    """Write missing formats before any row is timed; otherwise the disk is still busy with the last one."""
    missing = [row for row in rows if not formats.is_made(work, row.format)]
    for row in missing:
        say(f"{row.name}: writing its format")
        try:
            Remote("bench.measure:prepare", row.name, work, python=environments.python(row.library)).close()
        except RemoteError as error:
            say(f"{row.name}: {error}")  # raised again when the row starts; there it becomes the reason for skipping
    if missing:
        os.sync()


def start_row(label: str, function: str, name: str, work: Work, *arguments: Any) -> Remote:
    """Start a row that has no reason to be skipped.

    Raises:
        UserError: it cannot run, or gives a wrong batch.
    """
    try:
        return Remote(function, name, work, *arguments)
    except RemoteError as error:
        raise UserError(f"{label}: {error}") from error


def _start(row: Row, work: Work, entry: dict[str, Any]) -> tuple[Remote, Setting]:
    python = environments.python(row.library)
    chooser = Remote("bench.measure:choose", row.name, work, python=python)
    setting: Setting = chooser.first
    chooser.close()
    remote = Remote("bench.measure:serve", row.name, work, setting, python=python)
    ready: Ready = remote.first
    entry |= {**asdict(ready), "workers": str(setting)}
    say(f"{row.name}: batch checked; fastest with workers {setting}")
    return remote, setting


def _numbers(row: Row, work: Work, passes: list[Pass], light: list[float], baseline: float | None) -> dict[str, Any]:
    rates = [one.chips_per_s for one in passes]
    cpu = [one.cpu_s_per_1000 for one in passes]
    return {
        "chips_per_s": statistics.median(rates),
        "ratio": statistics.median(rates) / baseline if baseline else None,
        "r_sol": r_sol(rates, light),
        "cpu_s_per_1000": statistics.median(cpu),
        "samples": rates,
        "cpu_samples": cpu,
        "limit_samples": light,
        **bytes_a_chip(row, work),
    }


def r_sol(rates: list[float], light: list[float]) -> float | None:
    """Rate as a share of the speed of light, each round against its own; None without a limit."""
    return statistics.median(rate / best for rate, best in zip(rates, light, strict=True)) if light else None


MOST_R_SOL = 1.02


def check_limits(rows: Sequence[dict[str, Any]]) -> None:
    """Refuse a result in which a row is faster than its limit.

    Raises:
        UserError: names the row.
    """
    for row in rows:
        if (share := row.get("r_sol")) is not None and share > MOST_R_SOL:
            raise UserError(
                f"{row['name']}: expected at most the speed of light, found {share:.2f} of it: other programs slowed "
                "the measurement of the limit. Run the benchmark again when the machine is quiet."
            )


def bytes_a_chip(row: Row, work: Work) -> dict[str, float]:
    """Bytes per chip. stored: read. raw: decoded. crop: copied into the batch. out: written there as float32."""
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
