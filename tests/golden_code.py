"""Names of the code under test, and how its commands are started: a rename needs a change here and nowhere else.

`Code` finds functions by their new or old module names and writes command lines in the form that the code has. `Place`
runs the commands in a folder. Leaves what is run and hashed to `golden_items`.
"""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

# Keys of run.json and metrics.jsonl, and columns of epochs.csv, that hold times or belong to one machine.
UNSTABLE = re.compile(r"seconds|chips_per_s|wait|_s$|gpu|digest|checkpoint$|evaluate$|^(step|copy)$|^store$|workers")


class Code:
    """The code under test, in `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def command(self, package: str, command: str = "", **settings: object) -> list[str]:
        """`python -m package command`, with settings as words (NAME=value) or, in older code, as options."""
        start = [sys.executable, "-W", "ignore", "-m", package, *([command] if command else [])]
        words = {name: str(value) for name, value in settings.items()}
        if '"--store"' not in (self.root / package / "__main__.py").read_text():
            return start + [f"{name}={text}" for name, text in words.items()]
        options, rest = [], []
        for name, text in words.items():
            if name in ("DETERMINISTIC", "SHUFFLE_LABELS", "TTA"):
                options += [f"--{name.lower().replace('_', '-')}"]
            elif package == "train" and name not in self._train_options():
                rest.append(f"{name.lower()}={text}")
            else:
                options += [f"--{name.lower().replace('_', '-')}={text}"]
        return start + options + (["--set", " ".join(rest)] if rest else [])

    def _train_options(self) -> set[str]:
        found = re.findall(r'"--([a-z0-9-]+)"', (self.root / "train" / "flags.py").read_text())
        return {name.upper().replace("-", "_") for name in found} | {"TASK", "STORE", "RUN", "RESUME", "RECIPE"}

    @staticmethod
    def name(*places: str) -> Any:
        """The first of several `module:name` that exists."""
        for place in places:
            module, _, name = place.partition(":")
            try:
                return getattr(importlib.import_module(module), name)
            except (ModuleNotFoundError, AttributeError) as error:
                missing = error
        raise missing

    def load(self) -> None:
        """Import from `root` what batches and splits need."""
        sys.path.insert(0, str(self.root))
        package = importlib.import_module("pipeline")  # also sets DALI's environment
        if not Path(package.__file__ or "").is_relative_to(self.root):
            raise RuntimeError(f"expected to import pipeline from {self.root}, found {package.__file__}")
        self.open_store = self.name("preprocess.zarr_store:open_store", "preprocess.schema:open_store")
        self.make_split = self.name("preprocess.splits:make_split", "preprocess.split:make_split")
        self.train_loader = self.name("pipeline.loader:train_loader", "canopy:train_loader")
        self.eval_loader = self.name("pipeline.loader:eval_loader", "canopy:eval_loader")
        self.raw_inputs = self.name("pipeline.inputs:raw_inputs", "canopy:raw_inputs")
        self.course_inputs = self.name("pipeline.inputs:course_inputs", "canopy:course_inputs")

    @staticmethod
    def chips(batch: Any) -> np.ndarray:
        """The indices of a batch's chips in the store."""
        return np.asarray(batch.chips if hasattr(batch, "chips") else batch.tiles)

    @staticmethod
    def set_shard(loader: Any, rank: int, world: int) -> None:
        (loader.set_shard if hasattr(loader, "set_shard") else loader.deal)(rank, world)


class Place:
    """A folder of inputs and outputs, and commands that run in it with one thread each: sums have one order."""

    def __init__(self, code: Code, folder: Path) -> None:
        self.code, self.folder = code, folder
        self.environment = os.environ | {
            "PYTHONPATH": str(code.root), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
        }  # fmt: skip

    def start(self, package: str, command: str = "", **settings: object) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.code.command(package, command, **settings), cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, package: str, command: str = "", *, codes: tuple[int, ...] = (0,), **settings: object) -> int:
        """Run a command to its end; its exit code must be one of `codes`."""
        process = self.start(package, command, **settings)
        output, _ = process.communicate()
        if process.returncode not in codes:
            raise RuntimeError(f"{package} {command} {settings}: exit code {process.returncode}\n{output}")
        return process.returncode
