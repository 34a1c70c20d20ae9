"""A model and a test loader -> logits on the host. The one way in which scores are made, in training and after."""

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

    cuDNN chooses by fixed rules here, not by timing: two processes then run the same kernels. `after_batch` is
    called after each batch.

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
    return torch.cat(logits).cpu().numpy()  # the one wait for the device: scores are needed on the host now
