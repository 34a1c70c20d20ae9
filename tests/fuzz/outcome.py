"""The outcome of one damaged input, and how an exception is judged.

In: a call. Out: its value, or the line with which the program refuses. Leaves finding silent errors to the kinds.
"""

import contextlib
import io
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from preprocess import console

# In the order in which they are printed. "altered": other values, and an independent strict reader reads the same ones.
OUTCOMES = ("refused", "equal", "altered", "silent", "crashed", "hung", "too big")
BAD = ("silent", "crashed", "hung", "too big")


@dataclass
class Case:
    """One damaged input. `seed` and `number` determine `operations`."""

    kind: str
    seed: int
    number: int
    operations: list[str] = field(default_factory=list)
    outcome: str = ""
    detail: str = ""

    @property
    def name(self) -> str:
        """The case as CASE= takes it."""
        return f"{self.kind}:{self.seed}:{self.number}"

    def to(self, outcome: str, detail: str = "") -> "Case":
        """Set the outcome."""
        self.outcome, self.detail = outcome, detail
        return self


class Refused(Exception):
    """The program refused the input, with exit code 2 and one line."""


class Crashed(Exception):
    """The program ended with a traceback."""


def attempt(call: Callable[[], Any]) -> Any:
    """The value of a call that runs as a command does for a user (`console.run`).

    Raises:
        Refused: it ended with exit code 2 and one line.
        Crashed: it ended with a traceback or in another way.
    """
    value: list[Any] = []

    def main() -> int:
        value.append(call())
        return 0

    lines = io.StringIO()
    try:
        with contextlib.redirect_stderr(lines), contextlib.redirect_stdout(io.StringIO()):
            console.run(main)
    except Refused:
        raise
    except SystemExit as end:
        if end.code == 0:
            return value[0]
        text = lines.getvalue().strip()
        if end.code != 2 or "\n" in text or not text.startswith("error: "):
            raise Crashed(f"exit code {end.code}: {text}") from None
        raise Refused(text) from None
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)[-3:]
        where = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames[::-1])
        raise Crashed(f"{type(error).__name__}: {str(error)[:200]} ({where})") from None


def quiet(call: Callable[[], Any]) -> Any:
    """The value of a call, without its output."""
    with contextlib.redirect_stdout(io.StringIO()):
        return call()
