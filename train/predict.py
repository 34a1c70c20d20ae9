"""A model and an eval loader -> logits on the host. All scores are made here, in training and in analysis."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from pipeline.loader import ChipLoader
from preprocess.console import Progress
from train.device import Device
from train.step import eval_step


def predict(
    model: nn.Module, loader: ChipLoader, device: Device, *, label: str, num_chips: int,
    after_batch: Callable[[], None] = lambda: None,
) -> np.ndarray:  # fmt: skip
    """Scores of every chip once, in the loader's order.

    cuDNN chooses kernels by fixed rules here, not by timing, so that two processes run the same kernels. `after_batch`
    is called after each batch.

    Returns:
        (chips, classes) float32 logits.
    """
    model.eval()
    logits: list[torch.Tensor] = []
    fixed = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=torch.backends.cudnn.allow_tf32
    )
    with fixed, Progress(label, total=num_chips, unit="chips") as progress:
        for batch in loader.epoch(0):
            logits.append(eval_step(model, device, batch.images_nchw)[: batch.num_valid])
            progress.update(batch.num_valid)
            after_batch()
    return torch.cat(logits).cpu().numpy()  # the only wait for the device
