"""Cases that end in every way there is, to test what watches them (`ONLY=toys`, not run by default)."""

import os
import random
import signal
import time
from pathlib import Path

from fuzz.outcome import Case, Refused, attempt
from preprocess.console import UserError

# A slow machine must not turn "grows" into "hangs": 64 MB are touched in some 30 ms, a hundredth of the time allowed.
CASE_S, CASE_MB, GROWTH = 3.0, 64.0, True


def make_bases(bases: Path) -> None:
    """Nothing is needed."""


def _refuse() -> None:
    raise UserError("refused in one line")


class Toys:
    """Number 0 is equal, 1 refused, 2 altered, 3 silent, 4 a traceback, 5 a signal, 6 hangs, 7 grows; and so on."""

    def __init__(self, bases: Path, work: Path) -> None:
        del bases
        self._work = work

    def draw(self, rng: random.Random, case: Case) -> None:
        """Leave a file, to be kept."""
        case.operations.append(f"{rng.random()}")
        (self._work / "input").write_text(case.name)

    def judge(self, case: Case) -> Case:
        """End as the number says."""
        what = case.number % 8
        if what == 1:
            try:
                attempt(_refuse)
            except Refused as error:
                return case.to("refused", str(error))
        if what == 4:
            attempt(lambda: [][0])
        if what == 5:
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == 6:
            time.sleep(60)
        if what == 7:
            grown = [bytearray(b"\1") * 2**20 for _ in range(4000)]
            time.sleep(len(grown))
        return case.to(("equal", "", "altered", "silent")[what])

    def mend(self) -> None:
        """Nothing is kept."""
