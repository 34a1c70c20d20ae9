"""The values that a checkpoint holds beside its tensors: JSON in the metadata of its safetensors file."""

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from train.config import Config
from train.contract.fields import Count, Rule, Sha256, decode, parse
from train.contract.metrics import EpochLine

if TYPE_CHECKING:
    from train.run_state import State


@dataclass(frozen=True, kw_only=True)
class StateValues:
    """`State` without its tensors. `lines` are the finished epochs, without digests.

    `best_value` is None before the first epoch ends, and where the best epoch has no mAP.
    """

    epoch: Count
    step: Count
    lines: tuple[EpochLine, ...]
    best: Annotated[int, Rule("-1 or more", lambda value: value >= -1)]
    best_value: float | None
    best_sha256: str

    @classmethod
    def of(cls, state: "State") -> "StateValues":
        """The values of a state."""
        return cls(
            epoch=state.epoch, step=state.step, lines=tuple(state.lines), best=state.best,
            best_value=state.best_value if math.isfinite(state.best_value) else None, best_sha256=state.best_sha256,
        )  # fmt: skip

    def restored(self) -> "State":
        """The state that a run continues from, still without its tensors."""
        from train.run_state import State  # it needs torch, which this package does not

        value = self.best_value
        return State(
            epoch=self.epoch, step=self.step, lines=list(self.lines), best=self.best,
            best_value=(math.nan if self.best >= 0 else -math.inf) if value is None else value,
            best_sha256=self.best_sha256,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainerValues:
    """The number of optimizer steps so far, and torch's own states of parameter groups, schedule and scaler."""

    updates: Count
    groups: tuple[dict[str, Any], ...]
    schedule: dict[str, Any]
    scaler: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class CheckpointValues:
    """All but the tensors. `seconds` and `first_wait_s` are of the epoch in progress. Version 1 has no `identity`."""

    state: StateValues
    seconds: dict[str, float]
    first_wait_s: float
    trainer: TrainerValues
    config: Config
    identity: Sha256 | None = None

    def text(self) -> str:
        """As JSON."""
        state = {field.name: getattr(self.state, field.name) for field in dataclasses.fields(self.state)}
        values = {
            "state": state | {"lines": [line.values() for line in self.state.lines]},
            "seconds": self.seconds,
            "first_wait_s": self.first_wait_s,
            "trainer": dataclasses.asdict(self.trainer),
            "config": self.config.model_dump(),
            "identity": self.identity,
        }
        return json.dumps(values)


def read_values(text: str, where: str) -> CheckpointValues:
    """The values of a checkpoint. (Version 1 wrote NaN, which JSON does not have, in the place of null.)

    Raises:
        UserError: a value is wrong; names it.
    """
    values: CheckpointValues = decode(CheckpointValues, parse(text, where, nan_as_null=True), where)
    return values
