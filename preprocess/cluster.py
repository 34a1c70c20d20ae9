"""CLUSTER=...: a connection to Dask workers, as an `Engine`.

In: an address. Out: an engine. Only Dask's submit, as_completed and release are used, and no state lives in Dask: files
show what is done. So a lost scheduler or worker costs the tasks in flight, and the same command resumes. Leaves which
task runs when to `cluster_run`.
"""

import contextlib
import importlib.util
import logging
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

# For the processes of CLUSTER=local. They are forked from one that has imported Dask, which saves each a CPU-second.
os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "critical")
os.environ.setdefault("DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD", "forkserver")
import dask.config
import distributed

from preprocess.addresses import Location
from preprocess.cluster_run import LIMITS, Dispatcher, foreign_worker, lost, no_workers
from preprocess.cluster_setting import ClusterAddress
from preprocess.cluster_worker import own_versions, package_of, probe
from preprocess.console import UserError, say, say_once
from preprocess.workers import children_without_interrupts, interrupt_later

Task = TypeVar("Task")
Result = TypeVar("Result")


_ONE_FILE_S = 5.0  # then the scheduler's file is read again: a new scheduler may have written it

# Dask's samples of its own stacks and of the machine. They took 2 % of a core per process, and 0.2 % so.
_QUIET_PROCESSES = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "5s",
}


class DaskEngine:
    """Dask workers behind a client."""

    log_every_s = 60.0

    def __init__(self, client: distributed.Client) -> None:
        self._client = client
        self._threads: dict[str, int] = {}
        self._asked_s = -1.0

    @property
    def workers(self) -> int:
        """Threads of all workers now, at least 1."""
        return max(1, sum(self.threads().values()))

    @property
    def note(self) -> str:
        """How many workers there are."""
        return f"{len(self._threads)} workers, "

    def threads(self) -> dict[str, int]:
        """The workers' addresses and threads, asked once a second.

        Raises:
            StoppedError: the scheduler does not answer.
        """
        now = time.monotonic()
        if now - self._asked_s >= 1:
            if self._client.status != "running":
                raise lost()
            try:
                self._threads = self._client.nthreads()
            except (OSError, TimeoutError, ValueError) as error:
                raise lost() from error
            self._asked_s = now
        return self._threads

    def run(self, function: Callable[[Task], Result], tasks: Sequence[Task], *, needs: Location) -> Iterator[Result]:
        """See `Engine.run`.

        Raises:
            StoppedError: there are no workers for a minute, the scheduler is lost, or a task killed its workers.
        """
        if not tasks:
            return
        # Python ignores a KeyboardInterrupt that comes in a callback, and Dask has one for each garbage collection.
        with interrupt_later() as interrupts:
            self._wait_for_workers(interrupts)
            package = package_of(function)
            self._check_workers(needs, package)
            yield from Dispatcher(self._client, self.threads, function, own_versions(package), interrupts).run(tasks)

    def _wait_for_workers(self, interrupts: list[int]) -> None:
        until = time.monotonic() + LIMITS.no_workers_s
        while not self.threads() and not interrupts:
            if time.monotonic() > until:
                raise no_workers()
            time.sleep(0.2)

    def _check_workers(self, needs: Location, package: str) -> None:
        """Refuse workers that would make other bytes or do not see the files.

        Raises:
            UserError: names the worker's address, and what differs.
        """
        futures = {
            address: self._client.submit(probe, str(needs), package, workers=[address], pure=False)
            for address in self.threads()
        }
        here = own_versions(package)  # meanwhile
        for address, future in futures.items():
            try:
                versions, sees = future.result(timeout=LIMITS.no_workers_s)
            except ImportError as error:
                raise UserError(f"worker {address}: canopy cannot be imported there ({error}). Start it in canopy's "
                                "folder.") from error  # fmt: skip
            except (TimeoutError, distributed.CancelledError, distributed.KilledWorker):
                continue  # it has gone; a task that it gets later is checked again
            if versions != here:
                raise foreign_worker(address, versions, here)
            if not sees:
                raise UserError(
                    f"worker {address}: it does not see {needs}. All workers need the same disk under the same path."
                )


@contextlib.contextmanager
def connect(place: ClusterAddress, modules: Sequence[str] = ()) -> Iterator[DaskEngine]:
    """Connect to the scheduler, or start workers on this machine, which import `modules` before they start.

    Raises:
        UserError: no scheduler answers.
    """
    with _quiet(), contextlib.ExitStack() as stack:
        client = _client(place, modules, stack)
        if importlib.util.find_spec("bokeh") and client.dashboard_link:
            say(f"Dask's dashboard: {client.dashboard_link}")
        yield DaskEngine(client)


def _client(place: ClusterAddress, modules: Sequence[str], stack: contextlib.ExitStack) -> distributed.Client:
    if place.local is not None:
        stack.enter_context(
            dask.config.set({**_QUIET_PROCESSES, "distributed.scheduler.allowed-failures": LIMITS.allowed_kills})
        )
        has_dashboard = importlib.util.find_spec("bokeh") is not None
        multiprocessing.set_forkserver_preload(["distributed", *modules])
        with children_without_interrupts():
            cluster = distributed.LocalCluster(
                n_workers=place.local, threads_per_worker=1, processes=True, memory_limit=0,
                dashboard_address=":0" if has_dashboard else None, silence_logs=logging.CRITICAL,
                env=dict(os.environ),  # the server that forks workers has the environment of its own start
            )  # fmt: skip
        stack.callback(_close, cluster, timeout_s=60)
        client = distributed.Client(cluster, set_as_default=False)
        stack.callback(client.close, timeout=5)
        return client
    client = _scheduler(place)
    stack.callback(client.close, timeout=5)
    return client


def _scheduler(place: ClusterAddress) -> distributed.Client:
    """Wait for the scheduler: one script may start both, and a file may be that of a scheduler that has ended.

    Raises:
        UserError: after `LIMITS.connect_s` there is no file, or nobody answers.
    """
    text = place.address or str(place.file)
    until = time.monotonic() + LIMITS.connect_s
    while True:
        left_s = until - time.monotonic()
        error: Exception | None = None
        try:
            if place.file is None:
                return distributed.Client(place.address, timeout=max(left_s, 1), set_as_default=False)
            if place.file.is_file():
                wait_s = min(max(left_s, 1), _ONE_FILE_S)
                return distributed.Client(scheduler_file=str(place.file), timeout=wait_s, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as caught:
            error = caught
        if left_s <= 0 and place.file is not None and not place.file.is_file():
            raise UserError(
                f"CLUSTER={text}: expected the file of a scheduler, found nothing for {LIMITS.connect_s:.0f} s. "
                f"`dask scheduler --scheduler-file {text}` starts one."
            ) from error
        if left_s <= 0:
            raise UserError(
                f"CLUSTER={text}: no scheduler answers. `dask scheduler` starts one; docs/cluster.md shows how."
            ) from error
        say_once(f"CLUSTER={text}: waiting for the scheduler, at most {LIMITS.connect_s:.0f} s")
        time.sleep(0.2)


def _close(cluster: distributed.LocalCluster, *, timeout_s: float) -> None:
    """End the workers of CLUSTER=local. Those that take longer, on a busy machine, end with this process: an error here
    would hide the one that ended the command."""
    with contextlib.suppress(TimeoutError):
        cluster.close(timeout=timeout_s)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Dask's own lines are for those who run Dask. What matters to the user becomes one line of ours."""
    names = ["distributed", "tornado", "asyncio", *(name for name in logging.root.manager.loggerDict if
             name.startswith(("distributed.", "tornado.")))]  # fmt: skip
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(distributed|dask|tornado)\b")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
