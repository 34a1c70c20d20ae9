"""Run tasks in worker processes: bounded memory, the first error stops all, no orphans.

In: a picklable function and tasks. Out: results in the order in which tasks end. Knows nothing about chips.
"""

import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from preprocess.console import UserError

# 3 workers need 24 open files, 22 are too few (each has 2 pipes to its pool); a few more are reserved for libraries.
_FILES, _FILES_PER_WORKER = 24, 3

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_tasks(function: Callable[[Task], Result], tasks: Sequence[Task], *, jobs: int) -> Iterator[Result]:
    """Yield `function(task)` for every task in the order in which they end.

    At most `jobs` processes run (none for one job or one task), with at most two tasks per process in flight, so memory
    does not grow with the number of tasks. The first exception cancels waiting tasks and is raised here.
    """
    if jobs == 1 or len(tasks) <= 1:
        yield from map(function, tasks)
        return
    check_open_files(jobs)
    # Not forked from this process: a fork would copy the locks of its threads (zarr runs an event loop in one).
    context = multiprocessing.get_context("forkserver")
    pool = ProcessPoolExecutor(
        min(jobs, len(tasks)), mp_context=context, initializer=_begin, initargs=(dict(os.environ),)
    )  # fmt: skip
    left = iter(tasks)
    running: set[Future[Result]] = set()
    try:
        while True:
            with interrupt_later():  # a worker that starts while its pool shuts down prints a traceback
                while len(running) < 2 * jobs and (task := next(left, None)) is not None:
                    running.add(pool.submit(function, task))
            if not running:
                pool.shutdown(wait=False)  # workers end while the caller continues, which saves a tenth of a second
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BaseException as error:
        pool.shutdown(wait=True, cancel_futures=True)  # all writers have stopped when the error is raised
        if isinstance(error, BrokenProcessPool):
            raise UserError(
                "a worker process was killed (out of memory?). Run the same command with fewer JOBS; it resumes."
            ) from error
        raise


@contextmanager
def interrupt_later() -> Iterator[list[int]]:
    """Delay Ctrl-C to the end of the block; yields a list, empty until then. (Blocking the signal is not enough: other
    threads would receive it.)"""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    try:
        yield caught
    finally:
        signal.signal(signal.SIGINT, before)
        if caught and callable(before):
            before(signal.SIGINT, None)


@contextmanager
def children_without_interrupts() -> Iterator[None]:
    """Processes that are started in the block, or later by threads that start in it, never receive Ctrl-C.

    The resource tracker unblocks our signals when it starts, so it is started before.
    """
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def check_open_files(jobs: int) -> None:
    """Raise UserError if `jobs` worker processes need more open files than `ulimit -n` allows.

    Noticed later, it would cost the work so far and end in tracebacks inside multiprocessing.
    """
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _FILES + _FILES_PER_WORKER * jobs
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        most = max(1, (allowed - _FILES) // _FILES_PER_WORKER)
        raise UserError(
            f"JOBS={jobs}: expected at least {needed} open files, found a limit of {allowed} (`ulimit -n`). Raise "
            f"it, or use JOBS={most}."
        )


def start_server(*modules: str) -> None:
    """Start the process from which workers are forked, in the background; it imports `modules` once for all workers.

    Without it `run_tasks` starts one, and each worker imports its modules itself. Python keeps one such server per
    process, so only the first call counts.
    """
    multiprocessing.set_forkserver_preload(list(modules))
    with children_without_interrupts():  # a Ctrl-C during the server's imports would print a traceback
        multiprocessing.forkserver.ensure_running()


def _begin(environment: dict[str, str]) -> None:
    """Leave Ctrl-C to the parent, and exit when the parent ends: a killed parent cannot stop its workers.

    `environment`: that of the parent. The server that forks workers has the one of its own start, and the keys of a
    bucket may be set later.
    """
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None  # runs in worker processes only
    sentinel = parent.sentinel

    def watch() -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
