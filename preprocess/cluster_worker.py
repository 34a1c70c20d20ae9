"""What runs in a Dask worker: one attempt at one task, and a check that this worker makes the same bytes as others.

In: a function and a task. Out: an `Outcome`, never an exception, so that Dask neither retries nor logs.
"""

import errno
import functools
import hashlib
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from preprocess.addresses import location
from preprocess.console import UserError, machine_error
from preprocess.csv_rows import is_file
from preprocess.silence import silent
from preprocess.write import is_machine_fault

# By package of the function that workers run: the folders with its code and all that it imports, and the installed
# packages that decide its result.
_CODE = {"preprocess": ("preprocess",), "analysis": ("preprocess", "pipeline", "models", "train", "analysis")}
_PACKAGES: dict[str, tuple[str, ...]] = {
    "preprocess": ("numpy", "numba", "imagecodecs"),
    "analysis": (
        "numpy",
        "numba",
        "imagecodecs",
        "scipy",
        "torch",
        "torchvision",
        "nvidia-dali-cuda130",
        "nvidia-dali-cuda120",
    ),
}


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    kind: done, user (a mistake of the user), stop (no other task can succeed either), failed, or foreign (the worker is
        of another version: nothing was done).
    value: the result, a text, or the versions.
    """

    kind: str
    value: Any


def attempt(function: Callable[[Any], Any], task: Any, versions: dict[str, str]) -> Outcome:
    """Run a task, if this worker has the expected versions."""
    own = own_versions(package_of(function))
    if own != versions:
        return Outcome("foreign", {**own, "address": worker_address()})
    try:
        with silent():  # what is said here would appear in the midst of the command's own lines, or in no terminal
            return Outcome("done", function(task))
    except UserError as error:
        return Outcome("failed" if is_machine_fault(error) else "user", str(error))
    except Exception as error:
        text = machine_error(error) if isinstance(error, OSError | MemoryError) else None
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        return Outcome("stop" if full else "failed", text or f"{type(error).__name__}: {error}")


def worker_address() -> str:
    """The address of this worker."""
    from distributed import get_worker

    return str(get_worker().address)


def local_rank() -> int:
    """The number of this worker among those of CLUSTER=local, from 0."""
    from distributed import get_worker

    return int(get_worker().name)


def probe(path: str, package: str) -> tuple[dict[str, str], bool]:
    """(versions of this worker, whether it sees a file)."""
    return own_versions(package), is_file(location(path))


def package_of(function: Callable[[Any], Any]) -> str:
    """The package of canopy whose code a task runs."""
    package = function.__module__.partition(".")[0]
    return package if package in _CODE else "preprocess"


@functools.cache
def own_versions(package: str = "preprocess") -> dict[str, str]:
    """What must be equal on all hosts: versions, canopy's code, and the bytes of one encoded chip. `package`: of the
    function that runs."""
    code = hashlib.sha256()
    for folder in _CODE[package]:
        for path in sorted((Path(__file__).parents[1] / folder).glob("*.py")):
            code.update(path.read_bytes())
    return {
        "canopy": code.hexdigest()[:12], "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES[package]}, "encoded test chip": _encoded_chip()[:12],
    }  # fmt: skip


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _encoded_chip() -> str:
    """SHA-256 of a chip with runs, ramps and noise, encoded with CODEC=lz4."""
    import numpy as np

    from preprocess.layout import plan_layout
    from preprocess.shard_writer import Encoder

    y, x = np.indices((64, 64), np.uint16)
    noise = (np.arange(64 * 64, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(52)).reshape(64, 64)
    chip = np.stack([y // 16 * 1000, x * 7 + y, noise.astype(np.uint16)])
    layout = plan_layout(bands=("a", "b", "c"), height=64, width=64, dtype="uint16", codec="lz4")
    data, sizes, crcs = Encoder(layout).encode(chip)
    return hashlib.sha256(bytes(data) + sizes.tobytes() + crcs).hexdigest()
