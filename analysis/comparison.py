"""Compare runs on the same chips: paired bootstrap intervals of the differences of AP and mAP.

In: runs. Out: `Difference`s. Paired: a resample draws the same chips for both runs, so chips that are hard for both
cancel out.
"""

from dataclasses import dataclass

import numpy as np

from analysis.bootstrap import bootstrap_ap, interval
from analysis.class_metrics import mean_over_classes
from analysis.finished_run import Run
from preprocess.console import UserError


@dataclass(frozen=True, kw_only=True)
class Difference:
    """`other` minus the reported run: mAP and (classes,) AP, each with its 95 % interval."""

    other: Run
    mean_ap: float
    mean_ap_interval: tuple[float, float]
    ap: np.ndarray
    ap_low: np.ndarray
    ap_high: np.ndarray


def check_comparable(run: Run, other: Run, word: str = "COMPARE") -> None:
    """Raise UserError unless both runs were scored on the same chips, classes and labels in the same order. `word`: the
    setting that names `other`."""
    setting = f"{word}={other.path}"
    if run.classes != other.classes:
        raise UserError(f"{setting}: expected the classes {', '.join(run.classes)}, found {', '.join(other.classes)}.")
    if not np.array_equal(run.names, other.names):
        raise UserError(
            f"{setting}: expected the {len(run.names)} test chips of {run.path}, found {len(other.names)} others. "
            "Compare runs of the same STORE and SPLIT."
        )
    if not np.array_equal(run.labels, other.labels):
        raise UserError(f"{setting}: expected the labels of {run.path}, found others (SHUFFLE_LABELS=1?).")


def difference(run: Run, other: Run, run_ap: np.ndarray, other_ap: np.ndarray | None = None) -> Difference:
    """Compare two runs.

    Args:
        run: the reported run.
        other: the run to compare with.
        run_ap: (resamples, classes), `bootstrap_ap` of `run`.
        other_ap: that of `other`; None: it is computed here.
    """
    gaps = (bootstrap_ap(other.labels, other.logits) if other_ap is None else other_ap) - run_ap
    low, high = interval(gaps)
    mean_low, mean_high = interval(mean_over_classes(gaps))
    return Difference(
        other=other,
        mean_ap=other.mean_ap - run.mean_ap,
        mean_ap_interval=(float(mean_low), float(mean_high)),
        ap=other.ap - run.ap,
        ap_low=low,
        ap_high=high,
    )
