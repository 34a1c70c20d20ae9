"""The bootstrap of AP, compared with scikit-learn's AP of each resample."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from helpers.made_scores import resamples, scores
from sklearn.metrics import average_precision_score

from analysis import bootstrap, class_metrics


@pytest.mark.parametrize("ties", [False, True])
def test_bootstrap_ap_equals_scikit_learns_ap_with_sample_weights(ties: bool) -> None:
    labels, logits, _ = scores(ties=ties)
    counts = resamples(len(labels), 25)
    assert (counts.sum(axis=1) == len(labels)).all()
    found = bootstrap.bootstrap_ap(labels, logits, num_resamples=25)
    empty = 0
    for b, weights in enumerate(counts):
        for c in range(6):
            if not labels[weights > 0, c].any():
                assert np.isnan(found[b, c])
                empty += 1
                continue
            direct = average_precision_score(labels[:, c], logits[:, c], sample_weight=weights)
            drawn = np.repeat(np.arange(len(labels)), weights)
            assert found[b, c] == pytest.approx(direct, rel=1e-13)
            assert found[b, c] == pytest.approx(average_precision_score(labels[drawn, c], logits[drawn, c]), rel=1e-13)
    assert empty > 25  # always for the class without positives, sometimes for the class with two


@pytest.mark.slow
def test_the_bootstrap_does_not_change_torchs_number_of_threads() -> None:
    code = """
import numpy as np, torch
from analysis.bootstrap import bootstrap_ap
bootstrap_ap(np.ones((50, 2), int), np.random.default_rng(0).normal(size=(50, 2)), num_resamples=8)
print(torch.get_num_threads())
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).resolve().parents[1],
    )  # fmt: skip
    assert ended.stdout == "1\n", ended.stderr


def test_resamples_are_a_function_of_the_seed() -> None:
    rng = np.random.Generator(np.random.Philox(key=3))
    expected = [np.bincount(rng.integers(0, 50, 50), minlength=50) for _ in range(40)]
    assert np.array_equal(resamples(50, 40, 3), expected)
    assert not np.array_equal(resamples(50, 40, 3), resamples(50, 40, 4))


def test_the_size_of_a_block_changes_no_resample(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, logits, _ = scores()
    counts = resamples(len(labels), 40)
    ap = bootstrap.bootstrap_ap(labels, logits, num_resamples=40)
    monkeypatch.setattr(bootstrap, "BLOCK_BYTES", 1)
    assert len(list(bootstrap.count_blocks(len(labels), 40))) == 3
    assert np.array_equal(resamples(len(labels), 40), counts)
    assert np.array_equal(bootstrap.bootstrap_ap(labels, logits, num_resamples=40), ap, equal_nan=True)


def test_intervals_ignore_resamples_without_a_value() -> None:
    values = np.array([[0.1, np.nan], [0.2, np.nan], [0.3, 0.5], [0.4, np.nan]])
    low, high = bootstrap.interval(values)
    assert low.tolist() == [np.percentile([0.1, 0.2, 0.3, 0.4], 2.5), 0.5]
    assert high.tolist() == [np.percentile([0.1, 0.2, 0.3, 0.4], 97.5), 0.5]
    assert [float(bound) for bound in bootstrap.interval(values[:, 0])] == [low[0], high[0]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(bootstrap.interval(np.full((4, 2), np.nan))).all()
        assert class_metrics.mean_over_classes(np.array([[0.5, np.nan], [np.nan, np.nan]])).tolist()[0] == 0.5


def test_the_interval_of_ap_covers_the_ap_of_a_large_sample() -> None:
    """A known distribution: about 95 % of the intervals of 40 samples of 300 chips contain the AP of 200,000."""
    rng = np.random.default_rng(1)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = (rng.random((count, 1)) < 0.4).astype(np.uint8)
        return labels, rng.normal(size=(count, 1)) + 1.5 * labels

    truth = average_precision_score(*draw(200_000))
    covered = 0
    for seed in range(40):
        labels, logits = draw(300)
        low, high = bootstrap.interval(bootstrap.bootstrap_ap(labels, logits, num_resamples=300, seed=seed))
        covered += bool(low[0] <= truth <= high[0])
    assert 33 <= covered <= 40
