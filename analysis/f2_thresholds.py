"""Thresholds per class for F2, tuned on one half of the test split and reported on the other.

In: labels and logits. Out: thresholds, and F1 and F2 before and after tuning. A seed draws the halves; no chip is used
for both. A class is predicted where `logit > threshold`, strictly.
"""

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import fbeta_score

SEED = 0
NUM_FOLDS = 5
AVERAGES = {"micro": None, "macro": 0, "samples": 1}  # average -> axis of (N, classes) along which it counts


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """values (classes,) logits. tuned (classes,): False with too few positives; the value is then 0 (p = 0.5).

    held_out_f2 (classes,): F2 on each fold with the threshold tuned on the other folds; NaN where not tuned.
    """

    values: np.ndarray
    tuned: np.ndarray
    held_out_f2: np.ndarray


def halves(num_chips: int, seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
    """(tuning, reporting) row numbers, ascending, drawn with the seed."""
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(num_chips)
    return np.sort(order[: num_chips // 2]), np.sort(order[num_chips // 2 :])


def best_threshold(labels: np.ndarray, logits: np.ndarray, beta: float = 2.0) -> float:
    """Threshold with the highest F-beta for one class that has a positive; the highest of several.

    It lies halfway to the next lower score, so that it also suits unseen scores.
    """
    order = np.argsort(-logits, kind="stable")
    ranked, hits = logits[order], np.cumsum(labels[order], dtype=np.int64)
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    # F = (1 + b^2) TP / (b^2 positives + predicted)
    score = (1 + beta**2) * hits[ends] / (beta**2 * hits[-1] + ends + 1)
    last = ends[int(np.argmax(score))]
    lower = ranked[last + 1] if last + 1 < len(ranked) else ranked[last] - 1
    return float((ranked[last] + lower) / 2)


def tune(labels: np.ndarray, logits: np.ndarray, seed: int = SEED) -> Thresholds:
    """Cross-validated thresholds: the mean over folds of the threshold tuned without that fold.

    Folds are stratified, so that each fold of a rare class has positives. A class with fewer positives than folds keeps
    the threshold 0.

    Args:
        labels: (N, classes) 0/1.
        logits: (N, classes).
    """
    num_classes = labels.shape[1]
    values, held_out = np.zeros(num_classes), np.full(num_classes, np.nan)
    tuned = labels.sum(axis=0) >= NUM_FOLDS
    for index in np.flatnonzero(tuned):
        truth, scores = labels[:, index], logits[:, index]
        fold = _folds(truth, seed)
        chosen = [best_threshold(truth[fold != k], scores[fold != k]) for k in range(NUM_FOLDS)]
        values[index] = np.mean(chosen)
        held_out[index] = f_beta(truth, scores > np.array(chosen)[fold])
    return Thresholds(values=values, tuned=tuned, held_out_f2=held_out)


def _folds(truth: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.Generator(np.random.Philox(key=seed))
    fold = np.empty(len(truth), int)
    for kind in (0, 1):
        rows = rng.permutation(np.flatnonzero(truth == kind))
        fold[rows] = np.arange(len(rows)) % NUM_FOLDS
    return fold


def f_beta(labels: np.ndarray, predicted: np.ndarray, beta: float = 2.0) -> float:
    """F-beta of one class; 0 without a true positive."""
    return float(fbeta_score(labels, predicted, beta=beta, zero_division=0))


def scores(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """{"F1 micro": ..., "F2 samples": ...}; NaN where no chip has any tag.

    macro: mean over the classes with a positive. samples: mean over chips, which is Kaggle's metric for beta 2; a chip
    without a correct tag counts 0.
    """
    truth = labels.astype(bool)
    present = truth.any(axis=0)
    correct = truth & predicted
    values = {}
    for beta in (1, 2):
        for average, along in AVERAGES.items():
            # Not scikit-learn's averages: it treats (N, 1) as one binary label and refuses, or averages its two values.
            each = _f_beta(correct.sum(axis=along), truth.sum(axis=along), predicted.sum(axis=along), beta)
            each = each[present] if average == "macro" else each
            values[f"F{beta} {average}"] = float(np.mean(each)) if present.any() else float("nan")
    return values


def _f_beta(correct: np.ndarray, positive: np.ndarray, predicted: np.ndarray, beta: float) -> np.ndarray:
    """F-beta from counts; 0 without positives and predictions."""
    below = np.asarray(beta**2 * positive + predicted, np.float64)
    return np.divide((1 + beta**2) * correct, below, out=np.zeros_like(below), where=below > 0)
