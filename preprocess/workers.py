"""Run tasks in worker processes: bounded memory, first error stops, no orphans.

In: a picklable function and tasks. Out: results in the order in which they end. Knows nothing of chips.
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

# 3 workers work with 24 open files and not with 22 (each has 2 pipes to its pool); a few are left over for libraries.
_FILES, _FILES_PER_WORKER = 24, 3

Task = TypeVar("Task")
Result = TypeVar("Result")


def run_tasks(function: Callable[[Task], Result], tasks: Sequence[Task], *, jobs: int) -> Iterator[Result]:
    """Yield `function(task)` for every task, as they end.

    At most `jobs` processes (none for one job or one task) and two tasks a process are under way, so memory
    does not grow with their number. The first exception cancels what has not begun and is raised here.
    """
    if jobs == 1 or len(tasks) <= 1:
        yield from map(function, tasks)
        return
    check_open_files(jobs)
    # Not forked off this process: that would copy its threads' locks (zarr runs an event loop in one).
    context = multiprocessing.get_context("forkserver")
    pool = ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=context, initializer=_end_with_parent)
    left = iter(tasks)
    running: set[Future[Result]] = set()
    try:
        while True:
            with _interrupt_later():  # a worker that starts while its pool comes down prints a traceback
                while len(running) < 2 * jobs and (task := next(left, None)) is not None:
                    running.add(pool.submit(function, task))
            if not running:
                pool.shutdown(wait=False)  # they end while the caller goes on: a tenth of a second
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BaseException as error:
        pool.shutdown(wait=True, cancel_futures=True)  # nobody writes any more when the error is seen
        if isinstance(error, BrokenProcessPool):
            raise UserError(
                "a worker process was killed (out of memory?). Run the same command again with fewer JOBS: it goes on."
            ) from error
        raise


@contextmanager
def _interrupt_later() -> Iterator[None]:
    """A Ctrl-C meanwhile is raised at the end. (Blocking the signal is not enough: other threads take it then.)"""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if caught and callable(before):
            before(signal.SIGINT, None)


def check_open_files(jobs: int) -> None:
    """UserError if so many worker processes need more open files than `ulimit -n` allows; found out later, it costs the
    work so far and ends in tracebacks of processes that are not ours."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _FILES + _FILES_PER_WORKER * jobs
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        most = max(1, (allowed - _FILES) // _FILES_PER_WORKER)
        raise UserError(
            f"JOBS={jobs}: needs {needed} open files, and `ulimit -n` allows {allowed}. Raise it, or use JOBS={most}."
        )


def start_server(*modules: str) -> None:
    """Start, in the background, the process that workers are forked off, which imports `modules` once for all.

    Without it `run_tasks` starts one, and each worker imports what it needs. Python keeps one server a process, so
    only the first call counts.
    """
    multiprocessing.set_forkserver_preload(list(modules))
    # What is blocked here stays blocked there: a Ctrl-C while it imports would print a traceback. The tracker of
    # shared resources, which comes with it, unblocks what we block when it starts, so it starts before.
    multiprocessing.resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """Leave Ctrl-C to the parent, and exit when it is gone: a killed parent cannot tell its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None  # runs in worker processes only
    sentinel = parent.sentinel

    def watch() -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
