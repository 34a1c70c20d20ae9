"""runs/<name>/: the files of a run, each written beside its place and renamed into it. Never a pickle.

run.json           configuration, versions, commit, machine, store fingerprint, split, state
metrics.jsonl      a line an epoch
model.safetensors  the best epoch's weights
tensorboard/       the same as metrics.jsonl for `tensorboard --logdir runs`
checkpoints/       where it goes on after an interruption (`checkpoint`); gone when the run is done
results.npz        epoch, AP, mAP, labels, preds, fnames, trainlosses, testlosses, testperfs; and logits,
                   classes, and what the scores depend on, for `make reproduce`

Leaves what run.json, metrics.jsonl and results.npz say to `contract`.
"""

import hashlib
import importlib.metadata
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import nn

from preprocess.console import UserError
from preprocess.files import locked_folder, open_regular

RUNS = Path("runs")
PACKAGES = ("torch", "torchvision", "nvidia-dali", "zarr", "numcodecs", "numpy", "scikit-learn")


def new_run_folder(wanted: str | None, task: int) -> Path:
    """Make the folder of a new run. A name that is given must be free; the default one counts on.

    Raises:
        UserError: the folder exists.
    """
    if wanted is not None:
        path = Path(wanted)
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            raise UserError(f"RUN={wanted}: exists already. Choose another name, or remove it.") from None
        except OSError as error:
            raise UserError(f"RUN={wanted}: the folder cannot be made ({error.strerror}).") from error
        return path
    for number in range(1, 10_000):
        path = RUNS / (f"task{task}" if number == 1 else f"task{task}-{number}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            continue
    raise UserError(f"{RUNS}: 9999 runs of task {task}; name this one: RUN=runs/name.")


def check_free(wanted: str | None) -> None:
    """UserError if RUN names a folder that exists; asked before anything heavy is loaded."""
    if wanted is not None and Path(wanted).exists():
        raise UserError(f"RUN={wanted}: exists already. Choose another name, or remove it.")


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        names = [package] if package != "nvidia-dali" else ["nvidia-dali-cuda130", "nvidia-dali-cuda120"]
        for name in names:
            try:
                found[package] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
    return found


def commit() -> str:
    """The project's commit, with "+changes" if the code differs from it; "unknown" outside git."""
    here = Path(__file__).resolve().parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=here, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold an exclusive lock on a run's folder: one process at a time trains it. See `files.locked_folder`.

    Raises:
        UserError: another process holds it.
    """
    with locked_folder(run, f"RUN={run}: another process is training it. Wait for it, or stop it."):
        yield


def remove_if_empty(run: Path) -> bool:
    """Remove the folder of a run that came to no checkpoint; says whether it did."""
    if any((run / "checkpoints").glob("*")):
        return False
    shutil.rmtree(run)
    return True


def load_model(run: Path, model: nn.Module) -> str:
    """Load model.safetensors into `model`; returns its SHA-256.

    Raises:
        UserError: it is missing or does not fit.
    """
    path = run / "model.safetensors"
    try:
        with open_regular(path) as file:
            data = file.read()
        model.load_state_dict(load(data))
    except FileNotFoundError:
        raise UserError(f"{path}: missing. The run ended before its first epoch did.") from None
    except Exception as error:
        # safetensors and torch each raise their own kinds for a damaged or foreign file.
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path}: expected this run's weights ({reason}).") from error
    return hashlib.sha256(data).hexdigest()


def machine(device_name: str) -> dict[str, Any]:
    """What the numbers were computed on."""
    return {"device": device_name, "threads": torch.get_num_threads(), "system": platform.platform()}
