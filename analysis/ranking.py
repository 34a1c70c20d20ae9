"""The chips that a class is seen in most and least: highest and lowest scores, ties in name order."""

from dataclasses import dataclass

import numpy as np

from analysis.finished_run import Run
from preprocess.console import UserError

COUNT = 10


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Row numbers of the run's arrays: `best` from the highest score down, `worst` from the lowest up."""

    class_index: int
    best: np.ndarray
    worst: np.ndarray


def extremes(scores: np.ndarray, names: np.ndarray, count: int = COUNT) -> tuple[np.ndarray, np.ndarray]:
    """(best, worst) rows of (N,) scores; equal scores are in the order of their names."""
    return np.lexsort((names, -scores))[:count], np.lexsort((names, scores))[:count]


def choose_class(run: Run, wanted: str | None) -> int:
    """The index of class `wanted`, or of the class with the highest AP (the first of several).

    Raises:
        UserError: no such class.
    """
    if wanted is None:
        return 0 if np.isnan(run.ap).all() else int(np.nanargmax(run.ap))
    if wanted not in run.classes:
        raise UserError(f"CLASS={wanted}: expected one of {', '.join(run.classes)}.")
    return run.classes.index(wanted)


def rank(run: Run, wanted: str | None) -> Ranking:
    """Rank the test split by one class's logits, which do not tie where probabilities round to 1."""
    index = choose_class(run, wanted)
    best, worst = extremes(run.logits[:, index], run.names)
    return Ranking(class_index=index, best=best, worst=worst)
