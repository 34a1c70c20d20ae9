"""The first lines of a report follow from the run's numbers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.changed_runs import changed, epochs, made
from helpers.made_runs import write_run
from helpers.pages import Page
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, fbeta_score

from analysis.advice import MOST, advice
from analysis.baselines import below_majority
from analysis.bootstrap import bootstrap_ap, interval
from analysis.class_advice import listed_some
from analysis.class_metrics import calibrations
from analysis.finished_run import Run, load_run
from analysis.report import report
from preprocess.zarr_store import Store


@pytest.fixture(scope="module")
def run(session_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return load_run(write_run(tmp_path_factory.mktemp("summary") / "run", session_store))


def lines(run: Any, folder: Path | None = None) -> list[str]:
    bounds = interval(bootstrap_ap(run.labels, run.logits, num_resamples=200))
    return advice(run, calibrations(run.labels, run.probabilities), folder, bounds)


def test_a_run_without_a_weakness_gets_no_advice(run: Run) -> None:
    assert lines(made(run)) == []


@pytest.mark.parametrize(
    ("scores", "begins"),
    [
        (((0.5, 0.5), (0.9, 0.8)), "Overfitting: train mAP 0.900, test mAP 0.800."),
        (
            ((0.5, 0.5), (0.62, 0.6)),
            "Not trained to the end: train mAP 0.620, test mAP 0.600. Test mAP still rose by 0.100 since epoch 1.",
        ),
        (
            ((0.5, 0.5), (0.545, 0.551)),
            "Underfitting: at the last epoch train mAP 0.545 is not above test mAP 0.551. Train longer (EPOCHS=4) or "
            "with a larger network (ARCH=resnet34);",
        ),
        (((0.5, 0.5), (0.6, 0.6)), "Underfitting: at the last epoch train mAP 0.600 is not above test mAP 0.600."),
    ],
)
def test_train_and_test_map_decide_about_the_fit(run: Run, scores: tuple, begins: str) -> None:
    (line,) = lines(made(run, history=epochs(run, *scores)))
    assert line.startswith(begins)


def test_an_epoch_that_map_chose_although_the_loss_fell_after_it_is_called_hardly_trained(run: Run) -> None:
    history = epochs(run, (0.68, 0.78), (0.8, 0.77))
    for first, begins in ((0.56, True), (0.2, False)):
        losses = (replace(history[0], test_loss=first), replace(history[1], test_loss=0.168))
        text = " ".join(lines(changed(made(run, history=losses), epoch=1)))
        expected = (
            "Hardly trained: epoch 1 of 2 was chosen by test mAP, although the test loss fell from 0.560 to 0.168"
        )
        assert (expected in text) is begins


def test_of_five_classes_in_a_sentence_each_is_named() -> None:
    assert listed_some([*"abcde"]) == "a, b, c, d, e"
    assert listed_some([*"abcdef"]) == "a, b, c, d and 2 more"


def test_overfitting_names_the_epoch_after_which_test_map_did_not_rise(run: Run) -> None:
    flat = made(run, history=epochs(run, (0.8, 0.7), (0.9, 0.7), (0.95, 0.69)))
    assert "Test mAP did not rise after epoch 1 of 3." in lines(changed(flat, epoch=1))[0]
    rising = made(run, history=epochs(run, (0.8, 0.7), (0.9, 0.72), (0.95, 0.69)))  # chosen on val
    assert "did not rise" not in lines(changed(rising, epoch=1))[0]


def test_underfitting_is_judged_over_the_classes_with_positives_in_both_splits(run: Run) -> None:
    (*first, last) = epochs(run, (0.9, 0.9), (0.5, 0.55))
    lacking = replace(last, test_ap={**last.test_ap, "a": None}, train_ap={**last.train_ap, "a": 0.0})
    (text,) = lines(made(run, history=(*first, lacking)))
    assert "at the last epoch train mAP 0.500 is not above test mAP 0.550 (of b, c)." in text
    better = replace(lacking, train_ap={"a": 0.0, "b": 0.56, "c": 0.56})
    assert lines(made(run, history=(*first, better))) == []


def test_train_scores_of_blended_chips_say_nothing_about_underfitting(run: Run) -> None:
    blended: Any = made(run, history=epochs(run, (0.6, 0.6), (0.5, 0.6)))
    (line,) = lines(blended)
    assert line.startswith("Underfitting")
    blended.config = run.config.model_copy(update={"mixup": 0.2})
    assert lines(blended) == []


def test_a_network_that_has_learnt_its_chips_does_not_underfit(run: Run) -> None:
    assert lines(made(run, history=epochs(run, (0.98, 0.985), (0.98, 0.985)))) == []


def test_rare_and_weak_classes_are_named_with_their_numbers(run: Run) -> None:
    fine = made(run)
    labels = fine.labels.copy()
    labels[8:, 2] = 0  # a rare class
    weak = changed(fine, labels=labels, ap=np.array([0.9, 0.3, 0.9]), mean_ap=0.7)
    texts = lines(weak)
    chance = fine.labels[:, 1].mean()
    assert texts[0].startswith(
        f"Weakest classes (AP below 0.7 times the mAP, 30 positives or more): b (0.300, chance {chance:.3f}). "
    )
    count = int(labels[:, 2].sum())
    assert f"Fewer than 30 test chips have c ({count}): its AP is very uncertain. " in " ".join(texts)
    labels[:, 2] = 0
    assert [text for text in lines(changed(weak, labels=labels)) if text.startswith(
        "No test chip has c, so there is no AP: choose another split")]  # fmt: skip


def test_probabilities_far_from_the_shares_are_named_as_scikit_learn_finds_them(run: Run) -> None:
    fine = made(run)
    logits = fine.logits.copy()
    logits[:, 1] += 2
    texts = lines(changed(fine, logits=logits))
    values, truth = 1 / (1 + np.exp(-logits[:, 1])), fine.labels[:, 1]
    share, forecast = calibration_curve(truth, values, n_bins=10)
    counts = np.histogram(values, np.linspace(0, 1, 11))[0]
    expected = float((counts[counts > 0] * np.abs(share - forecast)).sum() / len(truth))
    (text,) = [text for text in texts if text.startswith("Miscalibrated by more than 0.05: 1 of 3 classes.")]
    assert f"Worst is b, whose probabilities are wrong by {expected:.3f} on average, mostly too high." in text


def test_a_missing_audit_is_named_with_its_command(run: Run, tmp_path: Path) -> None:
    (text,) = lines(made(run), tmp_path)
    assert text.endswith(f"make audit STORE={run.config.store} RUN={run.path}")


@pytest.mark.parametrize(
    ("pairs", "leak"),
    [
        ([], None),
        ([("t_0", "t_1"), ("train_7", "train_8")], None),  # on one side of this run's split
        ([("t_0", "train_7"), ("train_8", "t_0"), ("train_9", "t_3")], "of the 400 test chips 2 have a neighbour "),
    ],
)
def test_a_leak_is_a_pair_across_the_split_of_the_run_and_not_of_the_audit(
    run: Run, tmp_path: Path, pairs: list[tuple[str, str]], leak: str | None
) -> None:
    (tmp_path / "tables").mkdir()
    found = pd.DataFrame([("Neighbours, in train and in test", "243")], columns=["finding", "count"])
    found.to_csv(tmp_path / "tables/findings.csv", index=False)
    frame = pd.DataFrame(pairs, columns=["image_name", "image_name 2"])
    frame.to_csv(tmp_path / "tables/neighbours.csv", index=False)
    texts = lines(made(run), tmp_path)
    assert [text.partition("outside the test split")[0] for text in texts] == ([f"Leak: {leak}"] if leak else [])


def test_a_class_that_nearly_every_chip_has_is_not_what_a_run_is_judged_by(run: Run) -> None:
    fine = made(run)
    labels = fine.labels.copy()
    labels[29:, 1] = 1
    labels[:29, 1] = 0
    frequent = changed(fine, labels=labels, logits=np.where(np.arange(3) == 1, 8.0 * labels - 4, fine.logits))
    others = float(fine.ap[[0, 2]].mean())
    chance = float(labels[:, [0, 2]].mean())
    (text,) = lines(frequent)
    assert text.startswith("Nearly every test chip has 1 of the 3 classes, so any scores give them a high AP: b (29). ")
    assert text.endswith(f"Judge the run by the other classes: mean AP {others:.3f}, by chance {chance:.3f}.")
    labels[29, 1] = 0
    assert lines(changed(frequent, labels=labels)) == []


@pytest.mark.parametrize(
    ("stored", "advised"),
    [
        (("blue", "green", "red", "nir"), "The network does not see band nir: try TASK=4."),
        (
            ("blue", "green", "red", "B05", "B06"),
            "The network does not see bands B05, B06: try TASK=4 BANDS_IN=blue,green,red,B05,B06.",
        ),
        (("blue", "green", "red"), "Look at their chips under Top losses: can you see the class in them"),
    ],
)
def test_a_class_no_better_than_chance_is_named_with_the_bands_that_the_network_does_not_see(
    run: Run, stored: tuple[str, ...], advised: str
) -> None:
    fine = made(run)
    inputs = run.record.inputs
    assert inputs.chip
    unseen = replace(inputs, bands=("red", "green", "blue"), chip=replace(inputs.chip, bands=stored))
    logits = fine.logits.copy()
    logits[:, 1] = np.random.default_rng(1).normal(-0.5, 0.1, len(logits))  # scores without any information
    ap = np.array([average_precision_score(fine.labels[:, c], logits[:, c]) for c in range(3)])
    record = replace(run.record, inputs=unseen)
    guess = changed(fine, logits=logits, ap=ap, mean_ap=float(ap.mean()), record=record)
    text = next(text for text in lines(guess) if text.startswith("No better than chance: "))
    assert text.startswith(f"No better than chance: b (AP {ap[1]:.3f}, 95 % interval ")
    assert f"chance {fine.labels[:, 1].mean():.3f}). {advised}" in text
    assert not [text for text in lines(guess) if text.startswith("Weakest")]


def test_classes_that_are_never_found_at_half_are_a_reason_for_other_thresholds(run: Run) -> None:
    fine = made(run)
    below = fine.logits.copy()
    below[:, 2] = np.where(below[:, 2] > 0, -0.001 - 0.001 / (1 + below[:, 2]), below[:, 2])  # same order, below 0.5
    texts = [text for text in lines(changed(fine, logits=below)) if "Do not decide at 0.5" in text]
    assert len(texts) == 1
    assert "At threshold 0.5 no chip with c is found. Do not decide at 0.5" in texts[0]


def test_an_early_epoch_is_named_if_the_network_overfits_after_it(run: Run) -> None:
    late = made(run, history=epochs(run, (0.685, 0.787), (0.8, 0.78), (0.854, 0.775)))
    (text,) = lines(changed(late, epoch=1))
    assert text.startswith(
        "Overfitting after epoch 1 of 3, which was chosen: train mAP rises from 0.685 to 0.854, test mAP falls from "
        "0.787 to 0.775. "
    )
    kept = made(run, history=epochs(run, (0.685, 0.787), (0.8, 0.78), (0.82, 0.775)))
    assert lines(changed(kept, epoch=1)) == []


@pytest.mark.usefixtures("empty_figures")
def test_there_are_at_most_five_lines_and_the_page_begins_with_them(run: Run, tmp_path: Path) -> None:
    page = Page(report(run.path, compare=(), class_name=None, store_path=None))
    audit = Path(str(run.config.store) + ".audit")
    bounds = interval(bootstrap_ap(run.labels, run.logits))
    texts = advice(run, calibrations(run.labels, run.probabilities), audit, bounds)
    assert 1 <= len(texts) <= MOST
    assert (
        page.text.index("What to do")
        < page.text.index(texts[0])
        < page.text.index("Train scores are taken during training")
    )
    assert [text for text in texts if text not in page.text] == []


def test_a_weak_class_that_is_as_weak_on_train_chips_is_named(run: Run) -> None:
    rng = np.random.default_rng(3)
    labels = (rng.random((4000, 3)) < (0.5, 0.5, 0.04)).astype(np.uint8)
    logits = 8.0 * labels - 4 + rng.normal(0, 1, labels.shape)
    logits[:, 2] = labels[:, 2] + rng.normal(-3, 1, len(labels))
    ap = np.array([average_precision_score(labels[:, c], logits[:, c]) for c in range(3)])
    names = np.array([f"t_{row}" for row in range(len(labels))])
    rare = changed(made(run), labels=labels, logits=logits, ap=ap, mean_ap=float(ap.mean()), names=names)
    for train_ap, learnt in ((ap[2] + 0.3, False), (ap[2] + 0.01, True)):
        (line,) = epochs(run, (0.9, 0.9))
        line = replace(line, train_ap={**line.train_ap, "c": train_ap}, test_ap={**line.test_ap, "c": float(ap[2])})
        text = next(text for text in lines(changed(rare, history=(line,), epoch=1)) if text.startswith("Weakest"))
        assert ("On train chips c is as weak: " in text) is learnt


def test_a_split_whose_other_classes_are_rare_cannot_judge_the_run(run: Run) -> None:
    fine = made(run)
    labels = np.ones_like(fine.labels)
    labels[:20, 0] = labels[:10, 1] = labels[19:, 2] = 0
    history = epochs(run, (0.9, 0.8))
    history = (replace(history[0], train_ap={"a": 1.0, "b": 1.0, "c": 0.97}, test_ap={"a": 1.0, "b": 1.0, "c": 0.3}),)
    texts = lines(changed(fine, labels=labels, logits=8.0 * labels - 4, history=history, epoch=1))
    assert texts[0].startswith("Nearly every test chip has 2 of the 3 classes")
    assert "No other class has enough positive chips either, so this split cannot judge the run: choose" in texts[0]
    assert "Overfitting: train AP 0.970, test AP 0.300 (of c)." in " ".join(texts)


@pytest.mark.parametrize(
    ("shift", "verdict"), [(-4.0, "use those of tables/thresholds.csv."), (None, "Do not use its decisions.")]
)
def test_a_run_below_the_majority_guess_is_judged_again_with_tuned_thresholds(
    run: Run, shift: float | None, verdict: str
) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((600, 3)) < (0.8, 0.7, 0.6)).astype(np.uint8)
    logits = rng.normal(-3, 1, labels.shape) if shift is None else 2.0 * (2 * labels - 1.0) + shift
    below = below_majority(labels, logits)
    assert below is not None
    majority = np.ones_like(labels)
    f2 = [fbeta_score(labels, one, beta=2, average="samples", zero_division=0) for one in (majority, logits > 0)]
    assert f"has a higher F2 ({f2[0]:.3f}) than this run ({f2[1]:.3f})." in below.text
    assert below.text.endswith(verdict)
    assert below.tuning_helps is (shift is not None)
    assert below_majority(labels, 8.0 * labels - 4) is None
