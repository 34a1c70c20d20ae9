"""What is worst about a run, and what to do about it: at most five sentences, computed from its numbers.

In: a run, its calibration and intervals, and the tables of an audit of its store if there is one. Out: texts, the most
urgent first. Leaves the sentences about classes to `class_advice`, about training to `fit_advice`. The limits below are
chosen, not measured.
"""

import csv
import shlex
from pathlib import Path

import numpy as np

from analysis.baselines import below_majority
from analysis.class_advice import frequent, listed_some, no_better_than_chance, rare, unjudged, weakest
from analysis.class_metrics import FEW_POSITIVES, Calibration
from analysis.finished_run import Run
from analysis.fit_advice import fit

MOST = 5
MISCALIBRATED = 0.05  # difference of forecast and share, mean over chips
# Tables of an audit, and what the pairs in them are called here.
_PAIRS = {"exact_duplicates": "an exact duplicate", "near_duplicates": "a near duplicate", "neighbours": "a neighbour"}


def advice(
    run: Run, calibrations: list[Calibration], audit_folder: Path | None, interval: tuple[np.ndarray, np.ndarray]
) -> list[str]:
    """The sentences. `audit_folder`: where an audit of the run's store would be; None if that is not known. `interval`:
    (low, high) of each class's AP."""
    skipped, below = unjudged(run, interval[0]), below_majority(run.labels, run.logits)
    lines = [
        frequent(run), no_better_than_chance(run, interval), below.text if below else "", _leak(run, audit_folder),
        _no_audit(run, audit_folder), weakest(run, interval[0]), fit(run, skipped), rare(run),
        "" if below and not below.tuning_helps else _decisions(run, calibrations, skipped),
    ]  # fmt: skip
    return [line for line in lines if line][:MOST]


def _decisions(run: Run, calibrations: list[Calibration], skipped: list[int]) -> str:
    """Why 0.5 is the wrong threshold: wrong probabilities, or classes that are never found there."""
    reasons = " ".join(filter(None, (_miscalibrated(run, calibrations, skipped), _never_found(run, skipped))))
    if not reasons:
        return ""
    return (
        f"{reasons} Do not decide at 0.5. tables/thresholds.csv has thresholds tuned for F2, which make predict uses; "
        "for a metric that punishes false positives more, choose higher ones."
    )


def _miscalibrated(run: Run, calibrations: list[Calibration], skipped: list[int]) -> str:
    """Probabilities that are too high or too low."""
    counts, gaps = np.array([one.count for one in calibrations]), []
    for one in calibrations:
        gaps.append(np.where(one.count > 0, one.forecast - one.share, 0.0))
    signed = (counts * np.array(gaps)).sum(axis=1) / np.maximum(counts.sum(axis=1), 1)
    size = (counts * np.abs(gaps)).sum(axis=1) / np.maximum(counts.sum(axis=1), 1)
    size[skipped] = 0
    worst = int(np.argmax(size))
    if size[worst] <= MISCALIBRATED:
        return ""
    bad = int((size > MISCALIBRATED).sum())
    direction = "too high" if signed[worst] > 0 else "too low"
    return (
        f"Miscalibrated by more than {MISCALIBRATED}: {bad} of {len(run.classes)} classes. Worst is "
        f"{run.classes[worst]}, whose probabilities are wrong by {size[worst]:.3f} on average, mostly {direction}."
    )


def _never_found(run: Run, skipped: list[int]) -> str:
    """Classes with enough positive chips that the model gives no chip at threshold 0.5."""
    hits = ((run.logits > 0) & (run.labels == 1)).sum(axis=0)
    never = np.flatnonzero((hits == 0) & (run.positives >= FEW_POSITIVES)).tolist()
    missed = [run.classes[c] for c in never if c not in skipped]
    return f"At threshold 0.5 no chip with {' or '.join(missed)} is found." if 0 < len(missed) < 3 else (
        f"At threshold 0.5 no chip of {len(missed)} classes is found: {listed_some(missed)}." if missed else ""
    )  # fmt: skip


def _leak(run: Run, folder: Path | None) -> str:
    """Duplicates and neighbours that an audit found, of a test chip of this run outside the test split.

    The audit's own counts are of the split that it was given, which may be another.
    """
    if folder is None:
        return ""
    test, words = set(run.names.tolist()), []
    for table, name in _PAIRS.items():
        path = folder / "tables" / f"{table}.csv"
        if path.is_file():
            with open(path, newline="", encoding="utf-8") as file:
                pairs = [{row.get("image_name"), row.get("image_name 2")} for row in csv.DictReader(file)]
            if leaking := {chip for pair in pairs if len(pair & test) == 1 for chip in pair & test}:
                words.append(f"{len(leaking):,} have {name}")
    if not words:
        return ""
    split = run.made_with.split
    all_used = split.train + split.val + split.test == run.made_with.store.chips
    where = "in the training data" if all_used else "outside the test split"
    return (
        f"Leak: of the {len(test):,} test chips {' and '.join(words)} {where}, as the audit of the store found. Test "
        "scores are optimistic. Train again with SPLIT=blocked."
    )


def _no_audit(run: Run, folder: Path | None) -> str:
    if folder is None or (folder / "tables/findings.csv").is_file():
        return ""
    return (
        "Duplicates, leaks and bad labels were not looked for: make audit "
        f"STORE={shlex.quote(run.config.store)} RUN={shlex.quote(str(run.path))}"
    )
