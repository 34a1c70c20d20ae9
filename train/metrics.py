"""Multi-label scores from gathered logits, on the host, once an epoch. Definitions: scikit-learn's.

AP is ranked on logits in float64: float32 sigmoids tie at 1.0, and ties change it.
"""

import numpy as np
from scipy.special import expit
from sklearn.metrics import average_precision_score


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


def probabilities(logits: np.ndarray) -> np.ndarray:
    """float64 sigmoid. Not torch's: its last digit depends on where in an array a number stands."""
    return np.asarray(expit(np.asarray(logits, np.float64)))
