"""Multi-label scores from gathered logits, on the host, once an epoch. Definitions: scikit-learn's.

AP is ranked on logits in float64: float32 sigmoids tie at 1.0, and ties change it.
"""

import numpy as np
import torch
from scipy.special import expit
from sklearn.metrics import average_precision_score
from torch.nn import functional


def class_ap(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """AP a class over all rows.

    Args:
        labels: (N, classes) 0/1.
        logits: (N, classes), any monotone score of the probability.

    Returns:
        (classes,) float64; NaN where a class has no positive and so no AP.
    """
    scores = np.asarray(logits, np.float64)
    ap = np.full(labels.shape[1], np.nan)
    for index in range(labels.shape[1]):
        if labels[:, index].any():
            ap[index] = average_precision_score(labels[:, index], scores[:, index])
    return ap


def mean_ap(ap: np.ndarray) -> float:
    """Mean over the classes that have an AP; NaN if none has."""
    present = ap[~np.isnan(ap)]
    return float(np.mean(present)) if len(present) else float("nan")


def loss_function(name: str, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Scalar float32 loss, mean over batch and classes, whatever autocast does around it.

    "bce": binary cross-entropy with logits. "soft_margin": torch's multi-label soft margin loss.
    """
    logits = logits.float()
    if name == "soft_margin":
        return functional.multilabel_soft_margin_loss(logits, labels)
    return functional.binary_cross_entropy_with_logits(logits, labels)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """float64 sigmoid. Not torch's: its last digit depends on where in an array a number stands."""
    return np.asarray(expit(np.asarray(logits, np.float64)))
