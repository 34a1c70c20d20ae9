"""Losses, weights and scores that are not finite end the run with one line, before they are in a checkpoint.

Each check waits for the device, so it is called only where the host waits anyway.
"""

import numpy as np
import torch
from torch import nn

from preprocess.console import UserError
from preprocess.zarr_store import Store
from train.config import Config
from train.run_state import State


class NotFiniteError(UserError):
    """Training has diverged. Resuming would diverge again."""

    def __init__(self, state: State, config: Config, what: str) -> None:
        super().__init__(f"epoch {state.epoch + 1}: {what}. Train again with a smaller LR (now {config.lr}).")


def check_losses(state: State, config: Config, store: Store) -> None:
    """Check the losses of the epoch so far; the error names the chips of the first batch that is not finite."""
    losses = state.accumulated.losses
    finite = torch.isfinite(torch.stack(losses)).cpu() if losses else torch.ones(1)
    if not finite.all():
        chips = np.concatenate(state.accumulated.chips).reshape(len(losses), -1)[int(finite.int().argmin())]
        names = ", ".join(store.names[chips].tolist())
        raise NotFiniteError(state, config, f"the loss is not finite; the first such batch holds {names}")


def check_weights(state: State, config: Config, *nets: nn.Module) -> None:
    """Check the weights. The loss of a step is computed before its update, so it does not show the last update."""
    weights = [value for net in nets for value in net.state_dict().values() if value.is_floating_point()]
    if not torch.stack([torch.isfinite(value).all() for value in weights]).all():
        raise NotFiniteError(state, config, f"the weights are not finite after step {state.step}")


def check_scores(state: State, config: Config, split: str, logits: np.ndarray) -> None:
    """Check the (chips, classes) logits of a split."""
    if not np.isfinite(logits).all():
        raise NotFiniteError(state, config, f"scores of the {split} split are not finite")
