"""Scores of multi-label classification from gathered logits, on the host. The definitions are scikit-learn's.

Training, the run's files and the analysis use these functions; they need no torch.
"""

import numpy as np
from scipy.special import expit


def class_ap(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Average precision (AP) per class, over all rows.

    Chips are ranked by logits in float64. Sigmoids in float32 are equal near 1.0, and ties change AP.

    Args:
        labels: (N, classes) 0/1.
        logits: (N, classes), any score that grows with the probability.

    Returns:
        (classes,) float64; NaN for a class without a positive row, which has no AP.
    """
    from sklearn.metrics import average_precision_score  # here: reading a run's files needs no scikit-learn

    scores = np.asarray(logits, np.float64)
    ap = np.full(labels.shape[1], np.nan)
    for index in np.flatnonzero(labels.any(axis=0)):
        ap[index] = average_precision_score(labels[:, index], scores[:, index])
    return ap


def mean_ap(ap: np.ndarray) -> float:
    """mAP: mean over the classes that have an AP; NaN if none has."""
    present = ap[~np.isnan(ap)]
    return float(np.mean(present)) if len(present) else float("nan")


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Sigmoid in float64. The last digit of torch's sigmoid depends on where in an array a number is."""
    return np.asarray(expit(np.asarray(logits, np.float64)))
