"""Commands in this process or in a separate one, and short trainings."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import torch

from canopy.main import dispatch
from preprocess import console

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 2
SETTINGS = (f"EPOCHS={EPOCHS}", "BATCH=20", "VAL=0.1", "EMA=0.9")


@dataclass(frozen=True)
class Ended:
    returncode: int
    stdout: str
    stderr: str


def here(package: str, *words: object) -> Ended:
    """`python -m PACKAGE WORDS` in this process, because importing torch and DALI takes longer than these runs."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            console.run(lambda: dispatch(package, [str(word) for word in words]))
        except SystemExit as end:
            code = end.code
    torch.use_deterministic_algorithms(False)
    assert isinstance(code, int)
    return Ended(code, out.getvalue(), err.getvalue())


def python(*arguments: object) -> Ended:
    """A command in a separate process."""
    ended = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def train(store: Path | str, run: Path, *words: object, task: int = 1) -> Ended:
    """A short training. A word replaces one of the same name before it."""
    defaults = (f"TASK={task}", f"STORE={store}", f"RUN={run}", "GPU=cpu", "EPOCHS=2", "BATCH=32", "WEIGHTS=none")
    by_name = {str(word).partition("=")[0]: word for word in (*defaults, *words)}
    return here("train", *by_name.values())


def resume(run: Path, *words: object) -> Ended:
    return here("train", f"RESUME={run}", *words)


def stop_at(step: int, number: int = signal.SIGTERM) -> Callable[[int], None]:
    return lambda reached: os.kill(os.getpid(), number) if reached == step else None
