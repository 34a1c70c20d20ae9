"""Fields of run.json: code, packages, machine, number format, and where a run was resumed."""

from dataclasses import dataclass
from typing import Annotated

from train.contract.fields import Count, Positive, Rule, one_of

Amp = Annotated[str, one_of("off", "float16", "bfloat16")]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine that computed the numbers."""

    device: str
    threads: Annotated[int, Rule("a whole number from 1 to 65536", lambda value: 1 <= value <= 65536)]
    system: str
    processes: Positive = 1


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """Code, packages and machine of a run; they may change when it is resumed."""

    commit: str
    versions: dict[str, str]
    machine: Machine


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """Where a run was resumed: epoch (from 1), the number of its steps that were done, commit of the code."""

    epoch: Positive
    step: Count
    commit: str
