"""The chips with the highest and lowest scores of a class; ties are ordered by name."""

from dataclasses import dataclass

import numpy as np

from analysis.class_metrics import FEW_POSITIVES
from analysis.finished_run import Run
from preprocess.console import UserError

COUNT = 10


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Row numbers in the run's arrays: `best` from the highest score down, `worst` from the lowest up. `is_luck`: too
    few chips have or lack the class."""

    class_index: int
    best: np.ndarray
    worst: np.ndarray
    is_luck: bool


def extremes(scores: np.ndarray, names: np.ndarray, count: int = COUNT) -> tuple[np.ndarray, np.ndarray]:
    """(best, worst) rows of (N,) scores; equal scores are ordered by name."""
    return lowest(-scores, names, count), lowest(scores, names, count)


def lowest(scores: np.ndarray, names: np.ndarray, count: int) -> np.ndarray:
    """Rows of the `count` lowest scores, in order. Only scores up to the `count`-th lowest are sorted: sorting 590,000
    names takes seconds."""
    if not len(scores):
        return np.arange(0)
    limit = np.partition(scores, min(count, len(scores)) - 1)[min(count, len(scores)) - 1]
    rows = np.flatnonzero(scores <= limit)
    return np.asarray(rows[np.lexsort((names[rows], scores[rows]))][:count])


def _fewer(run: Run) -> np.ndarray:
    """(classes,) the chips that have the class, or those that lack it, whichever are fewer."""
    return np.asarray(np.minimum(run.positives, len(run.labels) - run.positives))


def choose_class(run: Run, class_name: str | None) -> int:
    """Index of the class, by default of the class with the highest AP among those that enough chips have and lack.

    The highest scores of a rare class are chance, and any scores give a high AP to a class that nearly every chip has.
    If each class is one or the other, the class with the largest of these smaller counts is chosen (`_fewer`).

    Raises:
        UserError: no such class.
    """
    if class_name is None:
        enough = _fewer(run) >= FEW_POSITIVES
        return int(np.argmax(np.where(enough, run.ap, -1) if enough.any() else _fewer(run)))
    if class_name not in run.classes:
        raise UserError(f"CLASS={class_name}: expected one of {', '.join(run.classes)}.")
    return run.classes.index(class_name)


def rank(run: Run, class_name: str | None) -> Ranking:
    """Rank the test split by one class's logits. Probabilities would tie where they round to 1."""
    index = choose_class(run, class_name)
    best, worst = extremes(run.logits[:, index], run.names)
    return Ranking(class_index=index, best=best, worst=worst, is_luck=bool(_fewer(run)[index] < FEW_POSITIVES))
