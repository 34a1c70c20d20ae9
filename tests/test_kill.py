"""SIGKILL at random moments of a conversion: started again each time, it ends in the undisturbed store."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import to_store, write_chips
from test_convert import tree

KILLS = 20


def test_killed_20_times_ends_in_the_same_bytes(tmp_path: Path) -> None:
    # 600 chips of 64 x 64 in shards of 256; written so that a run takes a little longer than importing does.
    chips = write_chips(tmp_path / "tif", count=1500, height=48, width=48)
    whole = to_store(chips, tmp_path / "whole.zarr")
    target = tmp_path / "killed.zarr"
    command = [
        sys.executable, "-m", "preprocess", "convert", "--data", str(chips.folder), "--labels", str(chips.csv),
        "--store", str(target), "--bands", "blue,green,red,nir", "--jobs", "2",
    ]  # fmt: skip
    root = Path(__file__).resolve().parents[1]
    rng = random.Random(0)
    kills = landed = 0
    while kills < KILLS:
        process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        # From before the first shard to after the last: importing takes about a second, writing another.
        time.sleep(rng.uniform(0.2, 3.0))
        process.send_signal(signal.SIGKILL)
        _, stderr = process.communicate()
        kills += 1
        assert b"Traceback" not in stderr
        if target.exists():
            assert tree(target) == tree(whole.path)
            landed += 1
            # It got there before the kill: begin anew, so that each kill meets a conversion.
            subprocess.run(["rm", "-r", str(target)], check=True)
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)
    assert tree(target) == tree(whole.path)
    assert not target.with_name("killed.zarr.partial").exists()
    assert landed < KILLS
