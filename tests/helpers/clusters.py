"""A Dask scheduler and its workers as processes on 127.0.0.1, and commands that use them."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import distributed

from helpers.commands import ROOT
from preprocess.cluster import connect
from preprocess.cluster_setting import ClusterAddress
from preprocess.engine import Engine


@dataclass
class Cluster:
    """`folder`: for the scheduler's file, the workers' files, and the logs of all of them."""

    folder: Path
    scheduler: subprocess.Popen | None = None
    workers: list[subprocess.Popen] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.folder / "scheduler.json"

    def start_scheduler(self) -> None:
        self.file.unlink(missing_ok=True)
        words = ["--port", "0", "--scheduler-file", self.file]
        self.scheduler = self._start("distributed.cli.dask_scheduler", words, {})
        until = time.monotonic() + 60
        while not self.file.exists():
            assert self.scheduler.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < until
            time.sleep(0.02)

    def start_worker(
        self, *words: object, threads: int = 1, place: Path = ROOT, **environment: str
    ) -> subprocess.Popen:
        """`place`: the folder whose canopy the worker imports."""
        common = ["--scheduler-file", self.file, "--nthreads", threads, "--no-nanny", "--memory-limit", 0]
        common += ["--local-directory", self.folder]
        self.workers.append(self._start("distributed.cli.dask_worker", [*common, *words], environment, place))
        return self.workers[-1]

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        with connect(ClusterAddress(file=self.file)) as engine:
            yield engine

    def _start(
        self, module: str, words: list[object], environment: dict[str, str], place: Path = ROOT
    ) -> subprocess.Popen:
        command = [sys.executable, "-m", module, "--host", "127.0.0.1", "--no-dashboard", *map(str, words)]
        paths = {"PYTHONPATH": f"{place}:{ROOT / 'tests'}"}
        with open(self.folder / "log", "ab") as log:
            return subprocess.Popen(
                command, cwd=place, stdout=log, stderr=log, env={**os.environ, **paths, **environment}
            )

    def wait_for_workers(self, count: int) -> None:
        with distributed.Client(scheduler_file=str(self.file), set_as_default=False) as client:
            client.wait_for_workers(count)

    def stop(self) -> None:
        for process in [*self.workers, *([self.scheduler] if self.scheduler else [])]:
            process.kill()
            process.wait()
        self.workers.clear()
        self.scheduler = None


@contextmanager
def cluster(folder: Path, *, workers: int) -> Iterator[Cluster]:
    folder.mkdir(parents=True)
    running = Cluster(folder)
    try:
        running.start_scheduler()
        for _ in range(workers):
            running.start_worker()
        yield running
    finally:
        running.stop()
