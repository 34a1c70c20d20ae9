"""What scores are worth: the same metrics for guesses that look at no chip.

In: labels and logits of one split. Out: a table. The majority guess gives every chip the labels that most chips have.
The chance guess draws each label with the share of chips that have it.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import class_metrics, f2_thresholds

SEED = 0


def baselines(labels: np.ndarray, logits: np.ndarray, mean_ap: float) -> pd.DataFrame:
    """One row for the run at threshold 0.5, one for each guess.

    mAP is the mean over the classes with a positive chip. A score without any information has the share of positive
    chips as its AP, so both guesses have the same mAP.
    """
    share = labels.mean(axis=0)
    uniform = np.random.Generator(np.random.Philox(key=SEED)).random(labels.shape)
    by_chance = float(class_metrics.mean_over_classes(np.where(share > 0, share, np.nan)))
    guesses = (
        ("this run", logits > 0, mean_ap),
        ("majority", _majority(labels), by_chance),
        ("chance", uniform < share, by_chance),
    )
    rows = []
    for name, predicted, ap in guesses:
        scores = f2_thresholds.scores(labels, predicted)
        rows.append([name, ap, scores["F2 samples"], scores["F1 macro"], float((predicted == labels).mean())])
    return pd.DataFrame(rows, columns=["prediction", "mAP", "F2 samples", "F1 macro", "labels right"])


@dataclass(frozen=True, kw_only=True)
class BelowMajority:
    """A run whose F2 at threshold 0.5 is below that of the majority guess. `tuning_helps`: tuned thresholds beat it."""

    text: str
    tuning_helps: bool


def below_majority(labels: np.ndarray, logits: np.ndarray) -> BelowMajority | None:
    """A sentence if, at threshold 0.5, the majority guess has a higher F2 than the run."""
    of_run, of_majority = _f2(labels, logits > 0), _f2(labels, _majority(labels))
    if not of_run < of_majority:  # NaN without a chip that has a class
        return None
    tuning, rest = f2_thresholds.halves(len(labels))
    tuned = _f2(labels[rest], logits[rest] > f2_thresholds.tune(labels[tuning], logits[tuning]).values)
    there = _f2(labels[rest], _majority(labels)[rest])
    numbers = f"({tuned:.3f} against {there:.3f} on half of the test chips)"
    use = (
        f"Thresholds tuned for F2 beat it {numbers}: use those of tables/thresholds.csv."
        if tuned > there else f"Tuned thresholds do not beat it either {numbers}. Do not use its decisions."
    )  # fmt: skip
    text = (
        f"At threshold 0.5 the majority guess, the same labels for every chip, has a higher F2 ({of_majority:.3f}) "
        f"than this run ({of_run:.3f}). {use}"
    )
    return BelowMajority(text=text, tuning_helps=tuned > there)


def _majority(labels: np.ndarray) -> np.ndarray:
    return np.broadcast_to(labels.mean(axis=0) > 0.5, labels.shape)


def _f2(labels: np.ndarray, predicted: np.ndarray) -> float:
    return f2_thresholds.scores(labels, predicted)["F2 samples"]
