"""The sentence about the majority guess, with scikit-learn's F2 as oracle."""

import numpy as np
from sklearn.metrics import fbeta_score

from analysis.baselines import below_majority

RNG = np.random.default_rng(0)
LABELS = (RNG.random((200, 3)) < (0.9, 0.8, 0.1)).astype(np.uint8)


def f2(predicted: np.ndarray) -> str:
    return f"{fbeta_score(LABELS, predicted, beta=2, average='samples', zero_division=0):.3f}"


def test_a_run_below_the_majority_guess_is_told_with_both_scores() -> None:
    logits = RNG.normal(size=LABELS.shape)
    below = below_majority(LABELS, logits)
    assert below is not None
    both = f"has a higher F2 ({f2(np.broadcast_to([1, 1, 0], LABELS.shape))}) than this run ({f2(logits > 0)})"
    assert both in below.text


def test_a_run_that_equals_or_beats_the_majority_guess_is_not_told() -> None:
    majority = np.broadcast_to(np.array([1.0, 1.0, -1.0]), LABELS.shape)
    assert below_majority(LABELS, majority) is None
    assert below_majority(LABELS, LABELS * 2.0 - 1) is None
