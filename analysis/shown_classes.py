"""Which classes a figure shows, where all would be too many to read and to draw. Tables have all of them.

In: scores per class. Out: `Choice`s: numbers of classes in their order, and a sentence for the page.
"""

from dataclasses import dataclass

import numpy as np

from analysis.class_metrics import FEW_POSITIVES

MAX_PANELS = 45  # small panels, three per row; a panel takes 0.1 s to draw
MAX_ROWS = 60  # of bars
MAX_CELLS = 50  # rows and columns of a matrix
WIDE_CELLS = 24  # of more, a matrix needs the width of the page


@dataclass(frozen=True, kw_only=True)
class Choice:
    """classes: (shown,) numbers, ascending. note: says which they are; "" for all."""

    classes: np.ndarray
    note: str


def by_ap(ap: np.ndarray, positives: np.ndarray, limit: int) -> Choice:
    """At most `limit` classes: those with the highest and the lowest AP, since a reader looks for these."""
    if len(ap) <= limit:
        return Choice(classes=np.arange(len(ap)), note="")
    # Chance alone orders classes with few positives.
    certain = np.flatnonzero(~np.isnan(ap) & (positives >= FEW_POSITIVES))
    if len(certain) < limit:
        return most_frequent(positives, limit)
    ranked = certain[np.argsort(ap[certain], kind="stable")]
    half = limit // 2
    return Choice(
        classes=np.sort(np.concatenate([ranked[:half], ranked[half - limit :]])),
        note=f"{limit} of {len(ap)} classes: the {half} with the lowest and the {limit - half} with the highest AP, "
        f"among those with {FEW_POSITIVES} positives or more.",
    )


def most_frequent(positives: np.ndarray, limit: int) -> Choice:
    """At most `limit` classes: those with the most positives."""
    if len(positives) <= limit:
        return Choice(classes=np.arange(len(positives)), note="")
    chosen = np.argsort(-positives, kind="stable")[:limit]
    return Choice(classes=np.sort(chosen), note=f"{limit} of {len(positives)} classes: those with the most positives.")
