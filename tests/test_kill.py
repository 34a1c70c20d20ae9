"""SIGKILL at random moments of a conversion: started again each time, it ends in the undisturbed store. And Ctrl-C."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.chips import to_store, write_chips
from helpers.files import tree

KILLS = [2, pytest.param(20, marks=pytest.mark.slow)]
# Tenths of a second after the conversion has begun.
MOMENTS = [range(0, 12, 6), pytest.param(range(12), marks=pytest.mark.slow)]


def done_shards(partial: Path) -> int:
    return len(list((partial / "progress").glob("*.npz")))


@pytest.mark.parametrize("wanted", KILLS)
def test_a_conversion_killed_again_and_again_ends_in_the_same_bytes(tmp_path: Path, wanted: int) -> None:
    """Only a SIGKILL during a conversion counts: its process lives, and its partial store exists."""
    chips = write_chips(tmp_path / "tif", count=1500, height=48, width=48)  # six shards
    whole = to_store(chips, tmp_path / "whole.zarr")
    target = tmp_path / "killed.zarr"
    partial = target.with_name("killed.zarr.partial")
    command = [
        sys.executable, "-m", "preprocess", "zarr", f"DATA={chips.folder}", f"LABELS={chips.csv}",
        f"STORE={target}", "BANDS=blue,green,red,nir", "JOBS=2",
    ]  # fmt: skip
    root = Path(__file__).resolve().parents[1]
    rng = random.Random(0)
    kills, torn = 0, set()
    while kills < wanted or (len(torn) < 2 and kills < 20):
        process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        # Kill it after this number of further shards, and up to a tenth of a second later.
        until = done_shards(partial) + rng.randrange(3)
        while process.poll() is None and not ((partial / "plan.json").exists() and done_shards(partial) >= until):
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.1))
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        _, stderr = process.communicate()
        # A worker whose parent dies while the worker starts ends with Python's own traceback. None may come from the
        # code of this project.
        assert b"/preprocess/" not in stderr, stderr.decode()
        torn.add(done_shards(partial))
        if target.exists():
            # The conversion ended first: prove that store, and begin again, so that the next kill meets a conversion.
            assert tree(target) == tree(whole.path)
            shutil.rmtree(target)
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)
    assert tree(target) == tree(whole.path)
    assert not partial.exists()
    assert len(torn) > 1  # they were stopped at different places


@pytest.mark.parametrize("moments", MOMENTS, ids=len)
def test_ctrl_c_at_any_moment_is_one_line(tmp_path: Path, moments: range) -> None:
    """As a terminal sends it: to the command and every process that it started; our code prints no traceback."""
    chips = write_chips(tmp_path / "tif", count=1500, height=48, width=48)
    command = [
        sys.executable, "-m", "preprocess", "zarr", f"DATA={chips.folder}", f"LABELS={chips.csv}",
        f"STORE={tmp_path / 's.zarr'}", "BANDS=blue,green,red,nir", "JOBS=2",
    ]  # fmt: skip
    stopped = 0
    for moment in moments:
        process = subprocess.Popen(
            command, cwd=Path(__file__).resolve().parents[1], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        while process.poll() is None and not (tmp_path / "s.zarr.partial").exists():
            time.sleep(0.002)
        time.sleep(0.1 * moment)
        os.killpg(process.pid, signal.SIGINT)
        output = process.communicate()[0].decode()  # until the last of them has ended
        assert process.returncode in (0, 130, -signal.SIGINT), output  # the last: while Python itself ends
        # zarr-python's own end may print one, if its thread was just about to start.
        assert not re.search(r"Traceback.*/(preprocess|multiprocessing)/", output, re.DOTALL), output
        stopped += process.returncode == 130
        assert ("stopped by Ctrl-C" in output) == (process.returncode == 130)
        for path in (tmp_path / "s.zarr", tmp_path / "s.zarr.partial"):
            shutil.rmtree(path, ignore_errors=True)
    assert stopped
