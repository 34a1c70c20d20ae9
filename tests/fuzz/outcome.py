"""What came of one damaged input, and how an exception is judged.

In: a call. Out: its value, or the one line in which the program refuses. Leaves what is silent to the kinds.
"""

import contextlib
import io
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from preprocess import console

# In the order in which they are printed. "altered": other values, which an independent strict reader reads, too.
OUTCOMES = ("refused", "equal", "altered", "silent", "crashed", "hung", "too big")
BAD = ("silent", "crashed", "hung", "too big")


@dataclass
class Case:
    """One damaged input: `number` and the seed give `operations` again."""

    kind: str
    seed: int
    number: int
    operations: list[str] = field(default_factory=list)
    outcome: str = ""
    detail: str = ""

    @property
    def name(self) -> str:
        """As CASE= takes it."""
        return f"{self.kind}:{self.seed}:{self.number}"

    def to(self, outcome: str, detail: str = "") -> "Case":
        """Say how it ended."""
        self.outcome, self.detail = outcome, detail
        return self


class Refused(Exception):
    """The program refused: its exit code and its line."""


class Crashed(Exception):
    """The program ended with a traceback."""


def attempt(call: Callable[[], Any]) -> Any:
    """The value of a call, as `console.run` lets it end for a user.

    Raises:
        Refused: exit code 2 (or 141, ...) with a line.
        Crashed: what would have been a traceback.
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
    """The value of a call, whose lines nobody sees."""
    with contextlib.redirect_stdout(io.StringIO()):
        return call()
