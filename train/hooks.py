"""Functions that a training run calls at fixed points, for code that watches a run, stops it, or disturbs it in a test.

Out: `Hooks`, and `use_hooks`, which installs them for the runs that begin within its context. A run without hooks
calls functions that do nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from pipeline.loader import Batch

if TYPE_CHECKING:
    from train.loop import RunLoop

Phase = Literal["training", "evaluation", "checkpoint", "publish"]


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What is called when. All run in the thread and process of the run, one set per rank.

    on_epoch_start: before the steps of an epoch, also where an epoch is resumed.
    on_batch_start: with each micro-batch, before its forward pass.
    on_batch_end: with each micro-batch and its loss (on the device), before a checkpoint may be written.
    on_eval_batch: after each batch of an evaluation, with the split's name, before a checkpoint may be written.
    phase: a context around each phase. A checkpoint may be written within training and evaluation.
    """

    on_epoch_start: Callable[["RunLoop"], object] = lambda loop: None
    on_batch_start: Callable[["RunLoop", Batch], object] = lambda loop, batch: None
    on_batch_end: Callable[["RunLoop", Batch, torch.Tensor], object] = lambda loop, batch, loss: None
    on_eval_batch: Callable[["RunLoop", str], object] = lambda loop, split: None
    phase: Callable[[Phase], AbstractContextManager[None]] = lambda phase: nullcontext()


_active: ContextVar[Hooks] = ContextVar("hooks", default=Hooks())  # noqa: B039  # it is frozen


def active_hooks() -> Hooks:
    """The hooks of the innermost `use_hooks`."""
    return _active.get()


@contextmanager
def use_hooks(hooks: Hooks) -> Iterator[None]:
    """Within this context, runs that begin or resume call these hooks."""
    token = _active.set(hooks)
    try:
        yield
    finally:
        _active.reset(token)
