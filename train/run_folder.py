"""runs/<name>/: the files of a run. Each is written beside its place and renamed into it. None is a pickle.

run.json           configuration, versions, commit, machine, store fingerprint, split, state
metrics.jsonl      one line per epoch
model.safetensors  the best epoch's weights
tensorboard/       the same as metrics.jsonl for `tensorboard --logdir runs`
checkpoints/       from which the run is resumed (`checkpoint_files`); removed when the run is done
results.npz        epoch, AP, mAP, labels, preds, fnames, trainlosses, testlosses, testperfs; and logits,
                   classes, and what the scores depend on, for `make reproduce`

Leaves the content of run.json, metrics.jsonl and results.npz to `contract`.
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
PACKAGES = ("canopy", "torch", "torchvision", "nvidia-dali", "zarr", "numcodecs", "numpy", "scikit-learn")


def new_run_folder(name: str | None, task: int) -> Path:
    """Make the folder of a new run: `name`, which must not exist, or the next free number of runs/task<N>.

    Raises:
        UserError: the folder exists, or cannot be made.
    """
    if name is not None:
        path = Path(name)
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            raise UserError(f"RUN={name}: exists already. Choose another name, or remove it.") from None
        except OSError as error:
            raise UserError(f"RUN={name}: the folder cannot be made ({error.strerror}).") from error
        return path
    for number in range(1, 10_000):
        path = RUNS / (f"task{task}" if number == 1 else f"task{task}-{number}")
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            continue
    raise UserError(f"{RUNS}: 9999 runs of task {task}; name this one: RUN=runs/name.")


def versions() -> dict[str, str]:
    """Versions of the packages that the numbers depend on."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        names = [package] if package != "nvidia-dali" else ["nvidia-dali-cuda130", "nvidia-dali-cuda120"]
        for name in names:
            try:
                installed[package] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
    return installed


def commit() -> str:
    """The commit of this code, with "+changes" if files differ from it; "unknown" outside git."""
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
    """Remove the folder of a run that has no checkpoint; returns whether it did."""
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
        # safetensors and torch raise many types for a damaged file or that of another network.
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path}: expected this run's weights ({reason}).") from error
    return hashlib.sha256(data).hexdigest()


def machine(device_name: str) -> dict[str, Any]:
    """The machine that computes the numbers."""
    return {"device": device_name, "threads": torch.get_num_threads(), "system": platform.platform()}
