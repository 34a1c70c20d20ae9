"""A short run of `make fuzz` with its own seed, and proof that the fuzzer detects faults.

It runs in separate processes: the fuzzer forks, which is safe only before any thread has started.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.commands import ROOT, Ended

# Kinds and cases of each: some seconds. Runs need torch and a training first.
COUNTS = [
    ("stores,json", 15),
    ("tiffs", 400),
    ("rasters", 150),
    ("images", 400),
    ("csvs", 1500),
    ("jsonl,parquet", 300),
    pytest.param("stores,json", 200, marks=pytest.mark.slow),
    pytest.param("runs", 20, marks=pytest.mark.slow),
]
SEED = 11
BAD = ("silent", "crashed", "hung", "too big")


def fuzz(*arguments: object) -> Ended:
    ended = subprocess.run(
        [sys.executable, "-m", "fuzz", "JOBS=1", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
    )  # fmt: skip
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def counts(ended: Ended, kind: str) -> dict[str, int]:
    """Outcome -> cases, from the kind's line."""
    line = re.search(rf"^{kind}: (\d+) tried in \d+ s: (.*); peak", ended.stdout, re.MULTILINE)
    assert line, ended.stdout + ended.stderr
    found = {name: int(number) for number, name in (part.split(" ", 1) for part in line[2].split(", "))}
    assert sum(found.values()) == int(line[1])
    return found


@pytest.mark.parametrize(("kinds", "count"), COUNTS)
def test_damaged_inputs_are_refused_or_equal(tmp_path: Path, kinds: str, count: int) -> None:
    ended = fuzz(f"ONLY={kinds}", f"COUNT={count}", f"SEED={SEED}", f"KEEP={tmp_path}")
    for kind in kinds.split(","):
        found = counts(ended, kind)
        assert sum(found.values()) == count
        assert {name: found[name] for name in BAD} == dict.fromkeys(BAD, 0), ended.stdout
        assert found["refused"] > 0
    assert ended.returncode == 0
    assert not list(tmp_path.iterdir())


# Of this seed, the second store has a foreign shard.
@pytest.mark.parametrize(
    ("fault", "kind", "count"),
    [
        pytest.param("shards", "stores", 3, marks=pytest.mark.slow),
        ("chips", "tiffs", 40),
        ("csv", "csvs", 40),
    ],
)
def test_a_fault_of_the_program_is_found(tmp_path: Path, fault: str, kind: str, count: int) -> None:
    """Each fault is one check less. The case is kept, and CASE= runs it again, with the fault and without."""
    ended = fuzz(f"ONLY={kind}", f"COUNT={count}", "SEED=66", f"FAULT={fault}", f"KEEP={tmp_path}")
    assert counts(ended, kind)["silent"] > 0, ended.stdout
    assert ended.returncode == 1
    case = re.search(r"silent: CASE=(\S+): ", ended.stdout)
    assert case
    assert (tmp_path / case[1].replace(":", "-") / "case.json").exists()
    if kind == "csvs":
        again = fuzz(f"CASE={case[1]}", f"FAULT={fault}", f"KEEP={tmp_path}")
        assert again.stdout.splitlines()[1].startswith("silent: ")
        assert fuzz(f"CASE={case[1]}", f"KEEP={tmp_path}").stdout.splitlines()[1].startswith("refused: ")


@pytest.mark.slow
def test_every_way_to_end_is_seen(tmp_path: Path) -> None:
    ended = fuzz("ONLY=toys", "COUNT=16", f"KEEP={tmp_path}")
    expected = {"refused": 2, "equal": 2, "altered": 2, "silent": 2, "crashed": 4, "hung": 2, "too big": 2}
    assert counts(ended, "toys") == expected
    assert ended.returncode == 1
    assert "SIGSEGV" in ended.stdout
    assert "IndexError" in ended.stdout
    assert len(list(tmp_path.glob("toys-*/input"))) == 10


def test_unknown_settings_are_refused() -> None:
    kinds = "stores,json,tiffs,rasters,images,csvs,jsonl,parquet,runs,toys"
    assert fuzz("ONLY=tiff").stderr == f"error: ONLY=tiff: expected some of {kinds}, found 'tiff'.\n"
    assert fuzz("CASE=stores").stderr.startswith("error: CASE=stores: expected KIND:SEED:NUMBER")
