"""Functions that tests run in Dask workers."""

import os
import signal
import time
from pathlib import Path

from preprocess.console import TemporaryError, UserError


def count_attempts(folder: Path, name: str) -> int:
    """How often this was called with these arguments, this time included."""
    count = 0
    while True:
        count += 1
        try:
            os.close(os.open(folder / f"{name}.{count}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        return count


def double(task: int) -> int:
    return 2 * task


def fail(task: tuple[Path, int, int]) -> int:
    """(folder, number, how often it fails first)."""
    folder, number, failures = task
    if count_attempts(folder, str(number)) <= failures:
        raise OSError(5, "the disk failed", str(folder / str(number)))
    return number


def not_reached(task: tuple[Path, int, int]) -> int:
    """As `fail`, but the object store cannot be reached from this worker."""
    folder, number, failures = task
    if count_attempts(folder, str(number)) <= failures:
        raise TemporaryError("s3://chips/x: the object store cannot be reached")
    return number


def refuse(task: tuple[Path, int]) -> None:
    count_attempts(task[0], str(task[1]))
    raise UserError(f"chip {task[1]} is bad")


def end_the_process(task: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def first_is_slow(task: tuple[Path, int]) -> tuple[int, str]:
    """Task 0 takes a minute when it is called for the first time."""
    folder, number = task
    if number == 0 and count_attempts(folder, "0") == 1:
        time.sleep(60)
        return number, "slow"
    return number, "fast"


def burn(cpu_s: float) -> float:
    """Use the CPU for `cpu_s` seconds."""
    started = time.thread_time()
    while (used := time.thread_time() - started) < cpu_s:
        sum(range(10_000))
    return used
