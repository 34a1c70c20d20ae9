"""What scores are worth: the same metrics for guesses that look at no chip.

In: labels and logits of one split. Out: a table. The majority guess gives every chip the labels that most chips have.
The chance guess draws each label with the share of chips that have it.
"""

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
        ("majority", np.broadcast_to(share > 0.5, labels.shape), by_chance),
        ("chance", uniform < share, by_chance),
    )
    rows = []
    for name, predicted, ap in guesses:
        scores = f2_thresholds.scores(labels, predicted)
        rows.append([name, ap, scores["F2 samples"], scores["F1 macro"], float((predicted == labels).mean())])
    return pd.DataFrame(rows, columns=["prediction", "mAP", "F2 samples", "F1 macro", "labels right"])


def below_majority(labels: np.ndarray, logits: np.ndarray) -> str:
    """A sentence if, at threshold 0.5, the majority guess has a higher F2 than the run; otherwise ""."""
    majority = np.broadcast_to(labels.mean(axis=0) > 0.5, labels.shape)
    of_run, of_majority = (f2_thresholds.scores(labels, one)["F2 samples"] for one in (logits > 0, majority))
    if of_run >= of_majority:
        return ""
    return (
        f"At threshold 0.5 the majority guess, the same labels for every chip, has a higher F2 ({of_majority:.3f}) "
        f"than this run ({of_run:.3f}). Do not use its decisions."
    )
