"""Overfitting, underfitting, or a training that stopped too early, as a sentence for the first lines of a report.

In: a run. Out: a text, or "". The limits below are chosen, not measured, unless a comment says so.
"""

import re

import numpy as np

from analysis.finished_run import Run
from models.archs import ARCHS

OVERFIT = 0.05  # train mAP above test mAP. Train scores are taken on augmented chips while the network learns
STILL_RISING = 0.005  # of test mAP over the last fifth of the epochs; seeds differ by 0.0012 (docs/log.md)
LEARNT = 0.98  # test mAP above which nobody needs a larger network


def fit(run: Run) -> str:
    """The sentence."""
    if not run.history:  # the scores of an ensemble
        return ""
    line = run.history[run.epoch - 1]
    train, test, epochs = line.mean_ap("train"), line.mean_ap("test"), len(run.history)
    if train - test > OVERFIT:
        return f"Overfitting: train mAP {train:.3f}, test mAP {test:.3f}. {_against_overfitting(run)}"
    if text := _overfit_later(run) or _underfit(run):
        return text
    first = max(0, epochs - 1 - max(1, epochs // 5))
    gain = test - run.history[first].mean_ap("test")
    if run.epoch == epochs and epochs > 1 and gain > STILL_RISING:
        return (
            f"Not trained to the end: train mAP {train:.3f}, test mAP {test:.3f}, which still rose by {gain:.3f} since "
            f"epoch {first + 1}. Train longer: EPOCHS={2 * epochs}."
        )
    return ""


def _against_overfitting(run: Run) -> str:
    mixup = "a larger MIXUP" if run.config.mixup else "MIXUP=0.2"
    return f"More chips help most; else try {mixup}, a larger WEIGHT_DECAY, a smaller ARCH, or pretrained WEIGHTS."


def _overfit_later(run: Run) -> str:
    """An early epoch was chosen, because the network learnt the training chips only after it."""
    first, last = run.history[run.epoch - 1], run.history[-1]
    train, test = last.mean_ap("train"), last.mean_ap("test")
    if not (train - test > OVERFIT and train > first.mean_ap("train") and test < first.mean_ap("test")):
        return ""
    return (
        f"Overfitting after epoch {run.epoch} of {len(run.history)}, which was chosen: train mAP rises from "
        f"{first.mean_ap('train'):.3f} to {train:.3f}, test mAP falls from {first.mean_ap('test'):.3f} to {test:.3f}. "
        f"{_against_overfitting(run)}"
    )


def _underfit(run: Run) -> str:
    """A network that scores its own training chips no better than new ones has capacity or epochs to spare.

    Only classes count that have an AP in both splits: a rare class that the test split lacks would lower train mAP.
    """
    line, epochs = run.history[-1], len(run.history)
    pairs = np.array([(line.ap("train", name), line.ap("test", name)) for name in run.classes])
    both = pairs[~np.isnan(pairs).any(axis=1)]
    if not len(both):
        return ""
    train, test = both.mean(axis=0)
    if train > test or test > LEARNT or run.config.mixup:  # blended chips are harder than those of the test
        return ""
    only = "" if len(both) == len(pairs) else f" over the {len(both)} classes with positives in both"
    return (
        f"Underfitting: train mAP {train:.3f} at the last epoch is not above test mAP {test:.3f}{only}. Train longer "
        f"(EPOCHS={2 * epochs}) or with a larger network ({_larger(run.config.arch)}); more regularisation will not "
        "help."
    )


def _larger(arch: str) -> str:
    """A setting for a larger network."""
    depths = [name for name in ARCHS if re.fullmatch(r"resnet\d+", name)]
    place = depths.index(arch) + 1 if arch in depths else len(depths)
    return f"ARCH={depths[place]}" if place < len(depths) else "ARCH"
