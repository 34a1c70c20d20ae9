"""runs/<name>/checkpoints/: names of the files, which of them are kept, and the weights of the best epoch.

e003-s00120-b002-<xxh3>.safetensors   after 120 steps of epoch 3 (counted from 1), best epoch so far 2; the name ends
                                      in the checksum of the file's bytes
best-002.safetensors                  the weights of epoch 2, as model.safetensors will have them

A file is written beside its place, synced, and renamed into it, so a kill or a full disk leaves the earlier files
whole. The last two checkpoints are kept, and the best weights that they name. If broken best weights are the same file
as model.safetensors, they are replaced by it. Leaves the content of checkpoints to `checkpoint`.
"""

import hashlib
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import save

from preprocess.console import UserError, say
from preprocess.files import FILE_FAULTS, open_regular, remove_temporary, write_atomic
from train.run_state import State

NUM_KEPT = 2
NAME = re.compile(r"e(\d+)-s(\d+)-b(\d+)-([0-9a-f]{16})\.safetensors")


def folder(run: Path) -> Path:
    """The folder of a run's checkpoints."""
    return run / "checkpoints"


def checkpoint_paths(run: Path) -> list[Path]:
    """The checkpoints, oldest first."""
    matches = [(NAME.fullmatch(path.name), path) for path in folder(run).glob("e*.safetensors")]
    return [path for _, _, path in sorted((int(m[1]), int(m[2]), path) for m, path in matches if m)]


def write(path: Path, data: bytes) -> None:
    """Write a file of the folder, and wait until it is on the disk.

    Raises:
        OSError: the disk is full, for example.
    """
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, data, durable=True)


def prune(run: Path) -> None:
    """Remove all but the last checkpoints, and the best weights that these do not name."""
    paths = checkpoint_paths(run)
    for path in paths[:-NUM_KEPT]:
        path.unlink()
    named = {int(match[3]) for path in paths[-NUM_KEPT:] if (match := NAME.fullmatch(path.name))}
    for path in folder(run).glob("best-*.safetensors"):
        if int(path.stem.split("-")[1]) not in named:
            path.unlink()


def sweep(run: Path) -> None:
    """Remove what a killed write left in the run's folder and among its checkpoints."""
    for place in (run, folder(run)):
        remove_temporary(place)


def remove_checkpoints(run: Path) -> None:
    """Remove the checkpoints of a run that is done."""
    shutil.rmtree(folder(run))


def last_good(run: Path) -> str:
    """What is left after a checkpoint could not be written, and what to do."""
    paths = checkpoint_paths(run)
    if not paths:
        return "there is no earlier one: make train again."
    return f"the last good one is {paths[-1].name}. Free some space, then make train RESUME={run}."


def best_path(run: Path, epoch: int) -> Path:
    """The file with the weights of an epoch (index)."""
    return folder(run) / f"best-{epoch + 1:03}.safetensors"


def save_best(run: Path, model: torch.nn.Module, epoch: int, metadata: dict[str, str]) -> str:
    """Write the weights of the epoch (index) that is the best so far.

    Args:
        metadata: describes the network: `initial_weights.model_metadata`.

    Returns:
        The SHA-256 of the file.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    data = save(state, metadata=metadata)
    write(best_path(run, epoch), data)
    return hashlib.sha256(data).hexdigest()


def best_weights(run: Path, state: State) -> bytes:
    """The bytes of the best epoch's weights, from checkpoints/ or from the run's model.safetensors.

    Raises:
        UserError: neither is the file that the state names.
    """
    path = best_path(run, state.best)
    for candidate in (path, run / "model.safetensors"):
        if (data := _intact(candidate, state.best_sha256)) is not None:
            return data
    raise UserError(f"{path}: missing or broken, and model.safetensors is another file.")


def mend_best(run: Path, state: State) -> None:
    """Write the best epoch's weights again if only model.safetensors has them."""
    path = best_path(run, state.best)
    if state.best >= 0 and _intact(path, state.best_sha256) is None:
        write(path, best_weights(run, state))
        say(f"{path}: missing or broken; replaced by the identical model.safetensors.")


def _intact(path: Path, sha256: str) -> bytes | None:
    """The file's bytes; None if it is missing, damaged or another file."""
    try:
        with open_regular(path) as file:
            data = file.read()
    except OSError as error:
        if error.errno not in FILE_FAULTS:
            raise
        return None
    return data if hashlib.sha256(data).hexdigest() == sha256 else None
