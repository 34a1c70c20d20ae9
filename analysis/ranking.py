"""The chips with the highest and lowest scores of a class; ties are ordered by name."""

from dataclasses import dataclass

import numpy as np

from analysis.finished_run import Run
from preprocess.console import UserError

COUNT = 10


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Row numbers in the run's arrays: `best` from the highest score down, `worst` from the lowest up."""

    class_index: int
    best: np.ndarray
    worst: np.ndarray


def extremes(scores: np.ndarray, names: np.ndarray, count: int = COUNT) -> tuple[np.ndarray, np.ndarray]:
    """(best, worst) rows of (N,) scores; equal scores are ordered by name."""
    return _lowest(-scores, names, count), _lowest(scores, names, count)


def _lowest(scores: np.ndarray, names: np.ndarray, count: int) -> np.ndarray:
    """Only scores up to the `count`-th lowest are sorted: sorting 590,000 names takes seconds."""
    limit = np.partition(scores, min(count, len(scores)) - 1)[min(count, len(scores)) - 1]
    rows = np.flatnonzero(scores <= limit)
    return np.asarray(rows[np.lexsort((names[rows], scores[rows]))][:count])


def choose_class(run: Run, class_name: str | None) -> int:
    """Index of the class, by default of the class with the highest AP (the first of several).

    Raises:
        UserError: no such class.
    """
    if class_name is None:
        return 0 if np.isnan(run.ap).all() else int(np.nanargmax(run.ap))
    if class_name not in run.classes:
        raise UserError(f"CLASS={class_name}: expected one of {', '.join(run.classes)}.")
    return run.classes.index(class_name)


def rank(run: Run, class_name: str | None) -> Ranking:
    """Rank the test split by one class's logits. Probabilities would tie where they round to 1."""
    index = choose_class(run, class_name)
    best, worst = extremes(run.logits[:, index], run.names)
    return Ranking(class_index=index, best=best, worst=worst)
