"""One rank of a tiny run, for tests: `python tests/rank_run.py FOLDER STOP ARGUMENTS...` under torchrun.

Writes FOLDER/<rank>.log, a line a batch: epoch, chips, loss (hex). With STOP above 0, the last rank sends itself
SIGTERM in its step of that number.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from tiny import Steps, tiny_networks

from pipeline.loader import Batch, ChipLoader
from preprocess import console
from train.__main__ import main


@contextmanager
def logged(log: Path, stop: int) -> Iterator[None]:
    """While it lasts, networks are tiny and every step goes into the log."""
    current: list[str] = []
    real = ChipLoader.epoch

    def epoch(self: ChipLoader, number: int, first_step: int = 0) -> Iterator[Batch]:
        for batch in real(self, number, first_step):
            current[:] = [str(number), ",".join(map(str, batch.chips))]
            yield batch

    def act(number: int) -> None:
        with open(log, "a") as file:
            print(*current, steps.losses[-1], file=file)
        if number == stop and os.environ.get("RANK", "0") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1):
            os.kill(os.getpid(), signal.SIGTERM)

    steps = Steps(act)
    with tiny_networks(), steps.patch, mock.patch.object(ChipLoader, "epoch", epoch):
        yield


if __name__ == "__main__":
    folder, stop_at = Path(sys.argv[1]), int(sys.argv[2])
    sys.argv[1:] = sys.argv[3:]
    folder.mkdir(exist_ok=True)
    with logged(folder / f"{os.environ['RANK']}.log", stop_at):
        console.run(main)
