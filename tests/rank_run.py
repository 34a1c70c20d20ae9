"""One rank of a tiny run, for tests: `python tests/rank_run.py FOLDER STOP ARGUMENTS...` under torchrun.

It writes FOLDER/<rank>.log with a line per batch: epoch, chips, loss (hex). With STOP above 0, the last rank sends
SIGTERM to itself in its step of that number. With STOP below 0, rank 0 makes FOLDER/waits
after its step -STOP, and waits until that file is gone.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tiny import tiny_networks

from canopy.main import dispatch
from pipeline.loader import Batch
from preprocess import console
from train.hooks import Hooks, use_hooks
from train.loop import RunLoop


@contextmanager
def logged(log: Path, stop: int) -> Iterator[None]:
    """While it lasts, networks are tiny and every step is written to the log."""
    is_last_rank = os.environ.get("RANK", "0") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1)
    steps = 0

    def note(loop: RunLoop, batch: Batch, loss: torch.Tensor) -> None:
        nonlocal steps
        steps += 1
        with open(log, "a") as file:
            print(loop.state.epoch, ",".join(map(str, batch.chips)), float(loss).hex(), file=file)
        if steps == stop and is_last_rank:
            os.kill(os.getpid(), signal.SIGTERM)
        if steps == -stop and os.environ.get("RANK", "0") == "0":
            waits = log.parent / "waits"
            waits.touch()
            while waits.exists():
                time.sleep(0.01)

    with tiny_networks(), use_hooks(Hooks(on_batch_end=note)):
        yield


if __name__ == "__main__":
    folder, stop_at = Path(sys.argv[1]), int(sys.argv[2])
    folder.mkdir(exist_ok=True)
    with logged(folder / f"{os.environ['RANK']}.log", stop_at):
        console.run(lambda: dispatch("train", sys.argv[3:]))
