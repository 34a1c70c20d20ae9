"""Losses over (B, classes) logits: the mean over batch and classes as a float32 scalar, also under autocast."""

import numpy as np
import torch
from torch.nn import functional

# Ridnik et al. 2021, "Asymmetric Loss For Multi-Label Classification": their values.
GAMMA_POSITIVE, GAMMA_NEGATIVE, MARGIN = 1.0, 4.0, 0.05


def loss_function(
    name: str, logits: torch.Tensor, labels: torch.Tensor, *, positive_weight: torch.Tensor | None = None,
    smoothing: float = 0.0,
) -> torch.Tensor:  # fmt: skip
    """The loss of a batch.

    Args:
        name: "bce": binary cross-entropy with logits. "soft_margin": torch's multi-label soft margin loss (the same
            function, summed in another order). "asymmetric": easy negatives count less.
        logits: (B, classes).
        labels: (B, classes) float 0/1.
        positive_weight: (classes,) factor of the term of a positive label; None: 1.
        smoothing: s; labels 0 and 1 become s/2 and 1 - s/2.
    """
    logits = logits.float()
    if smoothing:
        labels = labels * (1 - smoothing) + smoothing / 2
    if name == "asymmetric":
        return _asymmetric(logits, labels, positive_weight)
    if name == "soft_margin" and positive_weight is None:
        return functional.multilabel_soft_margin_loss(logits, labels)
    return functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=positive_weight)


def _asymmetric(logits: torch.Tensor, labels: torch.Tensor, positive_weight: torch.Tensor | None) -> torch.Tensor:
    p = torch.sigmoid(logits)
    shifted = (p - MARGIN).clamp(min=0)  # a negative with a probability below the margin costs nothing
    positive = labels * (1 - p) ** GAMMA_POSITIVE * functional.logsigmoid(logits)
    negative = (1 - labels) * shifted**GAMMA_NEGATIVE * torch.log1p(-shifted)
    if positive_weight is not None:
        positive = positive * positive_weight
    return -(positive + negative).mean()


def positive_weights(labels: np.ndarray, balance: float) -> torch.Tensor | None:
    """(classes,) float32: (negatives / positives) ** balance of the training labels (0/1); None for balance 0.

    The weight is 1 for a class without positives or without negatives.
    """
    if not balance:
        return None
    positives = labels.sum(axis=0, dtype=np.float64)
    ratio = (len(labels) - positives) / np.maximum(positives, 1)
    weights = np.where((positives > 0) & (ratio > 0), ratio, 1.0) ** balance
    return torch.from_numpy(weights.astype(np.float32))
