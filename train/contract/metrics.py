"""metrics.jsonl: one line per epoch. Each line holds a digest of itself and of the digest before it.

The chain of digests begins with the run's identity. So the first lines of a file that was cut are still proved to be
whole, and a line of another run is noticed.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from preprocess.console import UserError
from preprocess.files import write_atomic
from train.contract.fields import (
    NonNegative,
    Positive,
    Sha256,
    Share,
    bad_field,
    canonical,
    decode,
    parse,
    read_bytes,
)
from train.contract.record import Record

SPLIT_NAMES = ("train", "val", "test")
_TOLERANCE = 1e-14  # of a mean or sum that was rounded in another order


@dataclass(frozen=True, kw_only=True)
class EpochLine:
    """One epoch, counted from 1.

    An AP is None where its class has no positive chip, mAP where no class has one. `val_*` are None without a val
    split. `train_*` are the scores that the training steps made, on augmented chips. `seconds` are per kind of work;
    `gpu` is empty where NVML tells nothing.
    """

    epoch: Positive
    lr: NonNegative
    train_loss: float
    train_map: Share | None
    train_ap: dict[str, Share | None]
    chips_per_s: NonNegative
    wait_share: float
    train_s: NonNegative
    seconds: dict[str, float]
    first_wait_s: float
    gpu: dict[str, float] = field(default_factory=dict)  # early runs have none
    val_loss: float | None = None
    val_map: Share | None = None
    val_ap: dict[str, Share | None] | None = None
    test_loss: float
    test_map: Share | None
    test_ap: dict[str, Share | None]
    digest: Sha256 = ""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that were scored."""
        return SPLIT_NAMES if self.val_loss is not None else ("train", "test")

    def loss(self, split: str) -> float:
        """Mean loss of "train", "val" or "test"; NaN if that split was not scored."""
        return _nan_if_none(getattr(self, f"{split}_loss"))

    def mean_ap(self, split: str) -> float:
        """mAP of a split; NaN if it has none."""
        return _nan_if_none(getattr(self, f"{split}_map"))

    def ap(self, split: str, name: str) -> float:
        """AP of a class; NaN for a class without a positive chip."""
        return _nan_if_none((getattr(self, f"{split}_ap") or {}).get(name))

    def values(self) -> dict[str, Any]:
        """JSON values, without the digest and without a val split that does not exist."""
        skipped = {"digest"} | ({"val_loss", "val_map", "val_ap"} if self.val_loss is None else set())
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in skipped}


def split_fields(split: str, *, loss: float, mean_ap: float, ap: dict[str, float]) -> dict[str, Any]:
    """The fields of `EpochLine` for one split. AP and mAP are NaN where there is none."""
    return {
        f"{split}_loss": loss,
        f"{split}_map": _none_if_nan(mean_ap),
        f"{split}_ap": {name: _none_if_nan(value) for name, value in ap.items()},
    }


def _nan_if_none(value: float | None) -> float:
    return math.nan if value is None else value


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value  # JSON has no NaN


def digests(identity: str, lines: Sequence[dict[str, Any]]) -> list[str]:
    """The digest of each line of the run with this identity. The lines are JSON values without digests."""
    chain, result = identity, []
    for line in lines:
        chain = hashlib.sha256(chain.encode() + canonical(line)).hexdigest()
        result.append(chain)
    return result


def write_metrics(run: Path, record: Record, lines: Sequence[EpochLine]) -> None:
    """Write metrics.jsonl atomically."""
    values = [line.values() for line in lines]
    chained = [line | {"digest": each} for line, each in zip(values, digests(record.identity, values), strict=True)]
    _read_lines(chained, record, str(run / "metrics.jsonl"))
    write_atomic(run / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in chained).encode())


def read_metrics(run: Path, record: Record) -> tuple[EpochLine, ...]:
    """The epochs of a run whose run.json is `record`; an evaluation has none.

    Raises:
        UserError: the file is missing or another run's, or a line is damaged or altered.
    """
    if record.evaluation:
        return ()
    path = run / "metrics.jsonl"
    try:
        text = read_bytes(path).decode()
    except FileNotFoundError:
        raise UserError(f"RUN={run}: expected a run with a finished epoch, found no metrics.jsonl.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read, expected UTF-8 ({error}).") from error
    lines = [parse(line, f"{path} line {number}") for number, line in enumerate(text.split("\n")[:-1], 1)]
    if not text.endswith("\n") and text:
        raise UserError(f"{path}: expected a newline at its end, found none: it was cut. Restore it from a copy.")
    if not lines:
        raise UserError(f"{path}: expected one line per epoch, found none. Train again.")
    return _read_lines(lines, record, str(path))


def _read_lines(lines: list[Any], record: Record, where: str) -> tuple[EpochLine, ...]:
    epochs = [decode(EpochLine, line, f"{where} line {number}") for number, line in enumerate(lines, 1)]
    check_epochs(epochs, record, where)
    if record.version == 1:
        return tuple(epochs)
    values = [{name: value for name, value in line.items() if name != "digest"} for line in lines]
    for number, (each, epoch) in enumerate(zip(digests(record.identity, values), epochs, strict=True), 1):
        if each != epoch.digest:
            raise UserError(
                f"{where} line {number}: expected the digest of this line and of those before it, found another one. "
                "The line changed since the run wrote it, or it is another run's. Restore it from a copy, or train "
                "again."
            )
    return tuple(epochs)


def check_epochs(epochs: Sequence[EpochLine], record: Record, where: str) -> None:
    """UserError if epochs are not those of the run with this record; names the line."""
    for number, epoch in enumerate(epochs, 1):
        at = f"{where} line {number}"
        if epoch.epoch != number:
            raise bad_field(at, "epoch", str(number), epoch.epoch)
        if epoch.epoch > record.config.epochs:
            raise bad_field(at, "epoch", f"at most {record.config.epochs}", epoch.epoch)
        if (epoch.val_loss is None) != (record.split.val == 0):
            raise UserError(f"{at}: expected val_loss {'' if record.split.val else 'not '}to be there.")
        for split in epoch.splits:
            _check_scores(epoch, split, record, at)
        if record.version == 1:
            _check_times(epoch, at)


def _check_times(epoch: EpochLine, at: str) -> None:
    """Check the times of a line without a digest. They are sums and quotients of each other."""
    if not {"wait", "copy", "step"} <= epoch.seconds.keys() or not epoch.train_s:
        return
    chips = epoch.chips_per_s * epoch.train_s
    for name, expected, found in (
        ("train_s", sum(epoch.seconds[kind] for kind in ("wait", "copy", "step")), epoch.train_s),
        ("wait_share", epoch.seconds["wait"] / epoch.train_s, epoch.wait_share),
        ("chips_per_s", round(chips) / epoch.train_s, epoch.chips_per_s),
    ):
        if abs(expected - found) > _TOLERANCE * max(1.0, abs(expected)):
            raise UserError(f"{at}: expected {name} to be {expected:g} by the other fields, found {found:g}.")


def _check_scores(epoch: EpochLine, split: str, record: Record, at: str) -> None:
    ap = getattr(epoch, f"{split}_ap")
    if ap is None or tuple(ap) != record.classes:
        raise UserError(f"{at}: expected {split}_ap of the classes {', '.join(record.classes)}, found others.")
    present = [value for value in ap.values() if value is not None]
    mean, saved = math.fsum(present) / len(present) if present else math.nan, epoch.mean_ap(split)
    if math.isnan(mean) != math.isnan(saved) or abs(mean - saved) > _TOLERANCE:
        raise UserError(f"{at}: expected {split}_map to be the mean of {split}_ap, found {saved}.")
