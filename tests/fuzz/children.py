"""Run cases in forked child processes and watch them: at most 10 s and 600 MB per case.

A child handles one case after another, so that a case costs milliseconds. A child that crashes, hangs or grows is
replaced. The parent imports everything before it forks and starts no thread.

In: a kind and numbers of cases. Out: `Case`s as they end. Leaves what a case does to the kinds.
"""

import ctypes
import json
import os
import random
import resource
import select
import shutil
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fuzz.damage import read_tree
from fuzz.outcome import BAD, Case, Crashed
from preprocess.console import UserError

CASE_S = 10.0
CASE_MB = 600.0
_READY = b"ready\n"
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


class Kind(Protocol):
    """One kind of input. Each child makes a working copy of the bases in its folder `work`; `mend` restores it."""

    def __init__(self, bases: Path, work: Path) -> None: ...

    def draw(self, rng: random.Random, case: Case) -> None:
        """Damage the working copy and list the operations in `case.operations`."""

    def judge(self, case: Case) -> Case:
        """Use the damaged input and set the outcome of the case."""

    def mend(self) -> None:
        """Restore the working copy."""


def run_case(kind: Kind, case: Case, begin: Callable[[Case], None] = lambda case: None) -> Case:
    """Draw and judge one case in this process; the working copy stays damaged."""
    kind.draw(random.Random(case.name), case)
    begin(case)
    try:
        return kind.judge(case)
    except Crashed as error:
        return case.to("crashed", str(error))


@dataclass
class _Child:
    process: int
    numbers: int
    results: int
    work: Path
    buffer: bytes = b""
    case: Case | None = None
    since: float = 0.0
    queued_s: float = 0.0
    limit_mb: float = 0.0


class Children:
    """`jobs` child processes of one kind. Bad cases are kept below `keep`.

    A case may take `case_s` seconds and `case_mb` MB of resident memory; with `growth`, in addition to the memory of an
    idle child.
    """

    def __init__(self, factory: type[Kind], name: str, seed: int, bases: Path, *, jobs: int, keep: Path) -> None:
        self._factory, self._name, self._seed, self._bases, self._keep = factory, name, seed, bases, keep
        self._works = [bases.parent / f"{name}{index}" for index in range(jobs)]
        self._next = 0
        self.growth, self.case_s, self.case_mb, self.peak_mb = False, CASE_S, CASE_MB, 0.0

    def run(self, seconds: float, count: int | None = None, first: int = 0) -> Iterator[Case]:
        """Cases from number `first` on, until the time is over; with `count`, that many cases instead."""
        self._next, last = first, None if count is None else first + count
        ends = time.monotonic() + seconds
        children = [self._fork(work) for work in self._works]
        try:
            while True:
                over = time.monotonic() > ends if last is None else self._next >= last
                for child in children:
                    if child.case is None and not over:
                        self._give(child)
                        over = last is not None and self._next >= last
                if over and all(child.case is None for child in children):
                    return
                ready = select.select([child.results for child in children], [], [], 0.02)[0]
                for index, child in enumerate(children):
                    if child.results in ready and (case := self._receive(child)) is not None:
                        yield case
                    elif child.case is not None and (reason := self._trouble(child)) is not None:
                        outcome, detail = reason
                        yield self._save(child.case.to(outcome, detail), child.work)
                        self._stop(child)
                        children[index] = self._fork(child.work)
        finally:
            for child in children:
                self._stop(child)

    def _fork(self, work: Path) -> _Child:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        results, results_in = os.pipe()
        numbers_out, numbers = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(results)
            os.close(numbers)
            try:
                self._live(work, numbers_out, results_in)
            except BaseException as error:  # an error of the fuzzer itself must be reported too
                (work / "stderr").write_text("".join(traceback.format_exception(error)))
            finally:
                os._exit(99)
        os.close(results_in)
        os.close(numbers_out)
        if os.read(results, len(_READY)) != _READY:
            os.waitpid(process, 0)
            raise UserError(f"a child process cannot start: {(work / 'stderr').read_text()}")
        return _Child(process, numbers, results, work)

    def _live(self, work: Path, numbers: int, results: int) -> None:
        from tqdm import tqdm

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no child outlives its parent
        tqdm.set_lock(threading.RLock())  # tqdm's own lock is a semaphore that all forks share
        warnings.simplefilter("ignore")
        with open(work / "stderr", "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        kind = self._factory(self._bases, work)
        os.write(results, _READY)
        for line in os.fdopen(numbers):
            case = Case(self._name, self._seed, int(line))
            run_case(kind, case, lambda case: _send(results, case, None))
            if case.outcome in BAD:
                self._save(case, work)
            kind.mend()
            _send(results, case, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        os._exit(0)

    def _give(self, child: _Child) -> None:
        child.case = Case(self._name, self._seed, self._next)
        self._begin(child)
        os.write(child.numbers, f"{self._next}\n".encode())
        self._next += 1

    def _begin(self, child: _Child) -> None:
        child.since, child.queued_s = time.monotonic(), _queued_s(child.process)
        child.limit_mb = self.case_mb + (_resident_mb(child.process) if self.growth else 0)

    def _receive(self, child: _Child) -> Case | None:
        """The case that has ended, or None."""
        child.buffer += os.read(child.results, 1 << 16)
        while b"\n" in child.buffer:
            line, _, child.buffer = child.buffer.partition(b"\n")
            message = json.loads(line)
            child.case = Case(**message["case"])
            if message["peak_mb"] is not None:
                case, child.case = child.case, None
                self.peak_mb = max(self.peak_mb, message["peak_mb"])
                return case
            self._begin(child)  # the input is damaged now: time and memory count from here on
        return None

    def _trouble(self, child: _Child) -> tuple[str, str] | None:
        """(outcome, detail) of a child that has died or must be killed, else None."""
        ended, status = os.waitpid(child.process, os.WNOHANG)
        if ended:
            child.process = 0
            code = os.waitstatus_to_exitcode(status)
            lines = (child.work / "stderr").read_text(errors="replace").strip().splitlines()[-1:]
            return "crashed", f"{signal.Signals(-code).name if code < 0 else f'exit code {code}'} {' '.join(lines)}"
        if (resident_mb := _resident_mb(child.process)) > child.limit_mb:
            return "too big", f"{resident_mb:.0f} MB resident"
        if time.monotonic() - child.since > self.case_s:
            # Waiting for a core does not count: it depends on the machine, not on the case.
            active_s = time.monotonic() - child.since - (_queued_s(child.process) - child.queued_s)
            if active_s > self.case_s:
                return "hung", f"more than {self.case_s:.0f} s"
        return None

    def _save(self, case: Case, work: Path) -> Case:
        """Keep the damaged input, and the case that made it."""
        place = self._keep / case.name.replace(":", "-")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        (place / "case.json").write_text(json.dumps(vars(case), indent=1))
        for name, data in read_tree(work).items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)
        return case

    def _stop(self, child: _Child) -> None:
        if child.process:
            os.kill(child.process, signal.SIGKILL)
            os.waitpid(child.process, 0)
            child.process = 0
        if child.results:
            os.close(child.numbers)
            os.close(child.results)
            child.results = 0
        shutil.rmtree(child.work, ignore_errors=True)


def _resident_mb(process: int) -> float:
    with open(f"/proc/{process}/statm") as file:
        return int(file.read().split()[1]) * _PAGE_MB


def _queued_s(process: int) -> float:
    """Seconds that the main thread of a process has waited for a core."""
    with open(f"/proc/{process}/schedstat") as file:
        return int(file.read().split()[1]) / 1e9


def _send(results: int, case: Case, peak_mb: float | None) -> None:
    os.write(results, json.dumps({"case": vars(case), "peak_mb": peak_mb}).encode() + b"\n")
