"""Every number of a report, compared with scikit-learn or with a plain loop."""

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from helpers.made_scores import scores
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, fbeta_score

from analysis import class_metrics, f2_thresholds, ranking, tail


@pytest.mark.parametrize("ties", [False, True])
def test_tail_accuracy_follows_its_definition(ties: bool) -> None:
    labels, _, probabilities = scores(ties=ties)
    for thresholds in (
        tail.own_thresholds(probabilities),
        tail.common_thresholds(probabilities),
        tail.quantile_thresholds(probabilities),
    ):
        found = tail.tail_accuracy(labels, probabilities, thresholds)
        for k, row in enumerate(thresholds):
            for c, t in enumerate(row):
                above = right = 0
                for y, f in zip(labels[:, c].tolist(), probabilities[:, c].tolist(), strict=True):
                    above += f > t
                    right += f > t and y == 1
                assert found.count[k, c] == above
                assert found.accuracy[k, c] == right / above if above else math.isnan(found.accuracy[k, c])
        present = [[value for value in row if not math.isnan(value)] for row in found.accuracy.tolist()]
        assert found.num_classes.tolist() == [len(row) for row in present]
        for mean, row in zip(found.mean.tolist(), present, strict=True):
            assert mean == pytest.approx(math.fsum(row) / len(row), rel=1e-15) if row else math.isnan(mean)


def test_thresholds_go_from_one_half_to_the_highest_score_and_the_last_tail_is_empty() -> None:
    labels, _, probabilities = scores()
    probabilities[:, 3] = np.minimum(probabilities[:, 3], 0.4)
    own = tail.own_thresholds(probabilities)
    assert own.shape == (20, 6)
    assert (own[0] == 0.5).all()
    assert own[-1].tolist() == [*probabilities.max(axis=0)[:3], 0.5, *probabilities.max(axis=0)[4:]]
    found = tail.tail_accuracy(labels, probabilities, own)
    assert (found.count[-1] == 0).all()
    assert found.num_classes[-1] == 0
    assert math.isnan(found.mean[-1])
    assert np.isnan(found.accuracy[:, 3]).all()
    assert found.num_classes[0] == 5
    common = tail.common_thresholds(probabilities)
    assert common[-1].tolist() == [probabilities.max()] * 6


def test_a_score_equal_to_the_threshold_is_not_above_it() -> None:
    labels, probabilities = np.array([[1], [0], [1]]), np.array([[0.5], [0.75], [1.0]])
    found = tail.tail_accuracy(labels, probabilities, np.array([[0.5], [0.75], [1.0]]))
    assert found.count[:, 0].tolist() == [2, 1, 0]
    assert found.accuracy[:2, 0].tolist() == [0.5, 1.0]


def test_extremes_are_the_highest_and_lowest_with_ties_in_name_order() -> None:
    names = np.array(["d", "b", "c", "a", "f", "e"])
    values = np.array([1.0, 1.0, 0.5, 1.0, 0.0, 0.0])
    best, worst = ranking.extremes(values, names, 4)
    assert names[best].tolist() == ["a", "b", "d", "c"]
    assert names[worst].tolist() == ["e", "f", "c", "a"]
    rng = np.random.default_rng(0)
    values, names = np.round(rng.normal(size=500), 1), np.array([f"t_{i}" for i in rng.permutation(500)])
    best, worst = ranking.extremes(values, names)
    by_hand = sorted(zip((-values).tolist(), names.tolist(), strict=True))
    assert names[best].tolist() == [name for _, name in by_hand[:10]]
    assert values[best[0]] == values.max()
    by_hand = sorted(zip(values.tolist(), names.tolist(), strict=True))
    assert names[worst].tolist() == [name for _, name in by_hand[:10]]


def test_calibration_equals_scikit_learns() -> None:
    labels, _, probabilities = scores()
    for c in range(5):
        found = class_metrics.calibration(labels[:, c], probabilities[:, c])
        assert found.brier == pytest.approx(brier_score_loss(labels[:, c], probabilities[:, c]), rel=1e-14)
        share, forecast = calibration_curve(labels[:, c], probabilities[:, c], n_bins=10, strategy="uniform")
        filled = found.count > 0
        assert np.allclose(found.share[filled], share, rtol=1e-14, atol=0)
        assert np.allclose(found.forecast[filled], forecast, rtol=1e-14, atol=0)
        assert np.isnan(found.share[~filled]).all()
        assert found.count.sum() == len(labels)
        constant = np.full(len(labels), labels[:, c].mean())
        assert found.reference == pytest.approx(brier_score_loss(labels[:, c], constant), rel=1e-12)


def test_cooccurrence_and_false_positives_are_fractions() -> None:
    labels = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 1, 0]], np.uint8)
    found = class_metrics.cooccurrence(labels)
    assert found[0].tolist() == [1, 2 / 3, 1 / 3, 0]
    assert found[1].tolist() == [1, 1, 0.5, 0]
    assert np.isnan(found[3]).all()
    decided = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [1, 1, 1, 1], [0, 0, 1, 0]], bool)
    wrong = class_metrics.false_alarms(labels, decided)
    assert wrong[0].tolist() == [1 / 3, 1, 0.5, 1 / 3]
    assert wrong[1, 1] == 0.5
    assert wrong[2, 0] == 0
    assert np.isnan(wrong[3]).all()


@pytest.mark.parametrize("ties", [False, True])
def test_the_best_threshold_has_the_highest_f2_of_all_thresholds(ties: bool) -> None:
    labels, logits, _ = scores(ties=ties, count=120)
    for c in range(5):
        chosen = f2_thresholds.best_threshold(labels[:, c], logits[:, c])
        tried = np.unique(logits[:, c])
        all_scores = [
            fbeta_score(labels[:, c], logits[:, c] > t, beta=2, zero_division=0) for t in [*tried, tried[0] - 1]
        ]
        assert fbeta_score(labels[:, c], logits[:, c] > chosen, beta=2) == max(all_scores)
        assert chosen not in tried


def test_thresholds_are_tuned_on_chips_that_are_not_reported() -> None:
    labels, logits, _ = scores()
    tuning, reporting = f2_thresholds.halves(len(labels))
    assert sorted([*tuning, *reporting]) == list(range(len(labels)))
    assert not set(tuning) & set(reporting)
    found = f2_thresholds.tune(labels[tuning], logits[tuning])
    changed = labels.copy()
    changed[reporting] = 1 - changed[reporting]
    again = f2_thresholds.tune(changed[tuning], logits[tuning])
    assert np.array_equal(found.values, again.values)
    assert found.tuned.tolist() == [True, True, True, True, False, False]
    assert found.values[4:].tolist() == [0, 0]
    assert np.isnan(found.held_out_f2[4:]).all()


def test_tuned_thresholds_are_better_on_unseen_chips() -> None:
    labels, logits, _ = scores(count=4000)
    tuning, reporting = f2_thresholds.halves(len(labels))
    found = f2_thresholds.tune(labels[tuning], logits[tuning])
    truth = labels[reporting]
    before = f2_thresholds.scores(truth, logits[reporting] > 0)
    after = f2_thresholds.scores(truth, logits[reporting] > found.values)
    assert after["F2 macro"] > before["F2 macro"] + 0.02
    held_out = [fbeta_score(truth[:, c], logits[reporting, c] > found.values[c], beta=2) for c in range(4)]
    assert np.abs(np.array(held_out) - found.held_out_f2[:4]).max() < 0.08


def test_f_scores_equal_scikit_learns_and_kaggles() -> None:
    labels, logits, _ = scores()
    decided = logits > 0.3
    found = f2_thresholds.scores(labels, decided)
    for average in ("micro", "samples"):
        one, two = (fbeta_score(labels, decided, beta=b, average=average, zero_division=0) for b in (1, 2))
        assert (found[f"F1 {average}"], found[f"F2 {average}"]) == pytest.approx((one, two), rel=1e-12)
    present = labels.any(axis=0)
    assert not present[5]
    expected = fbeta_score(labels[:, present], decided[:, present], beta=2, average="macro", zero_division=0)
    assert found["F2 macro"] == pytest.approx(expected, rel=1e-12)
    by_chip = []
    for truth, predicted in zip(labels, decided, strict=True):  # Kaggle's formula per chip
        right = int((truth & predicted).sum())
        p, r = right / max(predicted.sum(), 1), right / max(truth.sum(), 1)
        by_chip.append(5 * p * r / (4 * p + r) if right else 0.0)
    assert found["F2 samples"] == pytest.approx(np.mean(by_chip), rel=1e-12)


def kept_classes(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The first `num_classes` classes, with positives only in class 0."""
    labels = labels[:, :num_classes].copy()
    labels[:, 1:] = 0
    return labels


@pytest.mark.parametrize("num_classes", [1, 3])
def test_f_scores_are_right_for_one_class_and_for_one_class_with_positives(num_classes: int) -> None:
    labels, logits, _ = scores()
    labels, decided = kept_classes(labels, num_classes), logits[:, :num_classes] > 1
    found = f2_thresholds.scores(labels, decided)
    for beta in (1, 2):
        only = fbeta_score(labels[:, 0], decided[:, 0], beta=beta)
        assert 0.1 < only < 0.9
        assert found[f"F{beta} macro"] == pytest.approx(only, rel=1e-12)
        right = missed = wrong = 0
        by_chip = []
        for truth, predicted in zip(labels.tolist(), decided.tolist(), strict=True):
            tp = sum(t and s for t, s in zip(truth, predicted, strict=True))
            fn, fp = sum(truth) - tp, sum(predicted) - tp
            right, missed, wrong = right + tp, missed + fn, wrong + fp
            by_chip.append((1 + beta**2) * tp / ((1 + beta**2) * tp + beta**2 * fn + fp) if tp else 0.0)
        micro = (1 + beta**2) * right / ((1 + beta**2) * right + beta**2 * missed + wrong)
        assert found[f"F{beta} micro"] == pytest.approx(micro, rel=1e-12)
        assert found[f"F{beta} samples"] == pytest.approx(np.mean(by_chip), rel=1e-12)


def test_a_split_without_positives_has_nan_scores_and_no_warning() -> None:
    labels, logits, _ = scores()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = f2_thresholds.scores(np.zeros_like(labels), logits > 0)
    assert len(found) == 6
    assert all(math.isnan(value) for value in found.values())


def test_an_unknown_class_is_refused(refused: Callable[..., str]) -> None:
    from types import SimpleNamespace

    labels = np.repeat([[0, 0], [0, 1]], 40, axis=0)
    run = SimpleNamespace(classes=("a", "b"), ap=np.array([np.nan, 0.3]), positives=np.array([0, 40]), labels=labels)
    assert ranking.choose_class(run, None) == 1  # type: ignore[arg-type]
    assert ranking.choose_class(run, "a") == 0  # type: ignore[arg-type]
    assert "CLASS=road: expected one of a, b" in refused(lambda: ranking.choose_class(run, "road"))  # type: ignore[arg-type]
