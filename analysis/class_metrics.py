"""Metrics per class: AP with a bootstrap interval, precision and recall, calibration.

In: labels and scores of one split. Out: arrays per class. Definitions are scikit-learn's. Only the bootstrap is coded
here, because 2,000 times 17 calls of `average_precision_score` would take minutes (this takes 2 s for 13,359 chips). A
class without positives has no AP: NaN.
"""

from dataclasses import dataclass

import numba
import numpy as np
import threadpoolctl

NUM_RESAMPLES = 2000
SEED = 0
INTERVAL = (2.5, 97.5)  # percentiles: 95 %
FEW_POSITIVES = 30  # with fewer, an interval says more about luck than about the model; such classes are grey
NUM_BINS = 10


def resample_counts(num_chips: int, num_resamples: int = NUM_RESAMPLES, seed: int = SEED) -> np.ndarray:
    """(resamples, chips) int16: how often each chip occurs when `num_chips` chips are drawn with replacement."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    counts = np.empty((num_resamples, num_chips), np.int16)
    for row in counts:
        row[:] = np.bincount(rng.integers(0, num_chips, num_chips), minlength=num_chips)
    return counts


def bootstrap_ap(labels: np.ndarray, logits: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """AP of every resample; all classes use the same resamples.

    One sort per class serves all resamples: a resample only changes the weights of the sorted chips.

    Args:
        labels: (N, classes) 0/1.
        logits: (N, classes).
        counts: (resamples, N), from `resample_counts`.

    Returns:
        (resamples, classes) float64; NaN where a resample holds no positive of the class.
    """
    scores = np.asarray(logits, np.float64)
    order = np.argsort(-scores, axis=0, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=0)
    ends = np.ones(ranked.shape, np.bool_)  # the last of equal scores: thresholds exist only there
    ends[:-1] = ranked[1:] != ranked[:-1]
    hits = np.take_along_axis(labels == 1, order, axis=0)
    order, hits, ends = (np.ascontiguousarray(array.T) for array in (order.astype(np.int32), hits, ends))
    # numba sets the number of OpenMP threads when it first starts them and never resets it. torch shares that library,
    # so a later training in this process would add in another order.
    threads = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    with threadpoolctl.threadpool_limits(limits=threads, user_api="openmp"):
        return np.asarray(_weighted_ap(order, hits, ends, counts))


@numba.njit(parallel=True)
def _weighted_ap(order: np.ndarray, hits: np.ndarray, ends: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """scikit-learn's weighted AP, sum of (R_k - R_k-1) P_k, for (classes, N) ranked rows and (resamples, N) weights."""
    num_classes, num_chips = order.shape
    result = np.empty((len(counts), num_classes))
    for resample in numba.prange(len(counts)):
        weights = counts[resample]
        for index in range(num_classes):
            seen, found, found_before, area = 0, 0, 0, 0.0
            for rank in range(num_chips):
                weight = weights[order[index, rank]]
                seen += weight
                if hits[index, rank]:
                    found += weight
                if ends[index, rank] and found > found_before:
                    area += (found - found_before) * (found / seen)
                    found_before = found
            result[resample, index] = area / found if found > 0 else np.nan
    return result


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) 95 % percentile interval along the first axis; resamples without a value are skipped."""
    columns = values.reshape(len(values), -1)
    bounds = np.full((2, columns.shape[1]), np.nan)
    for index in range(columns.shape[1]):
        present = columns[~np.isnan(columns[:, index]), index]
        if len(present):
            bounds[:, index] = np.percentile(present, INTERVAL)
    low, high = bounds.reshape(2, *values.shape[1:])
    return low, high


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
