"""Signals that stop a run: it finishes its step, writes a checkpoint, and ends with an exit code of its own."""

import signal
from types import FrameType, TracebackType
from typing import Any

STOPPED = 75  # after SIGTERM or SIGUSR1, which schedulers send. EX_TEMPFAIL of sysexits.h: try again later
CTRL_C = 130


class Stopped(Exception):
    """A signal stopped the run, and a checkpoint is written. `code` is the exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class StopSignals:
    """Within its context, SIGTERM, SIGUSR1 and Ctrl-C only set `code`. A second Ctrl-C ends the run at once."""

    def __init__(self) -> None:
        self.code = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            self._before[number] = signal.signal(number, self._received)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _received(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.code == CTRL_C:
            raise KeyboardInterrupt
        self.code = max(self.code, CTRL_C if number == signal.SIGINT else STOPPED)
