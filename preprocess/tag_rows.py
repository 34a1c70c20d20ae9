"""The rows of a labels file in memory: arrays, and the different texts once.

In: rows, one after another. Out: `TagRows`. A million rows take the bytes of their names and 20 bytes each. Leaves
files and their forms to `labels`.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from preprocess.packed_texts import PackedTexts, TextBuilder


class TagRow(NamedTuple):
    """One row of the CSV: its name as written, its tags in order, including repeated ones, and its split as written."""

    line: int
    name: str
    tags: tuple[str, ...]
    split: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class TagRows:
    """Rows of one form: that of `LabelSettings`, or "list" where the file itself holds lists.

    names: as written. lines: (rows,) int64. kinds: (rows,) int32, positions in `tags`, which has each different tuple
    of tags in the order in which they come first; likewise `split_kinds` and `splits`. classes: those of a one-hot
    file, else None. columns: of the file.
    """

    form: str
    classes: tuple[str, ...] | None
    columns: tuple[str, ...]
    names: PackedTexts
    lines: np.ndarray
    kinds: np.ndarray
    tags: tuple[tuple[str, ...], ...]
    split_kinds: np.ndarray
    splits: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[TagRow]:
        numbers = zip(self.lines.tolist(), self.kinds.tolist(), self.split_kinds.tolist(), strict=True)
        for name, (line, kind, split) in zip(self.names, numbers, strict=True):
            yield TagRow(line, name, self.tags[kind], self.splits[split])

    def first_lines(self) -> list[int]:
        """The line of the first row of each of `tags`."""
        _, first = np.unique(self.kinds, return_index=True)
        return [int(line) for line in self.lines[first]]


class RowCollector:
    """Makes `TagRows` from rows that come one after another."""

    def __init__(self) -> None:
        self._names, self._lines = TextBuilder(), array("q")
        self._kinds, self._split_kinds = array("i"), array("i")
        self._tags: dict[tuple[str, ...], int] = {}
        self._splits: dict[str, int] = {}

    def add(self, line: int, name: str, tags: tuple[str, ...], split: str = "") -> None:
        """Add a row."""
        self._names.append(name)
        self._lines.append(line)
        self._kinds.append(self._tags.setdefault(tags, len(self._tags)))
        self._split_kinds.append(self._splits.setdefault(split, len(self._splits)))

    def rows(self, form: str, classes: tuple[str, ...] | None = None, columns: tuple[str, ...] = ()) -> TagRows:
        """All rows so far. None can be added afterwards."""
        return TagRows(
            form=form, classes=classes, columns=columns, names=self._names.packed(),
            lines=np.frombuffer(self._lines, np.int64), kinds=np.frombuffer(self._kinds, np.int32),
            tags=tuple(self._tags), split_kinds=np.frombuffer(self._split_kinds, np.int32), splits=tuple(self._splits),
        )  # fmt: skip
