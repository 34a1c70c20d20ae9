"""The rows of a labels file in memory: arrays, and the different texts once.

In: rows, one after another. Out: `TagRows`. A million rows take the bytes of their different names and 20 bytes each.
Leaves files and their forms to `labels`.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from preprocess.packed_texts import PackedTexts, TextBuilder, TextNumbers


class TagRow(NamedTuple):
    """One row of the CSV: its name as written, its tags in order, including repeated ones, and its split as written."""

    line: int
    name: str
    tags: tuple[str, ...]
    split: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class TagRows:
    """Rows of one form: that of `LabelSettings`, or "list" where the file itself holds lists.

    names: as written. name_places: (rows,) int32, positions in `names`, which has each different name in the order in
    which they come first; None if `names` has one per row. lines: (rows,) int64. kinds: (rows,) int32, positions in
    `tags`, likewise; and `split_kinds` in `splits`. classes: those of a one-hot file, else None. columns: of the file.
    """

    form: str
    classes: tuple[str, ...] | None
    columns: tuple[str, ...]
    names: PackedTexts
    name_places: np.ndarray | None
    lines: np.ndarray
    kinds: np.ndarray
    tags: tuple[tuple[str, ...], ...]
    split_kinds: np.ndarray
    splits: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.lines)

    def __iter__(self) -> Iterator[TagRow]:
        for row in range(len(self)):
            yield self[row]

    def __getitem__(self, row: int) -> TagRow:
        name = row if self.name_places is None else int(self.name_places[row])
        tags, split = self.tags[self.kinds[row]], self.splits[self.split_kinds[row]]
        return TagRow(int(self.lines[row]), self.names[name], tags, split)

    def first_rows(self) -> np.ndarray:
        """(names,) int64: the first row of each of `names`, ascending."""
        if self.name_places is None:
            return np.arange(len(self))
        before = np.maximum.accumulate(self.name_places)
        return np.flatnonzero(np.diff(before, prepend=np.int32(-1)))

    def places(self) -> np.ndarray:
        """(rows,): the position of each row's name in `names`."""
        return np.arange(len(self)) if self.name_places is None else self.name_places

    def first_lines(self) -> list[int]:
        """The line of the first row of each of `tags`."""
        _, first = np.unique(self.kinds, return_index=True)
        return [int(line) for line in self.lines[first]]


class RowCollector:
    """Makes `TagRows` from rows that come one after another."""

    def __init__(self, *, repeated_names: bool = False) -> None:
        """`repeated_names`: a name may have many rows and is kept once. Else it is kept in each row, which needs no
        search."""
        self._names, self._lines = TextBuilder(), array("q")
        self._numbers = TextNumbers(self._names) if repeated_names else None
        self._places, self._kinds, self._split_kinds = array("i"), array("i"), array("i")
        self._tags: dict[tuple[str, ...], int] = {}
        self._splits: dict[str, int] = {}

    def add(self, line: int, name: str, tags: tuple[str, ...], split: str = "") -> None:
        """Add a row."""
        if self._numbers is None:
            self._names.append(name)
        else:
            self._places.append(self._numbers.number(name))
        self._lines.append(line)
        self._kinds.append(self._tags.setdefault(tags, len(self._tags)))
        self._split_kinds.append(self._splits.setdefault(split, len(self._splits)))

    def rows(self, form: str, classes: tuple[str, ...] | None = None, columns: tuple[str, ...] = ()) -> TagRows:
        """All rows so far. None can be added afterwards."""
        places = None if self._numbers is None else np.frombuffer(self._places, np.int32)
        self._numbers = None  # frees its dict
        return TagRows(
            form=form, classes=classes, columns=columns, names=self._names.packed(), name_places=places,
            lines=np.frombuffer(self._lines, np.int64), kinds=np.frombuffer(self._kinds, np.int32),
            tags=tuple(self._tags), split_kinds=np.frombuffer(self._split_kinds, np.int32), splits=tuple(self._splits),
        )  # fmt: skip
