"""Commands, in this process or in one of their own, and the runs that they make."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

from preprocess import console
from train.__main__ import main as train_main

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 2
SETTINGS = ("--epochs", EPOCHS, "--batch", 20, "--val", "0.1", "--set", "ema=0.9")


@dataclass(frozen=True)
class Ended:
    returncode: int
    stdout: str
    stderr: str


def here(main: Callable[[], int], program: str, *arguments: object) -> Ended:
    """A command in this process: importing torch and DALI takes longer than these runs."""
    out, err = io.StringIO(), io.StringIO()
    argv = [program, *map(str, arguments)]
    with mock.patch.object(sys, "argv", argv), redirect_stdout(out), redirect_stderr(err):
        try:
            console.run(main)
        except SystemExit as end:
            code = end.code
    torch.use_deterministic_algorithms(False)
    assert isinstance(code, int)
    return Ended(code, out.getvalue(), err.getvalue())


def python(*arguments: object) -> Ended:
    """A command in a process of its own."""
    ended = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def train(store: Path, run: Path, *arguments: object, task: int = 1) -> Ended:
    return here(
        train_main, "train", "--task", task, "--store", store, "--run", run, "--gpu", "cpu", "--epochs", 2,
        "--batch", 32, "--weights", "none", *arguments,
    )  # fmt: skip


def resume(run: Path, *arguments: object) -> Ended:
    return here(train_main, "train", "--resume", run, *arguments)


def stop_at(step: int, number: int = signal.SIGTERM) -> Callable[[int], None]:
    return lambda reached: os.kill(os.getpid(), number) if reached == step else None
