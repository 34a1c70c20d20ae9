"""runs/<name>/checkpoints/: everything a run needs to go on to the bit. safetensors with JSON inside, never a pickle.

e003-s00120-b002-<xxh3>.safetensors   after 120 steps of epoch 3 (counted from 1), best so far epoch 2; the name ends
                                      in the checksum of the file's bytes
best-002.safetensors                  the weights of epoch 2, as model.safetensors will have them

A file is written beside its place, synced, and renamed: a kill or a full disk leaves the ones before. The last two are
kept, and the best weights that they name. A broken one is noticed by its checksum and set aside as `.broken`, and the
one before is taken.
"""

import hashlib
import json
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from safetensors.torch import load, save

from preprocess.console import UserError, say
from preprocess.files import write_atomic
from train.config import WHERE, Config
from train.state import State, Unfinished
from train.step import Trainer

KEPT = 2
_NAME = re.compile(r"e(\d+)-s(\d+)-b(\d+)-([0-9a-f]{16})\.safetensors")
_LEFT = re.compile(r"\..+\.\d+")
_FIELDS = ("epoch", "step", "lines", "best", "best_value", "best_sha256")  # of State, as JSON


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was read and found whole."""

    path: Path
    tensors: dict[str, torch.Tensor]
    values: dict[str, Any]


def folder(run: Path) -> Path:
    """Where a run's checkpoints lie."""
    return run / "checkpoints"


def save_checkpoint(run: Path, trainer: Trainer, state: State, config: dict[str, Any]) -> Path:
    """Write where the run is. Waits for the device: a checkpoint is one of the few points that may.

    Raises:
        OSError: the disk is full, say; the checkpoints before are untouched.
    """
    unfinished = state.unfinished
    tensors = trainer.tensors()
    if unfinished.tiles:
        tensors["unfinished.losses"] = torch.stack(unfinished.losses)
        tensors["unfinished.logits"] = torch.cat(unfinished.logits)
        tensors["unfinished.tiles"] = torch.from_numpy(np.concatenate(unfinished.tiles))
    if state.best_logits is not None:
        tensors["best_logits"] = torch.from_numpy(state.best_logits)
    values = {
        "state": {name: getattr(state, name) for name in _FIELDS},
        "seconds": unfinished.seconds,
        "first_wait_s": unfinished.first_wait_s,
        "trainer": trainer.values(),
        "config": config,
    }
    host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = save(host, metadata={"values": json.dumps(values)})
    checksum = xxhash.xxh3_64_hexdigest(data)
    path = folder(run) / f"e{state.epoch + 1:03}-s{state.step:05}-b{state.best + 1:03}-{checksum}.safetensors"
    _write(path, data)
    _prune(run)
    return path


def save_best(run: Path, model: torch.nn.Module, epoch: int, metadata: dict[str, str]) -> str:
    """Keep the weights of the epoch (index) that is the best so far; returns the SHA-256 of the file.

    `metadata` says what network they are of: `weights.model_metadata`.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    data = save(state, metadata=metadata)
    _write(_best_path(run, epoch), data)
    return hashlib.sha256(data).hexdigest()


def best_weights(run: Path, state: State) -> bytes:
    """The bytes of the best epoch's weights; empty if they are missing or not what the state says."""
    try:
        data = _best_path(run, state.best).read_bytes()
    except OSError:
        return b""
    return data if hashlib.sha256(data).hexdigest() == state.best_sha256 else b""


def load_checkpoint(run: Path, config: Config) -> Checkpoint:
    """The newest checkpoint that is whole; a line for each that is not.

    Raises:
        UserError: there is none, or it was made with other settings.
    """
    found = _files(run)
    for path in reversed(found):
        try:
            checkpoint = _read(run, path)
            _check_settings(run, checkpoint.values["config"], config)
            return checkpoint
        except FileNotFoundError:
            continue  # another rank found it broken, and has set it aside
        except ValueError as error:
            with suppress(FileNotFoundError):  # another rank did it
                path.rename(path.with_suffix(".broken"))
            before = "taking the one before" if path != found[0] else "and there is none before"
            say(f"{path}: {error}; {before}.")
    raise UserError(
        f"RESUME={run}: expected a checkpoint in {folder(run).name}/, found {'only broken ones' if found else 'none'}. "
        "Train again under another name: RUN=runs/name."
    )


def restore(checkpoint: Checkpoint, trainer: Trainer) -> State:
    """Put trainer and state back to where the checkpoint was taken."""
    trainer.restore(checkpoint.tensors, checkpoint.values["trainer"])
    tensors, values = checkpoint.tensors, checkpoint.values
    state = State(**values["state"])
    if "best_logits" in tensors:
        state.best_logits = tensors["best_logits"].numpy()
    if "unfinished.tiles" in tensors:
        device = trainer.device.device
        state.unfinished = Unfinished(
            losses=list(tensors["unfinished.losses"].to(device)),
            logits=[tensors["unfinished.logits"].to(device)],
            tiles=[tensors["unfinished.tiles"].numpy()],
        )
    state.unfinished.seconds, state.unfinished.first_wait_s = values["seconds"], values["first_wait_s"]
    return state


def last_good(run: Path) -> str:
    """What is left when a checkpoint could not be written, and what to do."""
    files = _files(run)
    kept = f"the last good one is {files[-1].name}. Free some space, then" if files else "there is none yet:"
    return f"{kept} make train {f'RESUME={run}' if files else 'again'}."


def remove_checkpoints(run: Path) -> None:
    """A run that is done needs none."""
    shutil.rmtree(folder(run))


def sweep(run: Path) -> None:
    """Remove what a killed write left beside its place: `.NAME.PID`."""
    for place in (run, folder(run)):
        for path in place.glob(".*"):
            if _LEFT.fullmatch(path.name):
                path.unlink()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, data, durable=True)


def _check_settings(run: Path, made_with: dict[str, Any], config: Config) -> None:
    for name, value in made_with.items():
        now = getattr(config, name, None)
        if name not in WHERE and now != value:
            raise UserError(
                f"RUN={run}: run.json says {name.upper()}={now}, its checkpoint was made with {value}. Put it back."
            )


def _best_path(run: Path, epoch: int) -> Path:
    return folder(run) / f"best-{epoch + 1:03}.safetensors"


def _files(run: Path) -> list[Path]:
    """Checkpoints, oldest first."""
    matches = [(_NAME.fullmatch(path.name), path) for path in folder(run).glob("e*.safetensors")]
    return [path for _, _, path in sorted((int(m[1]), int(m[2]), path) for m, path in matches if m)]


def _read(run: Path, path: Path) -> Checkpoint:
    """ValueError says what is wrong with it."""
    match = _NAME.fullmatch(path.name)
    assert match
    data = path.read_bytes()
    if xxhash.xxh3_64_hexdigest(data) != match[4]:
        raise ValueError("broken (its checksum is not the one in its name)")
    # The header is JSON behind its length in 8 bytes; safetensors' own reader of metadata wants a file.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    values = json.loads(header["__metadata__"]["values"])
    checkpoint = Checkpoint(path=path, tensors=load(data), values=values)
    state = State(**values["state"])
    if state.best >= 0 and not best_weights(run, state):
        raise ValueError(f"its best weights ({_best_path(run, state.best).name}) are missing or broken")
    return checkpoint


def _prune(run: Path) -> None:
    files = _files(run)
    for path in files[:-KEPT]:
        path.unlink()
    named = {int(match[3]) for path in files[-KEPT:] if (match := _NAME.fullmatch(path.name))}
    for path in folder(run).glob("best-*.safetensors"):
        if int(path.stem.split("-")[1]) not in named:
            path.unlink()
