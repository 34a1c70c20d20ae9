"""Metrics per class: mAP, calibration, co-occurrence, false positives.

In: labels and scores of one split. Out: arrays per class. Leaves intervals to `bootstrap`.
"""

from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

FEW_POSITIVES = 30  # with fewer, an interval says more about luck than about the model; such classes are grey
NUM_BINS = 10


def mean_over_classes(ap: np.ndarray) -> np.ndarray:
    """mAP along the last axis, over the classes that have an AP; NaN if none has."""
    present = (~np.isnan(ap)).sum(axis=-1)
    total = np.nansum(ap, axis=-1)
    return np.asarray(np.divide(total, present, out=np.full(np.shape(total), np.nan), where=present > 0))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Calibration of one class. Arrays hold one value per bin of equal width; forecast and share of an empty bin are
    NaN.

    `reference` is the Brier score of always predicting the class's share of the split.
    """

    forecast: np.ndarray
    share: np.ndarray
    count: np.ndarray
    brier: float
    reference: float


def calibration(labels: np.ndarray, probabilities: np.ndarray) -> Calibration:
    """Reliability of one class's (N,) probabilities in 10 bins, and their Brier score."""
    bins = np.minimum((probabilities * NUM_BINS).astype(int), NUM_BINS - 1)
    count = np.bincount(bins, minlength=NUM_BINS)
    nothing = np.full(NUM_BINS, np.nan)
    sums = (np.bincount(bins, weights=values, minlength=NUM_BINS) for values in (probabilities, labels))
    forecast, share = (np.divide(total, count, out=nothing.copy(), where=count > 0) for total in sums)
    prevalence = float(labels.mean())
    return Calibration(
        forecast=forecast, share=share, count=count, brier=float(np.mean((probabilities - labels) ** 2)),
        reference=prevalence * (1 - prevalence),
    )  # fmt: skip


def calibrations(labels: np.ndarray, probabilities: np.ndarray) -> list[Calibration]:
    """`calibration` of each class."""
    return [calibration(labels[:, index], probabilities[:, index]) for index in range(labels.shape[1])]


def similar_first(shares: np.ndarray, which: np.ndarray) -> np.ndarray:
    """These classes in an order in which those that occur together are neighbours: the leaves of a clustering by
    `shares`, a matrix of `cooccurrence`. Always the same for the same labels."""
    if len(which) < 3:
        return which
    part = np.nan_to_num(shares[np.ix_(which, which)])
    distance = 1 - (part + part.T) / 2
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), "average", optimal_ordering=True)
    return np.asarray(which[leaves_list(tree)])


def cooccurrence(labels: np.ndarray) -> np.ndarray:
    """(classes, classes): share of the chips with the row's class that also have the column's; NaN without any."""
    wide = labels.astype(np.int64)
    both, single = wide.T @ wide, wide.sum(axis=0)[:, None]
    return np.asarray(np.divide(both, single, out=np.full(both.shape, np.nan), where=single > 0))


def false_alarms(labels: np.ndarray, decided: np.ndarray) -> np.ndarray:
    """(classes, classes) false positives by true class.

    Of the chips with the row's class but without the column's, the share that is predicted as the column's. The
    diagonal is the share of missed chips: they have the class but are not predicted so. NaN where no such chip exists.
    """
    has, lacks = labels.astype(np.int64), 1 - labels.astype(np.int64)
    wrong, chances = has.T @ (decided * lacks), has.T @ lacks
    np.fill_diagonal(wrong, (has * (1 - decided.astype(np.int64))).sum(axis=0))
    np.fill_diagonal(chances, has.sum(axis=0))
    return np.asarray(np.divide(wrong, chances, out=np.full(wrong.shape, np.nan), where=chances > 0))
