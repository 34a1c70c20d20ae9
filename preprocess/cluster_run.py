"""Which task a Dask cluster runs when: a window of tasks, second copies of slow ones, three tries.

In: a client, a function, tasks. Out: the result of each task once, in the order in which tasks end. Leaves connections
and the check of workers to `cluster`.
"""

import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import distributed

from preprocess.cluster_worker import Outcome, attempt
from preprocess.console import IncompleteError, StoppedError, UserError, one_line

_WINDOW = 3  # tasks per thread that Dask knows of; all others wait here
_TRIES = 3
_SLOW_SHARE = 0.95  # when more than this is done, tasks that still run are sent to idle workers, too
_POLL_S = 0.02
_MAX_SHOWN = 20


@dataclass
class Limits:
    """What tests make smaller. allowed_kills: how often a process of CLUSTER=local may be killed with the same task."""

    no_workers_s: float = 60.0
    connect_s: float = 60.0
    allowed_kills: int = 20


LIMITS = Limits()


@dataclass(eq=False)
class _Job:
    """A task, and how often it failed. `copies`: how often it runs now."""

    task: Any
    failures: int = 0
    copies: int = 0
    is_done: bool = False


@dataclass
class Dispatcher:
    """Runs tasks of one kind. `versions`: what workers must have. `interrupts`: not empty after Ctrl-C, which ends the
    run."""

    client: distributed.Client
    threads: Callable[[], dict[str, int]]
    function: Callable[[Any], Any]
    versions: dict[str, str]
    interrupts: list[int]
    _waiting: deque[_Job] = field(default_factory=deque)
    _running: dict[distributed.Future, _Job] = field(default_factory=dict)
    _failed: list[str] = field(default_factory=list)
    _num_jobs: int = 0
    _num_done: int = 0

    def run(self, tasks: Sequence[Any]) -> Iterator[Any]:
        """Yield each task's result; see `Engine.run`."""
        self._waiting.extend(_Job(task) for task in tasks)
        self._num_jobs = len(tasks)
        completed = distributed.as_completed((), loop=self.client.loop, with_results=True, raise_errors=False)
        last_worker_s = time.monotonic()
        try:
            while self._num_done < self._num_jobs and not self.interrupts:
                num_threads = sum(self.threads().values())
                if num_threads:
                    last_worker_s = time.monotonic()
                elif time.monotonic() - last_worker_s > LIMITS.no_workers_s:
                    raise no_workers()
                self._submit(completed, num_threads)
                batch = completed.next_batch(block=False)
                if not batch:
                    time.sleep(_POLL_S)
                for future, result in batch:
                    yield from self._ended(future, result)
        finally:
            for future in self._running:  # those that run cannot be stopped; what they write is the same
                future.release()
        if self.interrupts:
            raise KeyboardInterrupt
        if self._failed:
            raise IncompleteError(
                f"{'; '.join(self._failed[:_MAX_SHOWN])}{_more(len(self._failed))}. Everything else is done. The same "
                "command tries again."
            )

    def _submit(self, completed: distributed.as_completed, num_threads: int) -> None:
        while self._waiting and len(self._running) < _WINDOW * num_threads:
            self._start(self._waiting.popleft(), completed)
        if not self._waiting and self._num_done > _SLOW_SHARE * self._num_jobs:
            idle = num_threads - len(self._running)
            for job in [job for job in self._running.values() if job.copies == 1][: max(0, idle)]:
                self._start(job, completed)

    def _start(self, job: _Job, completed: distributed.as_completed) -> None:
        future = self.client.submit(
            attempt, self.function, job.task, self.versions, key=f"canopy-{uuid.uuid4().hex}", pure=False, retries=0
        )
        job.copies += 1
        self._running[future] = job
        completed.add(future)

    def _ended(self, future: distributed.Future, result: Any) -> Iterator[Any]:
        job = self._running.pop(future)
        job.copies -= 1
        worker = _outcome(future, result)
        future.release()
        if job.is_done:
            return
        if worker.kind == "done":
            job.is_done = True
            self._num_done += 1
            yield worker.value
        elif worker.kind in ("user", "stop"):
            raise UserError(worker.value)
        elif worker.kind == "foreign":
            raise foreign_worker(worker.value["address"], worker.value, self.versions)
        elif not job.copies:  # a copy that still runs counts as the next try
            self._try_again(job, worker.value)

    def _try_again(self, job: _Job, reason: str) -> None:
        job.is_done = True
        if job.failures + 1 >= _TRIES:
            self._failed.append(one_line(f"{job.task} failed {_TRIES} times ({reason})"))
            self._num_done += 1
            return
        parts = job.task.parts() if hasattr(job.task, "parts") else [job.task]
        self._num_jobs += len(parts) - 1
        self._waiting.extend(_Job(part, failures=job.failures + 1) for part in parts)


def _outcome(future: distributed.Future, result: Any) -> Outcome:
    """How an attempt ended, if Dask has nothing to say about it.

    Raises:
        StoppedError: the scheduler lost the task, or the task killed its workers.
    """
    if future.status == "finished" and isinstance(result, Outcome):
        return result
    error = result[1] if isinstance(result, tuple) else result
    if isinstance(error, distributed.KilledWorker):
        raise StoppedError("workers were killed again and again (out of memory?). The same command resumes.") from None
    if isinstance(error, distributed.CancelledError) or future.status in ("cancelled", "lost"):
        raise lost()
    return Outcome("failed", f"{type(error).__name__}: {error}")


def lost() -> StoppedError:
    """The scheduler has gone."""
    return StoppedError("Dask's scheduler is lost. Start it again; the same command resumes.")


def no_workers() -> StoppedError:
    """Nobody works."""
    return StoppedError(
        f"no Dask workers for {LIMITS.no_workers_s:.0f} s. Start some with `dask worker`; the same command resumes."
    )


def foreign_worker(address: str, versions: dict[str, str], here: dict[str, str]) -> UserError:
    """The worker would make other bytes; names what differs."""
    names = [name for name in here if versions.get(name) != here[name]]
    other = ", ".join(f"{name} {versions.get(name)} (here {here[name]})" for name in names)
    return UserError(f"worker {address}: expected the versions of this command, found {other}. Install the same there.")


def _more(count: int) -> str:
    return f" and {count - _MAX_SHOWN} more" if count > _MAX_SHOWN else ""
