"""What Dask costs beside the process pool: `python tests/cluster_cost.py --steps cpu,speed,tasks,shards`.

In: a list of steps, and for `shards` a folder. Out: a line per measurement. Each run is a separate process.

    cpu     CPU-seconds of `--tasks` tasks of one CPU-second on two processes: pool and CLUSTER=local:2 in turn
    speed   the time of tasks that sleep a second, on one and on two local workers: a busy machine does not change it
    tasks   10,000 empty tasks: peak memory of the command and of the scheduler, which are separate processes
    shards  a conversion of 1,000 shards by two workers: peak memory of a worker, of the scheduler and of the command

Not part of the tests: it takes minutes, and needs two idle cores.
"""

import argparse
import ctypes
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import tifffile
from helpers.clusters import Cluster, cluster
from helpers.commands import ROOT

_RUN = """
import sys, time
from pathlib import Path
from helpers import cluster_tasks
from preprocess.engine import open_engine
if __name__ == "__main__":
    where, count, seconds = sys.argv[1] or None, int(sys.argv[2]), float(sys.argv[3])
    function = time.sleep if sys.argv[4] == "sleep" else cluster_tasks.burn
    with open_engine(where, jobs=2) as engine:
        list(engine.run(function, [0.0] * 2, needs=Path("README.md")))  # the workers import what they need
        started = time.monotonic()
        list(engine.run(function, [seconds] * count, needs=Path("README.md")))
        print(time.monotonic() - started)
"""
_SUBREAPER = 36  # prctl: processes whose parent has ended become ours, so that their CPU time is counted


def measured(*arguments: str) -> tuple[float, float]:
    """Run Python with these arguments. Returns the number that it prints, and the CPU-seconds of all its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    text = process.stdout.read()
    if process.wait():
        sys.exit(f"{arguments[0]} failed")
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            break
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return float(text or 0), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run_tasks(script: Path, where: str, count: int, seconds: float, kind: str = "burn") -> tuple[float, float]:
    return measured(str(script), where, str(count), str(seconds), kind)


def compare_cpu(script: Path, count: int) -> None:
    for _ in range(3):
        results = {name: run_tasks(script, where, count, 1.0) for name, where in (("pool", ""), ("dask", "local:2"))}
        starts = {name: run_tasks(script, where, 2, 0.001)[1] for name, where in (("pool", ""), ("dask", "local:2"))}
        pool, dask = results["pool"][1], results["dask"][1]
        later = (dask - starts["dask"]) / (pool - starts["pool"])
        print(
            f"cpu: {count} tasks of a second: pool {pool:.1f} CPU-s, dask {dask:.1f} (ratio {dask / pool:.3f}); of "
            f"these to start {starts['pool']:.1f} and {starts['dask']:.1f} (ratio without {later:.3f})",
            flush=True,
        )


def compare_speed(script: Path, count: int) -> None:
    for _ in range(3):
        one, two = (run_tasks(script, where, count, 1.0, "sleep")[0] for where in ("local:1", "local:2"))
        print(f"speed: {count} tasks: 1 worker {one:.1f} s, 2 workers {two:.1f} s ({one / two / 2:.3f})", flush=True)


class Peaks:
    """Peak memory of processes, read while they run."""

    def __init__(self, **processes: subprocess.Popen) -> None:
        self._processes, self.mib = processes, dict.fromkeys(processes, 0.0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            for name, process in self._processes.items():
                try:
                    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                except OSError:
                    continue
                peaks = [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")]
                self.mib[name] = max([self.mib[name], *peaks])

    def stop(self) -> str:
        self._ended.set()
        self._thread.join()
        return ", ".join(f"{name} {mib:.0f} MiB" for name, mib in self.mib.items())


def command_memory(running: Cluster, command: list[str]) -> str:
    """Peak memory of a command, of the scheduler and of the first worker."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    assert running.scheduler is not None
    peaks = Peaks(command=process, scheduler=running.scheduler, worker=running.workers[0])
    if process.wait():
        sys.exit("the command failed")
    return peaks.stop()


def many_chips(folder: Path, count: int) -> Path:
    """`count` names for one tiny chip, as links of the same files."""
    labels = folder / "labels.csv"
    if labels.exists():
        return labels
    folder.mkdir(parents=True)
    with open(labels, "w") as file:
        file.write("image_name,tags\n")
        for index in range(count):
            below = folder / f"f{index // 10_000}"
            if index % 10_000 == 0:
                below.mkdir()
                tifffile.imwrite(below / "c0.tif", np.full((8, 8), index % 251, np.uint8), photometric="minisblack")
            else:
                os.link(below / "c0.tif", below / f"c{index % 10_000}.tif")
            file.write(f"f{index // 10_000}/c{index % 10_000},{'ab'[index % 2]}\n")
    return labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", default="cpu,speed,tasks,shards")
    parser.add_argument("--tasks", type=int, default=60)
    parser.add_argument("--folder", type=Path, help="for the chips of `shards`; they are kept")
    arguments = parser.parse_args()
    ctypes.CDLL(None).prctl(_SUBREAPER, 1)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        script = place / "run.py"
        script.write_text(_RUN)
        for step in arguments.steps.split(","):
            if step == "cpu":
                compare_cpu(script, arguments.tasks)
            elif step == "speed":
                compare_speed(script, arguments.tasks)
            else:
                with cluster(place / step, workers=2) as running:
                    if step == "tasks":
                        command = [str(script), str(running.file), "10000", "0", "burn"]
                    else:
                        labels = many_chips(arguments.folder / "tif", 256_000)
                        command = [
                            "-m", "preprocess", "zarr", f"DATA={labels.parent}", f"LABELS={labels}", "BANDS=gray",
                            f"STORE={place / 'chips.zarr'}", f"CLUSTER={running.file}",
                        ]  # fmt: skip
                    started = time.monotonic()
                    text = command_memory(running, command)
                    print(f"{step}: {text} ({time.monotonic() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
