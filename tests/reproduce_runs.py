"""Reproduce runs in this process: `reproduce_runs.py tiny|real RUN ...`. Prints each verdict."""

import contextlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tiny import tiny_networks

from analysis.reproduce import reproduce

if __name__ == "__main__":
    with tiny_networks() if sys.argv[1] == "tiny" else contextlib.nullcontext():
        for run in sys.argv[2:]:
            print("verdict", reproduce(Path(run), store=None, gpu=None))
