"""SIGKILL at random moments of a conversion: started again each time, it ends in the undisturbed store."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import to_store, write_chips
from test_convert import tree

KILLS = 20


def test_killed_20_times_ends_in_the_same_bytes(tmp_path: Path) -> None:
    """Only a SIGKILL that met a conversion at work counts: its process alive, its partial store begun."""
    chips = write_chips(tmp_path / "tif", count=1500, height=48, width=48)  # six shards
    whole = to_store(chips, tmp_path / "whole.zarr")
    target = tmp_path / "killed.zarr"
    partial = target.with_name("killed.zarr.partial")
    command = [
        sys.executable, "-m", "preprocess", "convert", "--data", str(chips.folder), "--labels", str(chips.csv),
        "--store", str(target), "--bands", "blue,green,red,nir", "--jobs", "2",
    ]  # fmt: skip
    root = Path(__file__).resolve().parents[1]
    rng = random.Random(0)
    kills, torn = 0, set()
    while kills < KILLS:
        process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while process.poll() is None and not (partial / "plan.json").exists():
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 1.6))
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        _, stderr = process.communicate()
        # A worker whose parent dies while it is being started ends with Python's own traceback, which is the kill's
        # doing; none may come through this project's code.
        assert b"/preprocess/" not in stderr, stderr.decode()
        torn.add(len(list((partial / "progress").glob("*.npz"))))
        if target.exists():
            # It got there first: prove that store, and begin anew, so that the next kill meets a conversion.
            assert tree(target) == tree(whole.path)
            shutil.rmtree(target)
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)
    assert tree(target) == tree(whole.path)
    assert not partial.exists()
    assert len(torn) > 1  # they were stopped at different places
