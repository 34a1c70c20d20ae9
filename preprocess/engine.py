"""Where tasks run: processes of this machine, or Dask workers.

In: a function and its tasks. Out: results in the order in which tasks end. Both engines make the same results: a task
is a function of its arguments and of files. Leaves the processes to `workers` and Dask to `cluster`, which is imported
only if CLUSTER is set.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, TypeVar

from preprocess.addresses import Location
from preprocess.cluster_setting import cluster_address
from preprocess.workers import check_open_files, run_tasks, start_server

Task = TypeVar("Task")
Result = TypeVar("Result")


class Engine(Protocol):
    """Runs tasks."""

    @property
    def log_every_s(self) -> float | None:
        """Time between two lines of progress where there is no terminal; None: as usual."""

    @property
    def workers(self) -> int:
        """Tasks that can run at the same time."""

    @property
    def note(self) -> str:
        """Begins the note of the progress bar: who works ("8 workers, "), or ""."""

    def run(self, function: Callable[[Task], Result], tasks: Sequence[Task], *, needs: Location) -> Iterator[Result]:
        """Yield `function(task)` for every task in the order in which they end.

        Args:
            function: of a module, so that another process can import it.
            tasks: small and picklable. A task that has `parts()` is divided into them before it is tried again.
            needs: a file that every worker must see.

        Raises:
            UserError: the first one that `function` raises.
            IncompleteError: tasks failed for another reason, again and again; all others are done.
        """


@dataclass(frozen=True)
class Pool:
    """Worker processes of this machine."""

    jobs: int
    log_every_s: float | None = None
    note: str = ""

    @property
    def workers(self) -> int:
        """Processes."""
        return self.jobs

    def run(self, function: Callable[[Task], Result], tasks: Sequence[Task], *, needs: Location) -> Iterator[Result]:
        """See `Engine.run`. The first exception of any kind ends all."""
        del needs
        return run_tasks(function, tasks, jobs=self.jobs)


def open_engine(cluster: str | None, *, jobs: int, modules: Sequence[str] = ()) -> AbstractContextManager[Engine]:
    """The engine of a command. `modules`: what worker processes of this machine import before they start.

    Raises:
        UserError: more processes than open files, or no scheduler at the address.
    """
    if cluster is None:
        if jobs > 1:
            check_open_files(jobs)
            if modules:
                start_server(*modules)  # in the background
        return nullcontext(Pool(jobs))
    from preprocess.cluster import connect

    return connect(cluster_address(cluster), modules)
