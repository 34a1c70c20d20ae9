"""Threads in which nothing is printed: tasks in worker processes, whose lines would appear amid those of the command.

In: nothing. Out: a context manager, and whether it is entered. Leaves printing to `console`.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_state = threading.local()


@contextmanager
def silent() -> Iterator[None]:
    """In this thread `console.say` and `console.Progress` print nothing."""
    before, _state.is_on = is_silent(), True
    try:
        yield
    finally:
        _state.is_on = before


def is_silent() -> bool:
    """Whether this thread is in `silent`."""
    return getattr(_state, "is_on", False)
