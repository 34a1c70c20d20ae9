"""Sentences for the first lines of a report about classes: too frequent, no better than chance, weak, too rare.

In: a run and the 95 % intervals of its AP. Out: texts, or "". The limits below are chosen, not measured.
"""

import shlex

import numpy as np

from analysis.class_metrics import FEW_POSITIVES, mean_over_classes
from analysis.finished_run import Run

WEAK = 0.7  # times the mAP
NEARLY_EVERY = 0.9  # of the test chips; below, random scores have no high AP
NOT_LEARNT = 0.05  # train AP above test AP of a class. With a larger difference its chips are learnt by heart
FEWEST = 10  # positives for a statement about chance; with fewer, the interval of AP has no meaning
_NAMES = 4  # of classes in a sentence


def listed_some(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    rest = len(names) - _NAMES
    return ", ".join(names) if rest <= 1 else f"{', '.join(names[:_NAMES])} and {rest} more"


def _frequent(run: Run) -> list[int]:
    """Classes that almost every test chip has, the most frequent first."""
    lacking = len(run.labels) - run.positives
    return [int(c) for c in np.argsort(lacking, kind="stable")
            if lacking[c] < FEW_POSITIVES <= run.positives[c] >= NEARLY_EVERY * len(run.labels)]  # fmt: skip


def frequent(run: Run) -> str:
    """Classes whose AP is near 1 for any scores, and the mean AP of those that can judge the run."""
    classes = _frequent(run)
    if not classes:
        return ""
    lacking, chance = len(run.labels) - run.positives, run.positives / len(run.labels)
    names = listed_some([f"{run.classes[c]} ({lacking[c]})" for c in classes])
    judges = [c for c in range(len(run.classes)) if c not in classes and run.positives[c] >= FEW_POSITIVES]
    judge = (
        "No other class has enough positive chips either, so this split cannot judge the run: choose one whose test "
        "chips have and lack each class (and keep the chips of a scene together), or label more chips."
    )
    if judges:
        ap, by_chance = (float(mean_over_classes(values[judges])) for values in (run.ap, chance))
        judge = f"Judge the run by the other classes: mean AP {ap:.3f}, by chance {by_chance:.3f}."
    return (
        f"Nearly every test chip has {len(classes)} of the {len(run.classes)} classes, so any scores give them a high "
        f"AP: {names}. In brackets: the test chips without the class. {judge}"
    )


def unjudged(run: Run, low: np.ndarray) -> list[int]:
    """Classes that say nothing about how the network learns: too frequent, or scored no better than chance."""
    return [*_frequent(run), *_by_chance(run, low)]


def _by_chance(run: Run, low: np.ndarray) -> list[int]:
    """Classes whose interval of AP holds the AP of random scores, the lowest AP first."""
    chance, skipped = run.positives / len(run.labels), _frequent(run)
    return [int(c) for c in np.argsort(run.ap, kind="stable")
            if run.positives[c] >= FEWEST and c not in skipped and low[c] <= chance[c]]  # fmt: skip


def no_better_than_chance(run: Run, interval: tuple[np.ndarray, np.ndarray]) -> str:
    """Classes that the network has not learnt, and the bands that it does not see."""
    low, high = interval
    classes = _by_chance(run, low)
    if not classes:
        return ""
    chance = run.positives / len(run.labels)
    names = listed_some([
        f"{run.classes[c]} (AP {run.ap[c]:.3f}, 95 % interval {low[c]:.3f} to {high[c]:.3f}, chance {chance[c]:.3f})"
        for c in classes
    ])  # fmt: skip
    return f"No better than chance: {names}. {_unused_bands(run) or _LOOK}"


_LOOK = "Look at their chips under Top losses: can you see the class in them, and do the labels fit?"


def _unused_bands(run: Run) -> str:
    """What to set, if the store has bands that the network does not see."""
    inputs = run.record.inputs
    bands = inputs.chip.bands if inputs.chip else ()
    unused = [band for band in bands if band not in inputs.bands]
    if not unused or inputs.kind != "raw":
        return ""
    setting = "TASK=4" if unused == ["nir"] else f"TASK=4 BANDS_IN={shlex.quote(','.join(bands))}"
    return f"The network does not see {'band' if len(unused) == 1 else 'bands'} {listed_some(unused)}: try {setting}."


def weakest(run: Run, low: np.ndarray) -> str:
    """The classes whose AP is above chance, but far below the mean, among those with enough positives."""
    known = (run.positives >= FEW_POSITIVES) & ~np.isnan(run.ap)
    known[_by_chance(run, low)] = False
    weak = [int(c) for c in np.argsort(run.ap, kind="stable") if known[c] and run.ap[c] < WEAK * run.mean_ap]
    if not weak:
        return ""
    chance = run.positives / len(run.labels)
    names = listed_some([f"{run.classes[c]} ({run.ap[c]:.3f}, chance {chance[c]:.3f})" for c in weak])
    return (
        f"Weakest classes (AP below {WEAK} times the mAP, {FEW_POSITIVES} positives or more): {names}. "
        f"{_not_learnt(run, weak)}Look at them under Top losses: can you see the class, and are the labels right?"
    )


def _not_learnt(run: Run, weak: list[int]) -> str:
    """Which of the weak classes are as weak on train chips."""
    if not run.history:  # the scores of an ensemble
        return ""
    train = np.array([run.history[run.epoch - 1].ap("train", run.classes[c]) for c in weak])
    same = [run.classes[c] for c, ap in zip(weak, train, strict=True) if ap - run.ap[c] < NOT_LEARNT]
    if not same:
        return ""
    what = f"{listed_some(same)} {'is' if len(same) == 1 else 'are'}"
    return f"On train chips {what} as weak: more pixels or a larger network can help. "


def rare(run: Run) -> str:
    """The classes with too few positives to judge, and those without any."""
    order = [int(c) for c in np.argsort(run.positives, kind="stable")]
    absent = [run.classes[c] for c in order if not run.positives[c]]
    few = [f"{run.classes[c]} ({run.positives[c]})" for c in order if 0 < run.positives[c] < FEW_POSITIVES]
    texts = []
    if absent:
        texts.append(
            f"No test chip has {listed_some(absent)}, so there is no AP: choose another split, such as "
            "SPLIT=0.67,0.33@1."
        )
    if few:
        texts.append(
            f"Fewer than {FEW_POSITIVES} test chips have {listed_some(few)}: {'its' if len(few) == 1 else 'their'} AP "
            f"is very uncertain. Label more chips of {'it' if len(few) == 1 else 'them'}; if the store has enough, "
            "choose a split with more test chips."
        )
    return " ".join(texts)
