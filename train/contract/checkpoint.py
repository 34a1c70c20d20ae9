"""What a checkpoint says beside its tensors: JSON in the metadata of its safetensors file."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from train.config import Config
from train.contract.fields import Count, Rule, Sha256, decode, parse
from train.contract.metrics import with_nan

if TYPE_CHECKING:
    from train.run_state import State


@dataclass(frozen=True, kw_only=True)
class StateValues:
    """`State` without its tensors. `lines` are epochs as metrics.jsonl has them, without digests."""

    epoch: Count
    step: Count
    lines: tuple[dict[str, Any], ...]
    best: Annotated[int, Rule("-1 or more", lambda value: value >= -1)]
    best_value: float | None
    best_sha256: str

    def restored(self) -> "State":
        """The state that a run continues from, still without its tensors."""
        from train.run_state import State  # it needs torch, which this package does not

        value = self.best_value
        return State(
            epoch=self.epoch, step=self.step, lines=[with_nan(line) for line in self.lines], best=self.best,
            best_value=(math.nan if self.best >= 0 else -math.inf) if value is None else value,
            best_sha256=self.best_sha256,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainerValues:
    """Updates that were made, and torch's own states of the optimiser's groups, the schedule and the scaler."""

    updates: Count
    groups: tuple[dict[str, Any], ...]
    schedule: dict[str, Any]
    scaler: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class CheckpointValues:
    """All but the tensors. `identity` is None in version 1."""

    state: StateValues
    seconds: dict[str, float]
    first_wait_s: float
    trainer: TrainerValues
    config: Config
    identity: Sha256 | None = None


def read_values(text: str, where: str) -> CheckpointValues:
    """The values of a checkpoint. (Version 1 wrote NaN where JSON wants null.)

    Raises:
        UserError: one is odd; names it.
    """
    values: CheckpointValues = decode(CheckpointValues, parse(text, where, nan_as_null=True), where)
    return values
