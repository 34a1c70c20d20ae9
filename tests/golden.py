"""Print hashes of everything that a change of names and structure must leave as it is. Not a test: pytest skips it.

    python tests/golden.py > before.txt                      # the code of this checkout
    python tests/golden.py --root /other/checkout > after.txt
    python tests/golden.py --compare before.txt after.txt    # exit code 1 if they differ

One line per item: `name value`, sorted. A value is a SHA-256 (its first 32 digits), JSON with floats in hexadecimal, or
a word. Hashes depend on the CPU and on the versions of the libraries, so compare two outputs of one machine and keep
none. Items whose name ends in `.text` hash words that people read (column titles, sentences); `.numbers` the numbers
alone. `--ignore .text` leaves the words out of a comparison.

The whole run takes about 90 seconds on two cores. `--only stores,batches` runs some sections, and what they need;
`--keep DIR` keeps what they wrote. The names of the code under test are in `golden_code` alone, what is hashed is in
`golden_items`.
"""

import argparse
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import golden_items as items
from golden_code import Code, Place
from golden_items import Items

SECTIONS = ("stores", "split", "batches", "train", "resumed", "report", "audit", "predict")
IN_PROCESS = ("split", "batches")  # library calls; all others start commands
Job = tuple[Callable[..., Items], tuple[str, ...], tuple[str, ...]]  # function, its arguments, the jobs that it needs


def all_jobs() -> dict[str, Job]:
    """Jobs by name, `section.what`. A job needs only jobs above it."""
    stores = tuple(f"stores.{name}" for name in items.STORES)
    return {
        "stores.demo": (items.make_demo, (), ()),
        **{f"stores.{name}": (items.make_store, (name,), ()) for name in items.STORES},
        **{f"train.{name}": (items.train, (name,), ("stores.demo",)) for name in items.RUNS},
        **{f"resumed.{name}": (items.train_stopped, (name,), (f"train.{name}",)) for name in items.RESUMED},
        "split": (items.hash_splits, (), stores),
        "batches": (items.make_batches, (), ("stores.demo", *stores)),
        "audit": (items.audit, (), ("train.task1",)),
        "predict": (items.predict, (), ("train.task3", "train.task4")),
        "report": (items.report, (), ("train.task1", "train.task3", "train.best")),
    }


def golden(place: Place, sections: tuple[str, ...]) -> tuple[Items, list[str]]:
    """All items of these sections, and the names of the jobs that failed."""
    jobs = all_jobs()
    printed = {name for name in jobs if name.partition(".")[0] in sections}
    wanted = set(printed)
    for name in reversed(jobs):
        wanted |= set(jobs[name][2]) if name in wanted else set()
    futures: dict[str, Future[Items]] = {}

    def run(name: str) -> Items:
        function, arguments, needs = jobs[name]
        for need in needs:
            futures[need].result()
        started = time.monotonic()
        output = function(place, *arguments)
        print(f"{name}: {len(output)} items, {time.monotonic() - started:.1f} s", file=sys.stderr)
        return output

    # A job waits for jobs that were submitted before it only, so two workers cannot wait for each other.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for name in jobs:  # one by one: a job looks up the futures of the jobs that it needs
            if name in wanted and name not in IN_PROCESS:
                futures[name] = pool.submit(run, name)
        for name in IN_PROCESS:
            if name in wanted:
                futures[name] = Future()
                try:
                    futures[name].set_result(run(name))
                except Exception as error:
                    # As the pool does: kept until the end, where the failures of all jobs are printed.
                    futures[name].set_exception(error)
    failed = [name for name in jobs if name in futures and futures[name].exception()]
    for name in failed:
        print(f"{name} failed", *traceback.format_exception(futures[name].exception()), sep="\n", file=sys.stderr)
    done = [futures[name].result() for name in printed if name not in failed]
    return {name: value for output in done for name, value in output.items()}, failed


def compare(before: Path, after: Path, ignore: str = "") -> list[str]:
    """A line for each difference. An item that has another name and the same value is called renamed."""
    old, new = (dict(line.split(" ", 1) for line in path.read_text().splitlines()) for path in (before, after))
    if ignore:
        old, new = ({name: text for name, text in each.items() if ignore not in name} for each in (old, new))
    lines = [f"differs  {name}: {old[name]} -> {new[name]}" for name in sorted(old.keys() & new.keys())
             if old[name] != new[name]]  # fmt: skip
    gone, come = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
    for name in gone:
        if other := next((each for each in come if new[each] == old[name]), None):
            come.remove(other)
            lines.append(f"renamed  {name} -> {other}")
        else:
            lines.append(f"missing  {name} {old[name]}")
    return lines + [f"new      {name} {new[name]}" for name in come]


def default_root() -> Path:
    """The first checkout in PYTHONPATH, from which Python would import; else the one that holds this file."""
    folders = [Path(text) for text in os.environ.get("PYTHONPATH", "").split(os.pathsep) if text]
    return next((folder for folder in folders if (folder / "preprocess").is_dir()), Path(__file__).parents[1])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--root", type=Path, help="the checkout to run; default: the first in PYTHONPATH, else this one"
    )
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, with commas; default: %(default)s")
    parser.add_argument("--keep", type=Path, help="a new folder for everything that is written; it is not removed")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"))
    parser.add_argument("--ignore", default="", help="with --compare: leave out items whose name holds this text")
    args = parser.parse_args()
    args.only = tuple(args.only.split(","))
    if unknown := set(args.only) - set(SECTIONS):
        parser.error(f"--only: expected sections out of {', '.join(SECTIONS)}, found {', '.join(sorted(unknown))}")
    return args


def main() -> int:
    args = parse()
    if args.compare:
        lines = compare(*args.compare, ignore=args.ignore)
        print("\n".join(lines) or "equal")
        return 1 if lines else 0
    warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3 specification")
    code = Code((args.root or default_root()).resolve())
    print(f"the code of {code.root}", file=sys.stderr)
    code.load()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (args.keep or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        output, failed = golden(Place(code, folder), args.only)
    for name in sorted(output):
        print(name, output[name])
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
