"""SIGKILL of workers, scheduler and coordinator: the same command resumes, and ends in the undisturbed store."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from helpers.chips import Chips, to_store, write_chips
from helpers.clusters import Cluster, cluster
from helpers.commands import ROOT
from helpers.files import tree

from preprocess.files import partial_path

pytestmark = pytest.mark.slow
POINTS = (
    "before the shard's index", "before the shard's rename", "after the shard's rename", "before the progress file",
    "before the rename of the progress file", "after the rename of the progress file",
)  # fmt: skip


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Chips:
    """4,000 chips in 16 shards."""
    return write_chips(tmp_path_factory.mktemp("chips") / "tif", count=4000, height=24, width=24)


@pytest.fixture(scope="module")
def whole(chips: Chips) -> dict[str, bytes]:
    return tree(Path(to_store(chips, chips.folder.parent / "whole.zarr").path))


@dataclass
class Conversions:
    """Conversions of the same chips, one after another, as long as somebody is to be killed."""

    chips: Chips
    whole: dict[str, bytes]
    running: Cluster
    store: Path
    process: subprocess.Popen | None = None
    done: dict[Path, int] = field(default_factory=dict)
    written_again: int = 0
    completed: int = 0

    def keep_running(self) -> None:
        """Start the command if it is not running. A complete store is compared and removed."""
        if self.process is not None and self.process.poll() is None:
            return
        if self.process is not None:
            assert self.process.returncode in (0, 75, -signal.SIGKILL), (self.store.parent / "out").read_text()
            text = (self.store.parent / "out").read_text()
            assert "Traceback" not in text, text
            if self.process.returncode == 0:
                self.compare()
        command = [
            sys.executable, "-m", "preprocess", "zarr", f"DATA={self.chips.folder}", f"LABELS={self.chips.csv}",
            f"STORE={self.store}", "BANDS=blue,green,red,nir", f"CLUSTER={self.running.file}",
        ]  # fmt: skip
        with open(self.store.parent / "out", "wb") as out:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)

    def compare(self) -> None:
        assert tree(self.store) == self.whole
        assert not partial_path(self.store).exists()
        shutil.rmtree(self.store)
        self.done.clear()
        self.completed += 1

    def look(self) -> int:
        """Shards that are done. None may be lost; one that is written again is counted."""
        now = {path: path.stat().st_ino for path in (partial_path(self.store) / "progress").glob("[0-9]*.npz")}
        lost = self.done.keys() - now.keys()
        # The folder goes when the store is complete; its files go first.
        assert not lost or self.store.exists() or not partial_path(self.store).exists(), lost
        self.written_again += sum(now[path] != inode for path, inode in self.done.items() if path in now)
        self.done.update(now)
        return len(now)

    def until_some_work_is_done(self, rng: random.Random) -> None:
        """Wait until one to three more shards are done, and a moment longer."""
        more = self.look() + rng.randrange(1, 4)
        until = time.monotonic() + 60
        while self.look() < min(more, 15) and time.monotonic() < until:
            self.keep_running()
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.3))

    def finish(self) -> None:
        until = time.monotonic() + 300
        while self.completed == 0 or self.store.exists() or partial_path(self.store).exists():
            self.keep_running()
            assert self.process is not None
            self.process.wait()
            assert time.monotonic() < until
            if self.process.returncode == 0:
                self.compare()
                self.process = None
                return

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None and not self.store.exists()


def kill_worker(state: Conversions, rng: random.Random) -> None:
    worker = state.running.workers.pop(rng.randrange(len(state.running.workers)))
    worker.kill()
    worker.wait()
    state.running.start_worker()


def kill_scheduler(state: Conversions, rng: random.Random) -> None:
    state.running.stop()
    state.running.start_scheduler()
    for _ in range(2):
        state.running.start_worker()


def kill_coordinator(state: Conversions, rng: random.Random) -> None:
    assert state.process is not None
    state.process.kill()
    state.process.wait()


def kill_all(state: Conversions, rng: random.Random) -> None:
    kill_coordinator(state, rng)
    kill_scheduler(state, rng)


@pytest.mark.parametrize(
    ("kill", "kills"), [(kill_worker, 20), (kill_scheduler, 5), (kill_coordinator, 20), (kill_all, 5)]
)
def test_a_conversion_that_is_killed_again_and_again_ends_in_the_same_bytes(
    chips: Chips,
    whole: dict[str, bytes],
    tmp_path: Path,
    kill: Callable[[Conversions, random.Random], None],
    kills: int,
) -> None:  # fmt: skip
    """At most the tasks in flight are done again: one per worker and kill."""
    rng = random.Random(0)
    with cluster(tmp_path / "cluster", workers=2) as running:
        state = Conversions(chips, whole, running, tmp_path / "s.zarr")
        counted = 0
        while counted < kills:  # only a kill during a conversion counts
            state.keep_running()
            state.until_some_work_is_done(rng)
            counted += state.is_running()
            kill(state, rng)
        state.finish()
    assert state.completed
    assert state.written_again <= 2 * kills


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_that_is_killed_at_a_named_point_loses_one_shard_at_most(
    chips: Chips, whole: dict[str, bytes], tmp_path: Path, point: str
) -> None:
    marker = tmp_path / "killed"
    with cluster(tmp_path / "cluster", workers=1) as running:
        killed = running.start_worker("--preload", "helpers.kill_point", KILL_POINT=point, KILL_MARKER=str(marker))
        running.wait_for_workers(2)
        state = Conversions(chips, whole, running, tmp_path / "s.zarr")
        state.finish()
        assert marker.exists()
        assert killed.wait() == -signal.SIGKILL
    assert state.completed == 1


def test_ctrl_c_at_any_moment_is_one_line(chips: Chips, tmp_path: Path) -> None:
    """As a terminal sends it: to the command and every worker process of CLUSTER=local. Moments are seconds after the
    command has begun: before, Python itself is still starting."""
    begin = (
        "import sys; from canopy.main import dispatch; from preprocess.console import run\n"
        "run(lambda: (print('begins', flush=True), dispatch('preprocess', sys.argv[1:]))[1])"
    )
    command = [
        sys.executable, "-c", begin, "zarr", f"DATA={chips.folder}", f"LABELS={chips.csv}",
        f"STORE={tmp_path / 's.zarr'}", "BANDS=blue,green,red,nir", "CLUSTER=local:2",
    ]  # fmt: skip
    stopped = 0
    for moment in (0, 0.2, 0.5, 1, 1.5, 2, 2.5, 3, 4):
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "begins\n"
        time.sleep(moment)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        output = process.communicate()[0]
        assert process.returncode in (0, 130, -signal.SIGINT), output  # the last: while Python itself ends
        assert process.returncode != -signal.SIGINT or (tmp_path / "s.zarr").exists()
        assert output.count("\n") == 1, output
        assert ("stopped by Ctrl-C" in output) == (process.returncode == 130)
        stopped += process.returncode == 130
        for path in (tmp_path / "s.zarr", tmp_path / "s.zarr.partial"):
            shutil.rmtree(path, ignore_errors=True)
    assert stopped
