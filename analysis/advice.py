"""What is worst about a run, and what to do about it: at most five sentences, computed from its numbers.

In: a run, its calibration, and the tables of an audit of its store if there is one. Out: texts, the most urgent first.
The limits below are chosen, not measured, unless a comment says so.
"""

import csv
import re
import shlex
from pathlib import Path

import numpy as np

from analysis.class_metrics import FEW_POSITIVES, Calibration
from analysis.finished_run import Run
from models.archs import ARCHS

MOST = 5
OVERFIT = 0.05  # train mAP above test mAP. Train scores are taken on augmented chips while the network learns
STILL_RISING = 0.005  # of test mAP over the last fifth of the epochs; seeds differ by 0.0012 (docs/log.md)
LEARNT = 0.98  # test mAP above which nobody needs a larger network
MISCALIBRATED = 0.05  # difference of forecast and share, mean over chips
WEAK = 0.7  # times the mAP
_NAMES = 4  # of classes in a sentence


def advice(run: Run, calibrations: list[Calibration], audit_folder: Path | None) -> list[str]:
    """The sentences. `audit_folder`: where an audit of the run's store would be; None if that is not known."""
    lines = [
        _weakest(run), _leak(run, audit_folder), _fit(run), _rare(run), _calibration(run, calibrations),
        _no_audit(run, audit_folder),
    ]  # fmt: skip
    return [line for line in lines if line][:MOST]


def _weakest(run: Run) -> str:
    """The classes whose AP is far below the mean, among those with enough positives."""
    known = (run.positives >= FEW_POSITIVES) & ~np.isnan(run.ap)
    weak = [int(c) for c in np.argsort(run.ap, kind="stable") if known[c] and run.ap[c] < WEAK * run.mean_ap]
    if not weak:
        return ""
    chance = run.positives / len(run.labels)
    names = listed_some([f"{run.classes[c]} ({run.ap[c]:.3f}, chance {chance[c]:.3f})" for c in weak])
    return (
        f"Weakest classes (AP below {WEAK} times the mAP, {FEW_POSITIVES} positives or more): {names}. Look at their "
        "false positives and false negatives under Top losses, and correct wrong labels before you change settings."
    )


def _rare(run: Run) -> str:
    """The classes with too few positives to judge."""
    rare = [int(c) for c in np.argsort(run.positives, kind="stable") if run.positives[c] < FEW_POSITIVES]
    if not rare:
        return ""
    names = listed_some([f"{run.classes[c]} ({run.positives[c]})" for c in rare])
    return (
        f"{len(rare)} of {len(run.classes)} classes have fewer than {FEW_POSITIVES} positive test chips: {names}. "
        "Their AP is mostly luck. Label more chips of them; BALANCE=0.5 gives rare labels more weight in training."
    )


def _fit(run: Run) -> str:
    """Overfitting, underfitting, or a training that stopped too early."""
    if not run.history:  # the scores of an ensemble
        return ""
    line = run.history[run.epoch - 1]
    train, test, epochs = line.mean_ap("train"), line.mean_ap("test"), len(run.history)
    if train - test > OVERFIT:
        return (
            f"Overfitting: train mAP {train:.3f}, test mAP {test:.3f}. More chips help most; else try "
            f"{'a larger MIXUP' if run.config.mixup else 'MIXUP=0.2'}, a larger WEIGHT_DECAY, a smaller ARCH, or "
            "pretrained WEIGHTS."
        )
    if text := _underfit(run):
        return text
    first = max(0, epochs - 1 - max(1, epochs // 5))
    gain = test - run.history[first].mean_ap("test")
    if run.epoch == epochs and epochs > 1 and gain > STILL_RISING:
        return (
            f"Not trained to the end: train mAP {train:.3f}, test mAP {test:.3f}, which still rose by {gain:.3f} since "
            f"epoch {first + 1}. Train longer: EPOCHS={2 * epochs}."
        )
    return ""


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


def _calibration(run: Run, calibrations: list[Calibration]) -> str:
    """Probabilities that are too high or too low."""
    counts, gaps = np.array([one.count for one in calibrations]), []
    for one in calibrations:
        gaps.append(np.where(one.count > 0, one.forecast - one.share, 0.0))
    signed = (counts * np.array(gaps)).sum(axis=1) / np.maximum(counts.sum(axis=1), 1)
    size = (counts * np.abs(gaps)).sum(axis=1) / np.maximum(counts.sum(axis=1), 1)
    worst = int(np.argmax(size))
    if size[worst] <= MISCALIBRATED:
        return ""
    bad = int((size > MISCALIBRATED).sum())
    direction = "too high" if signed[worst] > 0 else "too low"
    return (
        f"{bad} of {len(run.classes)} classes have probabilities that differ from the observed shares by more than "
        f"{MISCALIBRATED} on average; most of all {run.classes[worst]} ({size[worst]:.3f}, mostly {direction}). Do not "
        "decide at 0.5: use the tuned thresholds (tables/thresholds.csv), as make predict does."
    )


def _leak(run: Run, folder: Path | None) -> str:
    """Duplicates and neighbours in train and in test, as the audit counted them."""
    if folder is None or not (folder / "tables/findings.csv").is_file():
        return ""
    with open(folder / "tables/findings.csv", newline="", encoding="utf-8") as file:
        counts = {row["finding"]: row["count"].replace(",", "") for row in csv.DictReader(file) if row.get("finding")}
    leaks = {name.partition(",")[0]: int(count) for name, count in counts.items()
             if name.endswith(", in train and in test") and count.isdecimal() and int(count)}  # fmt: skip
    if not leaks or run.made_with.split.rule.startswith("blocked"):
        return ""
    words = ", ".join(f"{count:,} {name.lower()}" for name, count in leaks.items())
    return (
        f"Leak: the audit of the store found pairs of a train chip and a test chip ({words}), so test scores are "
        "optimistic. Train again with SPLIT=blocked."
    )


def _no_audit(run: Run, folder: Path | None) -> str:
    if folder is None or (folder / "tables/findings.csv").is_file():
        return ""
    return (
        "Duplicates, leaks and bad labels were not looked for: make audit "
        f"STORE={shlex.quote(run.config.store)} RUN={shlex.quote(str(run.path))}"
    )


def listed_some(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    rest = len(names) - _NAMES
    return ", ".join(names) if rest <= 0 else f"{', '.join(names[:_NAMES])} and {rest} more"
