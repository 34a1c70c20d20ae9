"""Tail accuracy (Task 2): precision among the chips scored above a threshold.

In: labels and probabilities. Out: one value per threshold and class, NaN where no chip is above the threshold. For
class c and threshold t: sum_i I[f_c(x_i) > t] I[y_ic = 1] / sum_i I[f_c(x_i) > t], strictly above.
"""

from dataclasses import dataclass

import numpy as np

NUM_THRESHOLDS = 20
# Shares of chips in the tail, for the view in which every class has a value; 0.05 of 13,359 chips are 667.
TAIL_SHARES = (0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002)


@dataclass(frozen=True, kw_only=True)
class Tail:
    """thresholds (T, classes) in probability; count (T, classes) of chips above; accuracy (T, classes), NaN if none."""

    thresholds: np.ndarray
    count: np.ndarray
    accuracy: np.ndarray

    @property
    def num_classes(self) -> np.ndarray:
        """(T,) number of classes that have a value and count in the mean."""
        return np.asarray((~np.isnan(self.accuracy)).sum(axis=1))

    @property
    def mean(self) -> np.ndarray:
        """(T,) mean over the classes that have a value; NaN if none has."""
        total = np.nansum(self.accuracy, axis=1)
        count = self.num_classes
        return np.asarray(np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0))


def tail_accuracy(labels: np.ndarray, probabilities: np.ndarray, thresholds: np.ndarray) -> Tail:
    """Tail accuracy.

    Args:
        labels: (N, classes) 0/1.
        probabilities: (N, classes).
        thresholds: (T, classes).
    """
    count, hits = (np.empty(thresholds.shape, np.int64) for _ in range(2))
    positive = labels == 1
    for row, threshold in enumerate(thresholds):  # one at a time: (N, classes) bool are 11 MB for 590,000 x 19
        above = probabilities > threshold
        count[row], hits[row] = above.sum(axis=0), (above & positive).sum(axis=0)
    accuracy = np.divide(hits, count, out=np.full(count.shape, np.nan), where=count > 0)
    return Tail(thresholds=thresholds, count=count, accuracy=accuracy)


def own_thresholds(probabilities: np.ndarray) -> np.ndarray:
    """(20, classes): from 0.5 to each class's highest score. A class with all scores below 0.5 has only empty tails."""
    top = np.maximum(probabilities.max(axis=0), 0.5)
    return np.linspace(np.full_like(top, 0.5), top, NUM_THRESHOLDS)


def common_thresholds(probabilities: np.ndarray) -> np.ndarray:
    """(20, classes): from 0.5 to the highest score of any class, equal for all classes, so that a mean makes sense."""
    top = max(float(probabilities.max()), 0.5)
    return np.repeat(np.linspace(0.5, top, NUM_THRESHOLDS)[:, None], probabilities.shape[1], axis=1)


def quantile_thresholds(probabilities: np.ndarray) -> np.ndarray:
    """(10, classes): quantiles of each class, so that `TAIL_SHARES` of the chips are above them (except for ties)."""
    return np.asarray(np.quantile(probabilities, 1 - np.array(TAIL_SHARES), axis=0, method="lower"))
