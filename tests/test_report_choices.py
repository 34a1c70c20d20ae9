"""What a report shows: guesses to compare with, top losses, the class of the best and worst chips."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.changed_runs import changed, made
from helpers.made_runs import write_run
from sklearn.metrics import average_precision_score, f1_score, fbeta_score

from analysis.baselines import baselines
from analysis.class_metrics import FEW_POSITIVES, cooccurrence, similar_first
from analysis.finished_run import Run, load_run
from analysis.ranking import choose_class, rank
from analysis.top_losses import shown_classes, worst_of_class, worst_pairs
from preprocess.zarr_store import Store


@pytest.fixture(scope="module")
def run(session_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return load_run(write_run(tmp_path_factory.mktemp("choices") / "run", session_store))


def test_guesses_have_the_scores_that_scikit_learn_gives_them(run: Run) -> None:
    fine = made(run)
    frame = baselines(fine.labels, fine.logits, fine.mean_ap).set_index("prediction")
    majority = np.broadcast_to(fine.labels.mean(axis=0) > 0.5, fine.labels.shape)
    for name, predicted in (("this run", fine.logits > 0), ("majority", majority)):
        row = frame.loc[name]
        more: dict[str, Any] = {"average": "samples", "zero_division": 0}
        assert row["F2 samples"] == pytest.approx(fbeta_score(fine.labels, predicted, beta=2, **more), abs=1e-12)
        macro = f1_score(fine.labels, predicted, average="macro", zero_division=0)
        assert row["F1 macro"] == pytest.approx(macro, abs=1e-12)
        assert row["labels right"] == (predicted == fine.labels).mean()
    constant = [average_precision_score(fine.labels[:, c], np.zeros(len(fine.labels))) for c in range(3)]
    assert frame.loc["majority", "mAP"] == frame.loc["chance", "mAP"] == pytest.approx(np.mean(constant), abs=1e-12)


@pytest.mark.parametrize("label", [0, 1])
def test_top_losses_are_the_most_wrong_scores(run: Run, label: int) -> None:
    fine = made(run)
    fine.logits = np.round(fine.logits)  # ties are ordered by the chip's name, then by the class
    sign = 1 if label else -1
    every = sorted(
        (sign * fine.logits[row, c], str(fine.names[row]), c, row)
        for row in range(len(fine.names)) for c in range(3) if fine.labels[row, c] == label
    )  # fmt: skip
    rows, classes = worst_pairs(fine, label, 25)
    assert list(zip(rows.tolist(), classes.tolist(), strict=True)) == [(row, c) for _, _, c, row in every[:25]]
    of_class = [row for _, _, c, row in every if c == 1]
    assert worst_of_class(fine, 1, label, 7).tolist() == of_class[:7]
    assert worst_of_class(fine, 1, label, 10_000).tolist() == of_class


def test_a_class_that_few_chips_have_or_lack_is_chosen_only_if_there_is_no_other(run: Run, refused: Callable) -> None:
    fine = made(run)
    few = fine.labels.copy()
    few[10:, 0] = 0
    rare = changed(fine, labels=few, ap=np.array([0.99, 0.5, 0.6]))
    assert rare.positives[0] < FEW_POSITIVES
    assert choose_class(rare, None) == 2
    assert choose_class(rare, "a") == 0
    assert shown_classes(rare).tolist() == [1, 2]
    common = changed(fine, labels=np.where([[True, False, False]], 1, fine.labels), ap=np.array([1.0, 0.5, 0.6]))
    assert choose_class(common, None) == 2  # every chip has the first class
    frequent = changed(fine, labels=np.where([[True, True, False]], 1, fine.labels))
    assert shown_classes(frequent).tolist() == [2]  # any scores give the others a high AP
    labels = np.zeros_like(fine.labels)
    labels[:10, 0] = labels[:20, 1] = labels[5:, 2] = 1
    all_few = changed(rare, labels=labels, ap=np.array([0.99, 0.5, 1.0]))
    assert choose_class(all_few, None) == 1  # 10 and 20 chips have the first two, 5 lack the third
    assert (rank(all_few, None).is_luck, rank(fine, None).is_luck, rank(rare, "a").is_luck) == (True, False, True)


def test_classes_that_occur_together_are_neighbours() -> None:
    rng = np.random.default_rng(0)
    topic = rng.integers(0, 3, 300)
    labels = (rng.random((300, 6)) < np.where(topic[:, None] == np.array([0, 1, 2, 0, 1, 2]), 0.9, 0.05)).astype(
        np.uint8
    )
    order = similar_first(cooccurrence(labels), np.arange(6)).tolist()
    assert sorted(order) == list(range(6))
    assert {frozenset(order[k : k + 2]) for k in (0, 2, 4)} == {frozenset((k, k + 3)) for k in range(3)}
