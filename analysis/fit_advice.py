"""Overfitting, underfitting, or a training that stopped too early, as a sentence for the first lines of a report.

In: a run. Out: a text, or "". The limits below are chosen, not measured, unless a comment says so.
"""

import re
from dataclasses import dataclass

import numpy as np

from analysis.class_advice import listed_some
from analysis.finished_run import Run
from models.archs import ARCHS

OVERFIT = 0.05  # train mAP above test mAP. Train scores are taken on augmented chips while the network learns
STILL_RISING = 0.005  # of test mAP over the last fifth of the epochs; seeds differ by 0.0012 (docs/log.md)
LEARNT = 0.98  # test mAP above which nobody needs a larger network
HARDLY_TRAINED = 1.5  # times the loss of the last epoch


def fit(run: Run, unjudged: list[int]) -> str:
    """The sentence. `unjudged`: classes whose AP says nothing about the fit (`class_advice.unjudged`)."""
    if not run.history:  # the scores of an ensemble
        return ""
    if text := _hardly_trained(run):
        return text
    means = [_Means.of(run, number, unjudged) for number in range(1, len(run.history) + 1)]
    here, epochs = means[run.epoch - 1], len(means)
    if here.train - here.test > OVERFIT:
        is_flat = run.epoch < epochs and not any(one.test > here.test for one in means[run.epoch :])
        later = f" Test mAP did not rise after epoch {run.epoch} of {epochs}." if is_flat else ""
        return f"Overfitting: {here}.{later} {_against_overfitting(run)}"
    if text := _overfit_later(run, here, means[-1]) or _underfit(run, means[-1]):
        return text
    first = max(0, epochs - 1 - max(1, epochs // 5))
    gain = here.test - means[first].test
    if run.epoch == epochs and epochs > 1 and gain > STILL_RISING:
        return (
            f"Not trained to the end: {here}. Test mAP still rose by {gain:.3f} since epoch {first + 1}. Train longer: "
            f"EPOCHS={2 * epochs}."
        )
    return ""


def _hardly_trained(run: Run) -> str:
    """An epoch that the mAP chose although its loss was much higher than that of the last epoch."""
    split = run.made_with.split.epoch_chosen_on
    chosen, last = run.history[run.epoch - 1].loss(split), run.history[-1].loss(split)
    if not chosen > HARDLY_TRAINED * last:  # NaN of a split without a loss
        return ""
    return (
        f"Hardly trained: epoch {run.epoch} of {len(run.history)} was chosen by {split} mAP, although the {split} loss "
        f"fell from {chosen:.3f} to {last:.3f} after it. Choose a split whose {split} chips have and lack each class, "
        "and train again."
    )


@dataclass(frozen=True, kw_only=True)
class _Means:
    """Mean AP after an epoch over the classes that can be judged and have an AP in both splits; NaN without one.

    A rare class that the test split lacks would lower train mAP alone. `over`: which classes, if not all.
    """

    train: float
    test: float
    over: str
    is_one_class: bool

    @classmethod
    def of(cls, run: Run, epoch: int, unjudged: list[int]) -> "_Means":
        line = run.history[epoch - 1]
        pairs = {name: (line.ap("train", name), line.ap("test", name)) for c, name in enumerate(run.classes)
                 if c not in unjudged}  # fmt: skip
        both = {name: pair for name, pair in pairs.items() if not np.isnan(pair).any()}
        train, test = np.mean([*both.values()], axis=0).tolist() if both else (np.nan, np.nan)
        names = listed_some([*both]) if len(both) < 3 else f"{len(both)} classes"
        over = "" if len(both) == len(run.classes) else f" (of {names})"
        return cls(train=train, test=test, over=over, is_one_class=len(both) == 1)

    def __str__(self) -> str:
        kind = "AP" if self.is_one_class else "mAP"
        return f"train {kind} {self.train:.3f}, test {kind} {self.test:.3f}{self.over}"


def _against_overfitting(run: Run) -> str:
    """No regulariser is named first: on 27,000 chips of 32 pixels none raised the mAP (docs/log.md)."""
    more = "More chips or pretrained WEIGHTS help" if run.config.weights in ("none", "auto") else "More chips help"
    return f"{more} most; {'a larger MIXUP' if run.config.mixup else 'MIXUP=0.2'} can help."


def _overfit_later(run: Run, first: _Means, last: _Means) -> str:
    """An early epoch was chosen, because the network learnt the training chips only after it."""
    if not (last.train - last.test > OVERFIT and last.train > first.train and last.test < first.test):
        return ""
    return (
        f"Overfitting after epoch {run.epoch} of {len(run.history)}, which was chosen: train mAP rises from "
        f"{first.train:.3f} to {last.train:.3f}, test mAP falls from {first.test:.3f} to {last.test:.3f}{last.over}. "
        f"{_against_overfitting(run)}"
    )


def _underfit(run: Run, last: _Means) -> str:
    """A network that scores its own training chips no better than new ones has capacity or epochs to spare."""
    # Blended chips are harder than those of the test. NaN fails the first comparison.
    if not last.train <= last.test or last.test > LEARNT or run.config.mixup:
        return ""
    return (
        f"Underfitting: at the last epoch train mAP {last.train:.3f} is not above test mAP {last.test:.3f}{last.over}. "
        f"Train longer (EPOCHS={2 * len(run.history)}) or with a larger network ({_larger(run.config.arch)}); more "
        "regularisation will not help."
    )


def _larger(arch: str) -> str:
    """A setting for a larger network."""
    depths = [name for name in ARCHS if re.fullmatch(r"resnet\d+", name)]
    place = depths.index(arch) + 1 if arch in depths else len(depths)
    return f"ARCH={depths[place]}" if place < len(depths) else "ARCH"
