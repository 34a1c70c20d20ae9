"""Preloaded by a Dask worker: it kills itself (SIGKILL) at the point of a conversion that KILL_POINT names, once.

KILL_MARKER: a file that the worker makes just before.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from preprocess import shard_writer, targets


def _kill() -> None:
    try:
        os.close(os.open(os.environ["KILL_MARKER"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def _before(function: Callable[..., Any], applies: Callable[..., bool]) -> Callable[..., Any]:
    def replaced(*args: Any, **kwargs: Any) -> Any:
        if applies(*args):
            _kill()
        return function(*args, **kwargs)

    return replaced


def _after(function: Callable[..., Any], applies: Callable[..., bool]) -> Callable[..., Any]:
    def replaced(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if applies(*args):
            _kill()
        return result

    return replaced


def _is_shard(source: Path, target: Path) -> bool:
    return "tiles" in Path(target).parts


def _is_progress(source: Path, target: Path) -> bool:
    return Path(target).parent.name == "progress"


def _install(point: str) -> None:
    if point == "before the shard's index":
        shard_writer.encode_index = _before(shard_writer.encode_index, lambda *_: True)
    elif point == "before the shard's rename":
        os.replace = _before(os.replace, _is_shard)
    elif point == "after the shard's rename":
        os.replace = _after(os.replace, _is_shard)
    elif point == "before the progress file":
        targets.write_atomic = _before(targets.write_atomic, lambda *_: True)
    elif point == "before the rename of the progress file":
        os.replace = _before(os.replace, _is_progress)
    else:
        assert point == "after the rename of the progress file"
        os.replace = _after(os.replace, _is_progress)


def dask_setup(worker: object) -> None:
    del worker
    _install(os.environ["KILL_POINT"])
