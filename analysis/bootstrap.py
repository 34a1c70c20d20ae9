"""Bootstrap: AP of every class, and shares such as the accuracy, on resamples of the test chips; intervals from them.

In: labels and scores of one split. Out: (resamples, classes) AP. Its definition is scikit-learn's; it is coded here
because 2,000 times 17 calls of `average_precision_score` would take minutes. Resamples are drawn in blocks, so that
memory does not grow with their number. A class without positives has no AP: NaN.
"""

from collections.abc import Iterator

import numba
import numpy as np
import threadpoolctl

from preprocess.console import Progress

NUM_RESAMPLES = 2000
SEED = 0
INTERVAL = (2.5, 97.5)  # percentiles: 95 %
LANES = 16  # resamples side by side: a chip's counts in 16 resamples are one read, and one vector of the CPU
BLOCK_BYTES = 2**25  # of counts at once


def count_blocks(num_chips: int, num_resamples: int = NUM_RESAMPLES, seed: int = SEED) -> Iterator[np.ndarray]:
    """How often each chip occurs when `num_chips` chips are drawn with replacement.

    Yields:
        (groups, chips, LANES) uint8. Resample r of a block is [r // LANES, :, r % LANES]. Lanes behind the last
        resample are 0. The blocks' size changes no count.
    """
    rng = np.random.Generator(np.random.Philox(key=seed))
    num_groups = -(-num_resamples // LANES)
    groups = min(num_groups, max(1, BLOCK_BYTES // (num_chips * LANES)))
    for first in range(0, num_groups, groups):
        counts = np.zeros((min(groups, num_groups - first), num_chips, LANES), np.uint8)
        for resample in range(first * LANES, min(num_resamples, (first + len(counts)) * LANES)):
            group, lane = divmod(resample - first * LANES, LANES)
            # A chip that is drawn more than 255 times has a probability below 1e-500.
            _count(rng.integers(0, num_chips, num_chips), counts[group], lane)
        yield counts


@numba.njit(nogil=True)
def _count(drawn: np.ndarray, counts: np.ndarray, lane: int) -> None:
    for chip in drawn:
        counts[chip, lane] += 1


def bootstrap_ap(
    labels: np.ndarray, logits: np.ndarray, *, num_resamples: int = NUM_RESAMPLES, seed: int = SEED
) -> np.ndarray:
    """AP of every resample; all classes, and all runs with these chips, use the same resamples.

    One sort per class serves all resamples: a resample only changes the weights of the sorted chips.

    Args:
        labels: (N, classes) 0/1.
        logits: (N, classes).
        num_resamples: rows of the result.
        seed: of the resamples.

    Returns:
        (resamples, classes) float64; NaN where a resample holds no positive of the class.
    """
    num_chips, num_classes = labels.shape
    order = np.empty((num_classes, num_chips), np.int32)
    marks = np.empty((num_classes, num_chips), np.uint8)
    for index in range(num_classes):
        order[index], marks[index] = _ranked(labels[:, index], np.asarray(logits[:, index], np.float64))
    result = np.empty((-(-num_resamples // LANES) * LANES, num_classes))
    # numba sets the number of OpenMP threads when it first starts them and never resets it. torch shares that library,
    # so a later training in this process would add in another order.
    threads, first = numba.config.NUMBA_NUM_THREADS, 0  # type: ignore[attr-defined]
    with (
        threadpoolctl.threadpool_limits(limits=threads, user_api="openmp"),
        Progress("bootstrap", total=num_resamples, unit="resamples") as progress,
    ):
        for counts in count_blocks(num_chips, num_resamples, seed):
            rows = len(counts) * LANES
            _weighted_ap(order, marks, counts, result[first : first + rows])
            first += rows
            progress.update(min(rows, num_resamples - first + rows))
    return result[:num_resamples]


def bootstrap_share(marked: np.ndarray, *, num_resamples: int = NUM_RESAMPLES, seed: int = SEED) -> np.ndarray:
    """(resamples,) share of marked chips, for (N,) bool, on the resamples of `bootstrap_ap`."""
    blocks = count_blocks(len(marked), num_resamples, seed)
    hits = [counts[:, marked].sum(axis=1, dtype=np.int64).ravel() for counts in blocks]
    return np.asarray(np.concatenate(hits)[:num_resamples] / len(marked))


_HIT, _END = 1, 2


def _ranked(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) chips of one class from the highest score down, and per rank whether it is a positive (_HIT) and the last of
    equal scores (_END): thresholds exist only there."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ends = np.append(ranked[1:] != ranked[:-1], True)
    return order, np.where(labels[order] == 1, _HIT, 0) | np.where(ends, _END, 0)


@numba.njit(parallel=True)
def _weighted_ap(order: np.ndarray, marks: np.ndarray, counts: np.ndarray, result: np.ndarray) -> None:
    """scikit-learn's weighted AP, sum of (R_k - R_k-1) P_k, for (classes, N) ranks and the counts of a block.

    `result` is (groups * LANES, classes).
    """
    num_classes, num_chips = order.shape
    for item in numba.prange(len(counts) * num_classes):
        group, index = item // num_classes, item % num_classes
        seen, found = np.zeros(LANES, np.int32), np.zeros(LANES, np.int32)
        found_before, area = np.zeros(LANES, np.int32), np.zeros(LANES)
        is_new = False
        for rank in range(num_chips):
            weights, mark = counts[group, order[index, rank]], marks[index, rank]
            for lane in range(LANES):
                seen[lane] += weights[lane]
            if mark & _HIT:
                is_new = True
                for lane in range(LANES):
                    found[lane] += weights[lane]
            if mark & _END and is_new:
                is_new = False
                for lane in range(LANES):
                    if found[lane] > found_before[lane]:
                        area[lane] += (found[lane] - found_before[lane]) * (found[lane] / seen[lane])
                        found_before[lane] = found[lane]
        for lane in range(LANES):
            result[group * LANES + lane, index] = area[lane] / found[lane] if found[lane] > 0 else np.nan


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
