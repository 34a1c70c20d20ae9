"""`make fuzz SECONDS=60`: try damaged stores, TIFFs, PNGs, JPEGs, labels and run folders, each in a watched child.

Prints how many cases were refused, gave the undamaged result, or went wrong. Keeps each case that went wrong; then the
exit code is 1. CASE=stores:SEED:NUMBER runs one case again and leaves its folder.
"""

import importlib
import os
import re
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench.commands import FuzzSettings
from fuzz.children import CASE_MB, CASE_S, Children, run_case
from fuzz.outcome import BAD, OUTCOMES, Case
from preprocess import console
from preprocess.console import UserError

# Module and class of each kind, and its share of the time. Runs come last: they load torch, and children are forked.
KINDS = {
    "stores": ("fuzz.stores", "Stores", 0.3),
    "json": ("fuzz.stores", "Jsons", 0.1),
    "tiffs": ("fuzz.tiffs", "Tiffs", 0.1),
    "rasters": ("fuzz.rasters", "Rasters", 0.05),
    "images": ("fuzz.images", "Images", 0.05),
    "csvs": ("fuzz.csvs", "Csvs", 0.05),
    "jsonl": ("fuzz.tables", "JsonLines", 0.05),
    "parquet": ("fuzz.tables", "Parquets", 0.05),
    "runs": ("fuzz.runs", "Runs", 0.25),
    "toys": ("fuzz.toys", "Toys", 0.0),
}

MAX_LINES = 40  # different causes on the terminal; every bad case is kept


def make_bases(module: Any, place: Path) -> None:
    """Write the undamaged inputs in a child process: writing may start threads, and this process must stay forkable."""
    process = os.fork()
    if process == 0:
        try:
            module.make_bases(place)
            os._exit(0)
        finally:
            import traceback

            traceback.print_exc()
            os._exit(1)
    if os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) != 0:
        raise UserError("the undamaged inputs cannot be made; see above.")


def fuzz_kind(
    name: str, seed: int, seconds: float, count: int | None, *, jobs: int, keep: Path, place: Path
) -> Counter[str]:
    """Run cases of one kind and print their line; returns outcome -> cases. Kinds of one module share their bases."""
    module_name, factory, _ = KINDS[name]
    module = importlib.import_module(module_name)
    bases = place / module_name
    if not bases.exists():
        bases.mkdir()
        make_bases(module, bases)
    children = Children(getattr(module, factory), name, seed, bases, jobs=jobs, keep=keep)
    children.growth, children.case_s = getattr(module, "GROWTH", False), getattr(module, "CASE_S", CASE_S)
    children.case_mb = getattr(module, "CASE_MB", CASE_MB)
    started = time.monotonic()
    totals: Counter[str] = Counter()
    groups: Counter[str] = Counter()
    for case in children.run(seconds, count):
        totals[case.outcome] += 1
        if case.outcome in BAD:
            groups[group := _group(case)] += 1
            if groups[group] == 1 and len(groups) <= MAX_LINES:
                line = f"  {case.outcome}: CASE={case.name}: {'; '.join(case.operations)}: {case.detail}"
                print(console.one_line(line), flush=True)
    elapsed_s = time.monotonic() - started
    for group, number in groups.most_common(MAX_LINES):
        print(console.one_line(f"  {number} x {group}"))
    counts = ", ".join(f"{totals[outcome]} {outcome}" for outcome in OUTCOMES if totals[outcome] or outcome in BAD)
    print(f"{name}: {totals.total()} tried in {elapsed_s:.0f} s: {counts}; peak {children.peak_mb:.0f} MB", flush=True)
    return totals


def _group(case: Case) -> str:
    """The text that cases with one cause share: all of it except numbers and names."""
    text = re.sub(r"/\S+|CASE\S+|0x\w+|'[^']*'|\"[^\"]*\"", "*", case.detail)
    return f"{case.outcome}: {re.sub(r'[0-9.]+', '#', text)[:160]}"


def run_one(text: str, keep: Path) -> int:
    """CASE=: damage and judge one case in this process, and leave the damaged input."""
    try:
        name, seed, number = text.split(":")
        case = Case(name, int(seed), int(number))
        module_name, factory, _ = KINDS[name]
    except (KeyError, ValueError):
        raise UserError(f"CASE={text}: expected KIND:SEED:NUMBER, as `make fuzz` prints it.") from None
    module = importlib.import_module(module_name)
    place = keep / text.replace(":", "-")
    shutil.rmtree(place, ignore_errors=True)
    work = place / "damaged"
    work.mkdir(parents=True)
    (place / "bases").mkdir()
    make_bases(module, place / "bases")
    kind = getattr(module, factory)(place / "bases", work)
    run_case(kind, case, lambda case: print(console.one_line("; ".join(case.operations)), flush=True))
    print(console.one_line(f"{case.outcome}: {case.detail}"))
    print(f"{work}: the damaged input")
    return 1 if case.outcome in BAD else 0


def main(settings: FuzzSettings) -> int:
    """Run each kind for its share of the time."""
    if settings.fault:
        from fuzz.faults import FAULTS

        FAULTS[settings.fault]().start()
    if settings.case:
        return run_one(settings.case, settings.keep)
    names = settings.only or tuple(name for name in KINDS if KINDS[name][2])
    if unknown := [name for name in names if name not in KINDS]:
        raise UserError(f"ONLY={','.join(names)}: expected some of {','.join(KINDS)}, found {unknown[0]!r}.")
    seed = secrets.randbelow(10**9) if settings.seed is None else settings.seed
    print(f"SEED={seed}, {settings.jobs} children", flush=True)
    share = sum(KINDS[name][2] for name in names) or 1.0
    totals: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="canopy-fuzz-") as temporary:
        for name in [name for name in KINDS if name in names]:
            seconds = settings.seconds * KINDS[name][2] / share
            totals += fuzz_kind(
                name, seed, seconds, settings.count, jobs=settings.jobs, keep=settings.keep, place=Path(temporary)
            )
    bad = sum(totals[outcome] for outcome in BAD)
    print(f"{totals.total()} tried, {bad} bad{f'; kept below {settings.keep}' if bad else ''}")
    return 1 if bad else 0


if __name__ == "__main__":
    console.run(lambda: main(FuzzSettings.from_words(sys.argv[1:], "fuzz")))
