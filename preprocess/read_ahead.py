"""Results of slow calls, such as requests, in order: several run at the same time, and few wait.

In: a pool of threads, a function and its arguments. Out: the results. Knows nothing of what is read.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from itertools import islice
from typing import TypeVar

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def read_ahead(
    pool: Executor, function: Callable[[Argument], Result], arguments: Iterable[Argument], ahead: int
) -> Iterator[Result]:
    """Yield `function(argument)` in the order of the arguments. At most `ahead` calls run or have a result that waits.

    The first exception is raised, and calls that have not begun are cancelled.
    """
    left = iter(arguments)
    waiting: deque[Future[Result]] = deque(pool.submit(function, each) for each in islice(left, ahead))
    try:
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(function, each) for each in islice(left, 1))
            yield result
    finally:
        for future in waiting:
            future.cancel()
