"""`make compare`: runs and ensembles side by side, a line each, with intervals of their differences from the first.

In: folders of runs, or of `make ensemble`, scored on the same chips. Out: a table on the terminal. Leaves the
differences to `comparison`, and tables per class to `make report COMPARE=...`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from analysis.bootstrap import bootstrap_ap, interval
from analysis.class_metrics import mean_over_classes
from analysis.comparison import check_comparable, difference
from analysis.finished_run import Run, load_run
from preprocess.console import one_line, say

COLUMNS = ("run", "scores", "test mAP", "95 % interval", "minus the first", "95 % interval")


def compare(paths: Sequence[Path]) -> None:
    """Print a line for each folder.

    Raises:
        UserError: a run cannot be read, or was scored on other chips than the first.
    """
    first, *others = [load_run(path) for path in paths]
    for other in others:
        check_comparable(first, other, word="RUNS")
    resampled = bootstrap_ap(first.labels, first.logits)
    rows = [COLUMNS, (*_row(first, resampled), "", "")]
    for other in others:
        own = bootstrap_ap(other.labels, other.logits)
        gap = difference(first, other, resampled, own)
        rows.append((*_row(other, own), _number(gap.mean_ap, "+"), _interval(*gap.mean_ap_interval, "+")))
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    for row in rows:
        say("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    say("Intervals: bootstrap over the test chips; those of differences draw the same chips for both.")


def how_scored(run: Run) -> str:
    """One run or several, with TTA or without, in few words."""
    evaluation = run.record.evaluation
    count = len(evaluation.members) if evaluation else 1
    return f"{'one run' if count == 1 else f'mean of {count} runs'}{', TTA' if evaluation and evaluation.tta else ''}"


def _row(run: Run, resampled: np.ndarray) -> tuple[str, str, str, str]:
    low, high = interval(mean_over_classes(resampled))
    return one_line(str(run.path)), how_scored(run), _number(run.mean_ap), _interval(float(low), float(high))


def _number(value: float, sign: str = "") -> str:
    return "none" if np.isnan(value) else f"{value:{sign}.4f}"


def _interval(low: float, high: float, sign: str = "") -> str:
    return f"{low:{sign}.4f} to {high:{sign}.4f}" if low <= high else "none"
