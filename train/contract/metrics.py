"""metrics.jsonl: a line an epoch. Each carries a digest of itself and of the line before, the first of the run's
identity: any first lines of the file prove themselves, and no other run's line fits behind them.
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
    canonical,
    decode,
    odd,
    parse,
    read_bytes,
)
from train.contract.record import Record

SPLIT_NAMES = ("train", "val", "test")
_TOLERANCE = 1e-14  # of a mean or sum that was rounded in another order


@dataclass(frozen=True, kw_only=True)
class EpochLine:
    """One epoch. mAP and AP are None where no class, or the class, has a positive chip; `val_*` without a val split.

    `train_*` scores are of augmented chips, made while learning. `seconds` by kind; `gpu` is empty without NVML.
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
    gpu: dict[str, float] = field(default_factory=dict)  # runs that began before it was kept have none
    val_loss: float | None = None
    val_map: Share | None = None
    val_ap: dict[str, Share | None] | None = None
    test_loss: float
    test_map: Share | None
    test_ap: dict[str, Share | None]
    digest: Sha256 = ""

    @property
    def parts(self) -> tuple[str, ...]:
        """The splits that were scored."""
        return SPLIT_NAMES if self.val_loss is not None else ("train", "test")

    def loss(self, part: str) -> float:
        """Mean loss of "train", "val" or "test"; NaN where that was not scored."""
        return _number(getattr(self, f"{part}_loss"))

    def mean_ap(self, part: str) -> float:
        """mAP of a split; NaN where it has none."""
        return _number(getattr(self, f"{part}_map"))

    def ap(self, part: str, name: str) -> float:
        """AP of a class; NaN where it has no positive chip."""
        return _number((getattr(self, f"{part}_ap") or {}).get(name))

    def values(self) -> dict[str, Any]:
        """As JSON, without the digest and what was not scored."""
        found = dataclasses.asdict(self)
        skipped = {"digest"} | ({"val_loss", "val_map", "val_ap"} if self.val_loss is None else set())
        return {name: value for name, value in found.items() if name not in skipped}


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """NaN (a class without positive chips) as null: JSON has no NaN."""
    return {
        key: finite(value)
        if isinstance(value, dict)
        else (None if isinstance(value, float) and math.isnan(value) else value)
        for key, value in values.items()
    }


def with_nan(values: dict[str, Any]) -> dict[str, Any]:
    """The reverse of `finite`."""
    return {key: with_nan(value) if isinstance(value, dict) else (math.nan if value is None else value)
            for key, value in values.items()}  # fmt: skip


def digests(identity: str, lines: Sequence[dict[str, Any]]) -> list[str]:
    """The digest of each line, given without it, of the run with this identity."""
    chain, found = identity, []
    for line in lines:
        chain = hashlib.sha256(chain.encode() + canonical(line)).hexdigest()
        found.append(chain)
    return found


def write_metrics(run: Path, record: Record, lines: Sequence[dict[str, Any]]) -> None:
    """Write metrics.jsonl from the epochs' values, atomically."""
    values = [finite(line) for line in lines]
    chained = [line | {"digest": each} for line, each in zip(values, digests(record.identity, values), strict=True)]
    check_lines(chained, record, str(run / "metrics.jsonl"))
    write_atomic(run / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in chained).encode())


def read_metrics(run: Path, record: Record) -> tuple[EpochLine, ...]:
    """The epochs of a run whose run.json is `record`.

    Raises:
        UserError: there is none, a line is damaged or altered, or the file is another run's.
    """
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
        raise UserError(f"{path}: expected a line an epoch, found none. Train again.")
    return check_lines(lines, record, str(path))


def check_lines(lines: list[Any], record: Record, where: str) -> tuple[EpochLine, ...]:
    """The lines as epochs.

    Raises:
        UserError: one is odd or altered; names it.
    """
    found = []
    for number, line in enumerate(lines, 1):
        at = f"{where} line {number}"
        epoch: EpochLine = decode(EpochLine, line, at)
        if epoch.epoch != number:
            raise odd(at, "epoch", str(number), epoch.epoch)
        if epoch.epoch > record.config.epochs:
            raise odd(at, "epoch", f"at most {record.config.epochs}", epoch.epoch)
        if (epoch.val_loss is None) != (record.split.val == 0):
            raise UserError(f"{at}: expected val_loss {'' if record.split.val else 'not '}to be there.")
        for part in epoch.parts:
            _check_scores(epoch, part, record, at)
        if record.version == 1:
            _check_times(epoch, at)
        found.append(epoch)
    if record.version > 1:
        values = [{name: value for name, value in line.items() if name != "digest"} for line in lines]
        for number, (each, epoch) in enumerate(zip(digests(record.identity, values), found, strict=True), 1):
            if each != epoch.digest:
                raise UserError(
                    f"{where} line {number}: expected the digest of this line and those before, found another: it "
                    "changed since the run wrote it, or is another run's. Restore it from a copy, or train again."
                )
    return tuple(found)


def _check_times(epoch: EpochLine, at: str) -> None:
    """What a line without a digest can prove of its times: they are sums and quotients of each other."""
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


def _check_scores(epoch: EpochLine, part: str, record: Record, at: str) -> None:
    ap = getattr(epoch, f"{part}_ap")
    if ap is None or tuple(ap) != record.classes:
        raise UserError(f"{at}: expected {part}_ap of the classes {', '.join(record.classes)}, found others.")
    present = [value for value in ap.values() if value is not None]
    mean, saved = math.fsum(present) / len(present) if present else math.nan, epoch.mean_ap(part)
    if math.isnan(mean) != math.isnan(saved) or abs(mean - saved) > _TOLERANCE:
        raise UserError(f"{at}: expected {part}_map to be the mean of {part}_ap, found {saved}.")
