"""Cases that end in every possible way, to test the watching of children (`ONLY=toys`, not run by default)."""

import os
import random
import signal
import time
from pathlib import Path

from fuzz.outcome import Case, Refused, attempt
from preprocess.console import UserError

# A slow machine must not turn "grows" into "hangs": touching 64 MB takes about 30 ms, a hundredth of the limit.
CASE_S, CASE_MB, GROWTH = 3.0, 64.0, True


def make_bases(bases: Path) -> None:
    """These cases need no inputs."""


def _refuse() -> None:
    raise UserError("refused in one line")


class Toys:
    """Case 0 is equal, 1 refused, 2 altered, 3 silent, 4 a traceback, 5 a signal; 6 hangs, 7 grows; 8 is like 0."""

    def __init__(self, bases: Path, work: Path) -> None:
        del bases
        self._work = work

    def draw(self, rng: random.Random, case: Case) -> None:
        """Write a file, so that there is something to keep."""
        case.operations.append(f"{rng.random()}")
        (self._work / "input").write_text(case.name)

    def judge(self, case: Case) -> Case:
        """End in the way that the number stands for."""
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
            megabytes = [bytearray(b"\1") * 2**20 for _ in range(4000)]
            time.sleep(len(megabytes))
        return case.to(("equal", "", "altered", "silent")[what])

    def mend(self) -> None:
        """There is nothing to restore."""
