"""Run tasks in worker processes: bounded memory, first error stops, no orphans.

In: a picklable function and tasks. Out: results in the order in which they end. Knows nothing of tiles.
"""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from preprocess.console import UserError

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
    # spawn: a fork would copy the parent's threads' locks (zarr runs an event loop in one).
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=context, initializer=_end_with_parent)
    left = iter(tasks)
    running: set[Future[Result]] = set()
    try:
        while True:
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
