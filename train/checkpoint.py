"""runs/<name>/checkpoints/: everything a run needs to go on to the bit. safetensors with JSON inside, never a pickle.

e003-s00120-b002-<xxh3>.safetensors   after 120 steps of epoch 3 (counted from 1), best so far epoch 2; the name ends
                                      in the checksum of the file's bytes
best-002.safetensors                  the weights of epoch 2, as model.safetensors will have them

A file is written beside its place, synced, and renamed: a kill or a full disk leaves the ones before. The last two are
kept, and the best weights that they name. A broken one is noticed by its checksum and set aside as `.broken`, and the
one before is taken; so is one of another run, by the run's identity (`contract.record`). Broken best weights are taken
from model.safetensors where that is the same file. Leaves the values inside to `contract.checkpoint`.
"""

import dataclasses
import hashlib
import json
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load, save

from preprocess.console import UserError, say
from preprocess.files import FILE_FAULTS, open_regular, remove_temporary, write_atomic
from train.config import Config
from train.contract.checkpoint import CheckpointValues, StateValues, read_values
from train.contract.metrics import check_epochs, read_metrics
from train.contract.record import Record, check_settings
from train.run_state import EpochAccumulator, State
from train.step import Trainer

KEPT = 2
_NAME = re.compile(r"e(\d+)-s(\d+)-b(\d+)-([0-9a-f]{16})\.safetensors")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was read and found whole."""

    path: Path
    tensors: dict[str, torch.Tensor]
    values: CheckpointValues


def folder(run: Path) -> Path:
    """Where a run's checkpoints lie."""
    return run / "checkpoints"


def save_checkpoint(run: Path, trainer: Trainer, state: State, record: Record) -> Path:
    """Write where the run is. Waits for the device: a checkpoint is one of the few points that may.

    Raises:
        OSError: the disk is full, say; the checkpoints before are untouched.
    """
    accumulated = state.accumulated
    tensors = trainer.tensors()
    if accumulated.chips:
        tensors["unfinished.losses"] = torch.stack(accumulated.losses)
        tensors["unfinished.logits"] = torch.cat(accumulated.logits)
        tensors["unfinished.tiles"] = torch.from_numpy(np.concatenate(accumulated.chips))
    if state.best_logits is not None:
        tensors["best_logits"] = torch.from_numpy(state.best_logits)
    values = CheckpointValues(
        state=StateValues.of(state), seconds=accumulated.seconds, first_wait_s=accumulated.first_wait_s,
        trainer=trainer.values(), config=record.config, identity=record.identity,
    )  # fmt: skip
    host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = save(host, metadata={"values": values.text()})
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
    """The bytes of the best epoch's weights, from checkpoints/ or the run's own model.safetensors.

    Raises:
        UserError: neither is the file that the state names.
    """
    for path in (_best_path(run, state.best), run / "model.safetensors"):
        if (data := _intact(path, state.best_sha256)) is not None:
            return data
    raise UserError(f"{_best_path(run, state.best)}: missing or broken, and model.safetensors is another file.")


def mend_best(run: Path, state: State) -> None:
    """Write the best epoch's weights again where model.safetensors alone has them."""
    path = _best_path(run, state.best)
    if state.best >= 0 and _intact(path, state.best_sha256) is None:
        _write(path, best_weights(run, state))
        say(f"{path}: missing or broken; replaced by the identical model.safetensors.")


def _intact(path: Path, sha256: str) -> bytes | None:
    try:
        with open_regular(path) as file:
            data = file.read()
    except OSError as error:
        if error.errno not in FILE_FAULTS:
            raise
        return None
    return data if hashlib.sha256(data).hexdigest() == sha256 else None


def load_checkpoint(run: Path, config: Config, record: Record) -> Checkpoint:
    """The newest checkpoint that is whole and of this run; a line for each that is not.

    Raises:
        UserError: there is none, or it was made with other settings.
    """
    found = _files(run)
    for path in reversed(found):
        try:
            checkpoint = _read(run, path, record)
            check_settings(
                checkpoint.values.config, config,
                f"RUN={run}: its checkpoint was made with %s=%s, run.json says %s. Put it back.",
            )  # fmt: skip
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


def check_same_run(run: Path, record: Record, checkpoint: Checkpoint) -> None:
    """That a checkpoint of version 1, which names no run, holds the epochs of metrics.jsonl: their times are its own.

    Raises:
        UserError: it holds others. (A metrics.jsonl that cannot be read proves nothing, and is written again.)
    """
    if not checkpoint.values.state.lines:
        return
    try:
        history = read_metrics(run, record)
    except UserError as error:
        say(f"{error} It is written again from the checkpoint.")
        return
    lines = checkpoint.values.state.lines
    check_epochs(lines, record, checkpoint.path.name)
    both = min(len(lines), len(history))
    if lines[:both] != history[:both]:
        raise UserError(
            f"{checkpoint.path}: expected the epochs of metrics.jsonl, found others: one of the two was altered or "
            "is another run's. Remove metrics.jsonl to trust the checkpoint."
        )


def restore(checkpoint: Checkpoint, trainer: Trainer) -> State:
    """Put trainer and state back to where the checkpoint was taken."""
    tensors, values = checkpoint.tensors, checkpoint.values
    try:
        trainer.restore(tensors, values.trainer)
    except (RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        # torch raises its own kinds for weights and optimiser states of another network.
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{checkpoint.path}: expected the tensors of this run's network and optimiser ({reason})."
        ) from error
    state = values.state.restored()
    if "best_logits" in tensors:
        state.best_logits = tensors["best_logits"].numpy()
    if "unfinished.tiles" in tensors:
        device = trainer.device.device
        state.accumulated = EpochAccumulator(
            losses=list(tensors["unfinished.losses"].to(device)),
            logits=[tensors["unfinished.logits"].to(device)],
            chips=[tensors["unfinished.tiles"].numpy()],
        )
    state.accumulated.seconds, state.accumulated.first_wait_s = dict(values.seconds), values.first_wait_s
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
    """Remove what a killed write left in the run's folder and among its checkpoints."""
    for place in (run, folder(run)):
        remove_temporary(place)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, data, durable=True)


def _best_path(run: Path, epoch: int) -> Path:
    return folder(run) / f"best-{epoch + 1:03}.safetensors"


def _files(run: Path) -> list[Path]:
    """Checkpoints, oldest first."""
    matches = [(_NAME.fullmatch(path.name), path) for path in folder(run).glob("e*.safetensors")]
    return [path for _, _, path in sorted((int(m[1]), int(m[2]), path) for m, path in matches if m)]


def _read(run: Path, path: Path, record: Record) -> Checkpoint:
    """ValueError says what is wrong with it."""
    match = _NAME.fullmatch(path.name)
    assert match
    try:
        with open_regular(path) as file:
            data = file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno not in FILE_FAULTS:
            raise
        raise ValueError(f"broken ({error.strerror})") from error
    if xxhash.xxh3_64_hexdigest(data) != match[4]:
        raise ValueError("broken (its checksum is not the one in its name)")
    try:
        tensors = load(data)
        # The header is JSON behind its length in 8 bytes; safetensors' own reader of metadata wants a file.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        values = read_values(header["__metadata__"]["values"], path.name)
    except (SafetensorError, UserError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"broken ({' '.join(str(error).split())[:160]})") from error
    checkpoint = Checkpoint(path=path, tensors=tensors, values=values)
    if record.version > 1 and values.identity != record.identity:
        raise ValueError("of another run")
    _check_values(checkpoint, record, tuple(int(match[number]) for number in (1, 2, 3)))
    if values.state.best >= 0:
        try:
            best_weights(run, values.state.restored())
        except UserError as error:
            name = _best_path(run, values.state.best).name
            raise ValueError(f"its best weights ({name}) are missing or broken") from error
    return checkpoint


def _check_values(checkpoint: Checkpoint, record: Record, named: tuple[int, ...]) -> None:
    """ValueError if a checkpoint's values do not fit each other, its name and the run."""
    state, tensors = checkpoint.values.state, checkpoint.tensors
    if (state.epoch + 1, state.step, state.best + 1) != named or state.epoch > record.config.epochs:
        raise ValueError(f"broken (it is of epoch {state.epoch + 1}, step {state.step}, best {state.best + 1})")
    if len(state.lines) != state.epoch or state.best >= state.epoch or (state.epoch > 0) != (state.best >= 0):
        raise ValueError(f"broken ({len(state.lines)} finished epochs in epoch {state.epoch + 1})")
    try:
        check_epochs(state.lines, dataclasses.replace(record, version=1), "lines")
    except UserError as error:
        raise ValueError(f"broken ({error})") from error
    classes = len(record.classes)
    expected: dict[str, tuple[int, ...]] = {"best_logits": (record.split.test, classes)} if state.best >= 0 else {}
    if "unfinished.tiles" in tensors:
        count = len(tensors["unfinished.tiles"])
        expected |= {"unfinished.logits": (count, classes), "unfinished.tiles": (count,)}
        if tensors["unfinished.tiles"].dtype != torch.int64 or not _within(tensors["unfinished.tiles"], record):
            raise ValueError("broken (chips of the epoch under way)")
    for name, shape in expected.items():
        if name not in tensors or tuple(tensors[name].shape) != shape:
            raise ValueError(f"broken (expected {name} of shape {shape})")
    if ("unfinished.tiles" in tensors) != (state.step > 0):
        raise ValueError("broken (scores of the epoch under way)")
    if broken := [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise ValueError(f"broken ({broken[0]} is not finite)")


def _within(chips: torch.Tensor, record: Record) -> bool:
    return bool(((chips >= 0) & (chips < record.store.chips)).all())


def _prune(run: Path) -> None:
    files = _files(run)
    for path in files[:-KEPT]:
        path.unlink()
    named = {int(match[3]) for path in files[-KEPT:] if (match := _NAME.fullmatch(path.name))}
    for path in folder(run).glob("best-*.safetensors"):
        if int(path.stem.split("-")[1]) not in named:
            path.unlink()
