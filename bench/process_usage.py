"""CPU seconds and memory of this process and its descendants, from /proc.

In: nothing. Out: seconds and MiB. Memory is the proportional share (PSS) of anonymous and shared memory, which a
machine must have free: pages shared by forked workers count once, and pages of mapped files do not count, since the
kernel drops them when memory is short. (The resident size, RSS, counts mapped pages as the process's own: a mapped
store would seem to cost its whole length, although the page cache holds the same bytes for a reader without mappings.)
"""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

_TICKS = os.sysconf("SC_CLK_TCK")


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def process_tree(pid: int) -> Iterator[int]:
    """A process and its live descendants."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue  # the thread has just ended
        for child in children:
            yield from process_tree(int(child))


def cpu_s() -> float:
    """CPU time of this process, its live descendants, and those that have ended and been waited for."""
    ticks = 0
    for pid in process_tree(os.getpid()):
        try:
            # utime, stime, and the same of children waited for. The name before them may hold spaces.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS


def memory_mib() -> float:
    """PSS of anonymous and shared memory of this process and its descendants."""
    kib = 0
    for pid in process_tree(os.getpid()):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        kib += sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    return kib / 1024


def status_mib(field: str) -> float:
    """A number of /proc/self/status, such as RssAnon or RssFile (mapped pages of files that this process has used)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) / 1024


class PeakMemory:
    """Samples `memory_mib` every 20 ms while it is open. Not for a timed pass: it costs a few percent of a core."""

    def __init__(self) -> None:
        self.mib = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self.mib = max(self.mib, memory_mib())  # on a busy machine the thread may not have sampled again

    def _watch(self) -> None:
        while not self._over.is_set():
            self.mib = max(self.mib, memory_mib())
            time.sleep(0.02)
