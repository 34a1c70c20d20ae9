"""What a check of an audit found: the names of the checks, and the type of their results.

Leaves the checks to `label_checks`, `pixel_checks` and `duplicates`, and what to do about a finding to
`finding_actions`. Imports nothing heavy.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


class Check(Enum):
    """The checks; the value is the title on the page and in the tables. In the order in which to act on them."""

    ABSENT_CLASSES = "Classes absent from a split"
    UNJUDGED_CLASSES = "Classes with too few test chips"
    OTHER_JPEG = "Different from the JPEG"
    CHANGED_TAGS = "Tags differ from the CSV"
    CONTRADICTORY_TAGS = "Contradictory tags"
    NO_EXCLUSIVE_TAG = "None of the exclusive tags"
    REPEATED_TAGS = "Repeated tags"
    NO_TAG = "No tag"
    ONLY_NODATA = "Only nodata"
    DOUBTED_LABELS = "Labels that the model doubts"
    CONSTANT = "Constant"
    PARTLY_EMPTY = "Partly empty"
    PARTLY_NODATA = "Partly nodata"
    OUTLIERS = "Outliers"
    SATURATED = "Saturated"
    EXACT_DUPLICATES = "Exact duplicates"
    NEAR_DUPLICATES = "Near duplicates"
    NEIGHBOURS = "Neighbours"


PAIRS = (Check.EXACT_DUPLICATES, Check.NEAR_DUPLICATES, Check.NEIGHBOURS)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check. `chips`: (F, k) chip indices, one group of k chips per row; `reasons`: one line per row.

    `missing` says what the check needs, if it was not made; it is empty otherwise. `table`: the rows of a check that
    finds no chips, such as one of classes. `is_leak`: the pairs of a check with one chip in test, one in train or val.
    """

    check: Check
    about: str
    chips: np.ndarray = field(default_factory=lambda: np.empty((0, 1), np.int64))
    reasons: list[str] = field(default_factory=list)
    missing: str = ""
    table: "pd.DataFrame | None" = None
    is_leak: bool = False

    @classmethod
    def of_chips(cls, check: Check, about: str, rows: Iterable[tuple[int, str]]) -> Self:
        """A finding of single chips: (chip, reason) per row."""
        rows = list(rows)
        chips = np.array([chip for chip, _ in rows], np.int64).reshape(-1, 1)
        return cls(check=check, about=about, chips=chips, reasons=[reason for _, reason in rows])

    @classmethod
    def not_made(cls, check: Check, needs: str) -> Self:
        """A check that was not made."""
        return cls(check=check, about="", missing=needs)

    @property
    def title(self) -> str:
        """The title on the page; tables are named after it."""
        return f"{self.check.value}, in train and in test" if self.is_leak else self.check.value

    @property
    def count(self) -> int:
        """Number of rows that were found."""
        return len(self.chips) if self.table is None else len(self.table)
