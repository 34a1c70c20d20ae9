"""Conversions into a bucket that are killed, or run twice at the same time, in processes of their own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.buckets import Bucket, bucket_server, proxy
from helpers.chips import BANDS, Chips
from helpers.commands import ROOT
from helpers.files import tree

from preprocess.zarr_store import Store


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with bucket_server() as bucket:
        yield bucket


def start(chips: Chips, name: str, *words: str) -> subprocess.Popen[str]:
    """The conversion of 300 chips into the bucket, in a process group of its own."""
    given = [f"DATA={chips.folder}", f"LABELS={chips.csv}", f"STORE=s3://chips/{name}", f"BANDS={','.join(BANDS)}"]
    return subprocess.Popen(
        [sys.executable, "-m", "canopy", "zarr", *given, *words], cwd=ROOT, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and errors."""
    _, error = process.communicate()
    return process.returncode, error


@pytest.mark.slow
def test_a_coordinator_that_is_killed_at_any_request_resumes(
    bucket: Bucket, session_chips: Chips, session_store: Store
) -> None:
    with proxy(bucket) as counted:
        assert end(start(session_chips, "count.zarr", "JOBS=1")) == (0, "")
    total = len(counted.requests)
    for last in (1, *range(total // 6, total - 1, total // 6), total - 1):
        name = f"killed-{last}.zarr"
        with proxy(bucket) as server:
            started: list[subprocess.Popen[str]] = []

            def kill(number: int, last: int = last, started: list[subprocess.Popen[str]] = started) -> None:
                if number == last:
                    os.killpg(started[0].pid, signal.SIGKILL)

            server.fault = kill
            started.append(start(session_chips, name, "JOBS=1"))
            assert end(started[0])[0] == -signal.SIGKILL
        assert end(start(session_chips, name, "JOBS=2")) == (0, "")
        assert bucket.tree(name) == tree(session_store.local_path)
        assert bucket.keys(f"{name}.partial") == []


@pytest.mark.slow
def test_two_conversions_at_the_same_time_are_one_store_or_one_line(
    bucket: Bucket, session_chips: Chips, session_store: Store, tmp_path: Path
) -> None:
    same = [start(session_chips, "same.zarr", "JOBS=1") for _ in range(2)]
    assert [end(process) for process in same] == [(0, ""), (0, "")]
    assert bucket.tree("same.zarr") == tree(session_store.local_path)
    assert bucket.keys("same.zarr.partial") == []
    other = [start(session_chips, "other.zarr", "JOBS=1", f"CODEC={codec}") for codec in ("lz4", "none")]
    ended = sorted(end(process) for process in other)
    assert [code for code, _ in ended] == [0, 2]
    assert ended[1][1].startswith("error: s3://chips/other.zarr")
    assert "other settings" in ended[1][1]
    assert ended[1][1].count("\n") == 1
    assert bucket.keys("other.zarr.partial") == []
