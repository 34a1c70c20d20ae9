"""Mixup (Zhang et al. 2018): each training chip and its labels are blended with the chip before it in its micro-batch.

In: a batch on its device. Out: blended images and labels. A chip's share is a function of (seed, epoch, chip), so a
resumed run blends as an uninterrupted one does. Its partner is in the same micro-batch: another BATCH, ACCUMULATE or
number of processes gives other partners. Leaves the step to `step`.
"""

from dataclasses import replace

import numpy as np
import torch
from scipy.special import betaincinv

from pipeline.loader import Batch
from pipeline.order import words
from preprocess.zarr_store import Store
from train.config import Config


class Mixup:
    """Blends the batches of an epoch.

    Args:
        alpha: of the distribution Beta(alpha, alpha) of the shares.
        seed, epoch: the shares are a function of these and the chip.
        num_chips: of the store.
    """

    def __init__(self, alpha: float, *, seed: int, epoch: int, num_chips: int) -> None:
        self._alpha = alpha
        # The flips of `order` use the lowest three bits of this word; these are the highest 53.
        self._uniform = (words(seed, epoch, num_chips, 3) >> np.uint64(11)) * 2.0**-53

    def shares(self, chips: np.ndarray) -> np.ndarray:
        """(B,) float64: how much of each chip is in its blended image, .5 to 1. The rest is its partner's."""
        drawn = betaincinv(self._alpha, self._alpha, self._uniform[chips])
        return np.asarray(np.maximum(drawn, 1 - drawn))  # the distribution is symmetric

    def blend(self, batch: Batch) -> Batch:
        """The batch with blended images and labels. The first chip's partner is the last one."""
        images, labels = batch.images_nchw, batch.labels
        shares = torch.from_numpy(self.shares(batch.chips).astype(np.float32))
        if images.is_cuda:  # the host does not wait for this copy
            shares = shares.pin_memory().to(images.device, non_blocking=True)
        return replace(
            batch,
            images_nchw=torch.lerp(images.roll(1, 0), images, shares.to(images.dtype)[:, None, None, None]),
            labels=torch.lerp(labels.roll(1, 0), labels, shares[:, None]),
        )


def epoch_mixup(config: Config, epoch: int, store: Store) -> Mixup | None:
    """The mixup of an epoch; None for MIXUP=0."""
    if not config.mixup:
        return None
    return Mixup(config.mixup, seed=config.seed, epoch=epoch, num_chips=len(store.labels))
