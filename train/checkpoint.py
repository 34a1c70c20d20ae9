"""A checkpoint: all that a run needs to continue to the bit, in one safetensors file with JSON inside; no pickle.

In: a trainer and a state. Out: a file, and from a file the trainer and state as they were. A broken checkpoint is
noticed by its checksum and renamed to `.broken`, and the one before it is used. The same happens to a checkpoint of
another run, which is noticed by the run's identity (`contract.record`). Leaves names and places of the files to
`checkpoint_files`, and the JSON values to `contract.checkpoint`.
"""

import dataclasses
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load, save

from preprocess.console import UserError, say
from preprocess.files import FILE_FAULTS, open_regular
from train.checkpoint_files import NAME, best_path, best_weights, checkpoint_paths, folder, prune, write
from train.config import Config
from train.contract.checkpoint import CheckpointValues, StateValues, read_values
from train.contract.metrics import check_epochs, read_metrics
from train.contract.record import Record, check_settings
from train.run_state import EpochAccumulator, State
from train.step import Trainer


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was read and is whole."""

    path: Path
    tensors: dict[str, torch.Tensor]
    values: CheckpointValues


def save_checkpoint(run: Path, trainer: Trainer, state: State, record: Record) -> Path:
    """Write a checkpoint, and remove the oldest one. This waits for the device.

    Raises:
        OSError: the disk is full, for example; the earlier checkpoints are untouched.
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
    write(path, data)
    prune(run)
    return path


def load_checkpoint(run: Path, config: Config, record: Record) -> Checkpoint:
    """The newest checkpoint that is whole and of this run. A line names each one that is not.

    Raises:
        UserError: there is none, or it was made with other settings.
    """
    paths = checkpoint_paths(run)
    for path in reversed(paths):
        try:
            checkpoint = _read(run, path, record)
            check_settings(
                checkpoint.values.config, config,
                f"RUN={run}: its checkpoint was made with %s=%s, run.json says %s. Put it back.",
            )  # fmt: skip
            return checkpoint
        except FileNotFoundError:
            continue  # another rank has set it aside
        except ValueError as error:
            with suppress(FileNotFoundError):  # another rank was faster
                path.rename(path.with_suffix(".broken"))
            say(f"{path}: {error}; {'using the one before it' if path != paths[0] else 'there is none before it'}.")
    raise UserError(
        f"RESUME={run}: expected a checkpoint in {folder(run).name}/, found {'only broken ones' if paths else 'none'}. "
        "Train again under another name: RUN=runs/name."
    )


def check_same_run(run: Path, record: Record, checkpoint: Checkpoint) -> None:
    """Compare the epochs of a checkpoint of version 1, which names no run, with metrics.jsonl: their times are unique.

    Raises:
        UserError: they differ. (A metrics.jsonl that cannot be read proves nothing and is written again.)
    """
    epochs = checkpoint.values.state.lines
    if not epochs:
        return
    try:
        history = read_metrics(run, record)
    except UserError as error:
        say(f"{error} It is written again from the checkpoint.")
        return
    check_epochs(epochs, record, checkpoint.path.name)
    num_common = min(len(epochs), len(history))
    if epochs[:num_common] != history[:num_common]:
        raise UserError(
            f"{checkpoint.path}: expected the epochs of metrics.jsonl, found others: one of the two was altered or "
            "is another run's. Remove metrics.jsonl to trust the checkpoint."
        )


def restore(checkpoint: Checkpoint, trainer: Trainer) -> State:
    """Put the trainer back to where the checkpoint was taken, and return the state of that moment.

    Raises:
        UserError: the tensors are of another network or optimizer.
    """
    tensors, values = checkpoint.tensors, checkpoint.values
    try:
        trainer.restore(tensors, values.trainer)
    except (RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        # torch raises many types for the weights and optimizer states of another network.
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{checkpoint.path}: expected the tensors of this run's network and optimizer ({reason})."
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


def _read(run: Path, path: Path, record: Record) -> Checkpoint:
    """Read and check a checkpoint. ValueError says what is wrong with it."""
    match = NAME.fullmatch(path.name)
    assert match
    data = _read_bytes(path)
    if xxhash.xxh3_64_hexdigest(data) != match[4]:
        raise ValueError("broken (its checksum is not the one in its name)")
    try:
        tensors = load(data)
        # The header is JSON after its length in 8 bytes. safetensors reads metadata only from a file.
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        values = read_values(header["__metadata__"]["values"], path.name)
    except (SafetensorError, UserError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"broken ({' '.join(str(error).split())[:160]})") from error
    checkpoint = Checkpoint(path=path, tensors=tensors, values=values)
    if record.version > 1 and values.identity != record.identity:
        raise ValueError("of another run")
    _check_state(values.state, record, named=(int(match[1]), int(match[2]), int(match[3])))
    _check_tensors(checkpoint, record)
    if values.state.best >= 0:
        try:
            best_weights(run, values.state.restored())
        except UserError as error:
            name = best_path(run, values.state.best).name
            raise ValueError(f"its best weights ({name}) are missing or broken") from error
    return checkpoint


def _read_bytes(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno not in FILE_FAULTS:
            raise
        raise ValueError(f"broken ({error.strerror})") from error


def _check_state(state: StateValues, record: Record, named: tuple[int, int, int]) -> None:
    """ValueError if a checkpoint's state does not fit its name and the run. `named`: epoch, step, best, from 1."""
    if (state.epoch + 1, state.step, state.best + 1) != named or state.epoch > record.config.epochs:
        raise ValueError(f"broken (it is of epoch {state.epoch + 1}, step {state.step}, best {state.best + 1})")
    if len(state.lines) != state.epoch or state.best >= state.epoch or (state.epoch > 0) != (state.best >= 0):
        raise ValueError(f"broken ({len(state.lines)} finished epochs in epoch {state.epoch + 1})")
    try:
        check_epochs(state.lines, dataclasses.replace(record, version=1), "lines")
    except UserError as error:
        raise ValueError(f"broken ({error})") from error


def _check_tensors(checkpoint: Checkpoint, record: Record) -> None:
    """ValueError if a checkpoint's tensors do not fit its state and the run."""
    state, tensors = checkpoint.values.state, checkpoint.tensors
    classes = len(record.classes)
    expected: dict[str, tuple[int, ...]] = {"best_logits": (record.split.test, classes)} if state.best >= 0 else {}
    if "unfinished.tiles" in tensors:
        chips = tensors["unfinished.tiles"]
        expected |= {"unfinished.logits": (len(chips), classes), "unfinished.tiles": (len(chips),)}
        if chips.dtype != torch.int64 or not ((chips >= 0) & (chips < record.store.chips)).all():
            raise ValueError("broken (chips of the epoch in progress)")
    for name, shape in expected.items():
        if name not in tensors or tuple(tensors[name].shape) != shape:
            raise ValueError(f"broken (expected {name} of shape {shape})")
    if ("unfinished.tiles" in tensors) != (state.step > 0):
        raise ValueError("broken (scores of the epoch in progress)")
    if broken := [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise ValueError(f"broken ({broken[0]} is not finite)")
