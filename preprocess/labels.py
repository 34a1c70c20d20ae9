"""Read a CSV of tags: chip names and a (chips, classes) multi-hot matrix in the order of the rows.

In: a CSV and its `LabelSettings`. Out: a `LabelTable`. Leaves finding the files to `file_matching` and dividing the
rows to `splits`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from preprocess import tags
from preprocess.console import UserError
from preprocess.csv_rows import Table, read_table
from preprocess.image_names import stem, unsafe
from preprocess.label_settings import LabelSettings, column_places


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """One row per chip: `names` (N), `labels` (N, classes) uint8 0/1, `classes` in column order.

    `lines`: (N) int64, line numbers in the CSV. `padded`: rows whose name has spaces around it in the CSV; `names` have
    none.
    """

    names: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    lines: np.ndarray
    padded: frozenset[int]


class TagRow(NamedTuple):
    """One row of the CSV: its name as written, and its tags in order, including repeated ones."""

    line: int
    name: str
    tags: tuple[str, ...]


class HasSource(Protocol):
    """A store, or the plan of one: what the conversion noted about the files, and where."""

    @property
    def path(self) -> Path | str:
        """For messages."""
        ...

    @property
    def source(self) -> dict[str, Any]:
        """JSON, as a store keeps it."""
        ...


def settings_of(store: HasSource) -> LabelSettings:
    """Label settings of a store's conversion; the defaults for a store that does not keep them."""
    settings = store.source.get("labels", {})
    if not isinstance(settings, dict):
        raise UserError(f"{store.path}: expected label settings, found {settings!r}. Convert again.")
    return LabelSettings.of(settings)


def read_rows(path: Path, columns: tuple[str, ...], separator: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, fields of `columns`) for every row. The CSV must have these columns; others are ignored."""
    table = read_table(path, separator)
    yield from _of_columns(table, column_places(table, columns))


def read_tags(
    path: Path, settings: LabelSettings, classes: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...] | None, list[TagRow]]:
    """(classes of a one-hot CSV or None, rows). With `classes`, other columns of a one-hot CSV are ignored.

    Raises:
        UserError: the CSV cannot be read, a column is missing, or a field does not follow the format.
    """
    table = read_table(path, settings.csv_separator)
    if settings.format == "onehot":
        return _read_onehot(table, settings, classes)
    names = (settings.name_column, settings.tags_column)
    places = column_places(table, names, settings)
    same: dict[tuple[str, ...], tuple[str, ...]] = {}  # rows with equal tags share one tuple in memory
    rows = []
    for line, (name, field) in _of_columns(table, places):
        found: list[str] | None
        if settings.format == "list":
            found = tags.list_tags(field)
            if found is None:
                raise UserError(
                    f"{path} line {line}: expected a JSON or Python list of texts, found {field!r}. "
                    """For example: ["clear", "road"]"""
                )
        else:
            found = [text] if (text := field.strip(" ")) and settings.format == "long" else []
            if settings.format == "tags":
                found = tags.split_tags(field, settings.tags_separator)
        rows.append(TagRow(line, name, same.setdefault(tuple(found), tuple(found))))
    return None, rows


def read_labels(
    path: Path, classes: tuple[str, ...] | None = None, settings: LabelSettings | None = None
) -> LabelTable:
    """Read names and tags.

    Args:
        path: the CSV. A tag that occurs twice in a row counts once.
        classes: the classes in order. None: the columns of a one-hot CSV, else all tags that occur, sorted.
        settings: the form of the CSV. None: columns image_name and tags, spaces between tags.

    Raises:
        UserError: the CSV cannot be read, a name occurs twice or leaves the folder, a tag looks misread, or a tag is
        not in
            `classes`.
    """
    settings = settings or LabelSettings()
    columns, rows = read_tags(path, settings, classes)
    if not rows:
        raise UserError(f"{path}: expected rows below the header, found none.")
    chips, row_of_line = _chips(path, rows, settings)
    first_line: dict[str, int] = {}
    for row in rows:
        for tag in row.tags:
            first_line.setdefault(tag, row.line)
    checked = dict.fromkeys(columns, 1) if columns else first_line
    if odd := tags.odd_tag(checked, classes or (), settings.format, settings.tags_separator):
        raise UserError(f"{path} line {odd[0]}: {odd[1]}")
    order = classes or columns or tuple(sorted(first_line))
    if not first_line:
        raise UserError(f"{path}: expected tags, found none in {len(rows)} rows.")
    labels = _multi_hot(path, rows, row_of_line, order)
    return LabelTable(
        names=tuple(row.name.strip() for row in chips), labels=labels, classes=order,
        lines=np.array([row.line for row in chips], np.int64),
        padded=frozenset(index for index, row in enumerate(chips) if row.name != row.name.strip()),
    )  # fmt: skip


def _chips(path: Path, rows: list[TagRow], settings: LabelSettings) -> tuple[list[TagRow], list[int]]:
    """(first row of each chip, index of the chip of each row). In the long format a chip has several rows."""
    chip_of: dict[str, int] = {}
    chips: list[TagRow] = []
    for row in rows:
        name = row.name.strip()
        if reason := unsafe(name):
            raise UserError(
                f"{path} line {row.line}: {settings.name_column} {row.name!r} {reason}; "
                "expected a file below the folder."
            )
        key = stem(name)
        if key not in chip_of:
            chip_of[key] = len(chips)
            chips.append(row)
            continue
        first = chips[chip_of[key]]
        if settings.format != "long" or first.name.strip() != name:
            more = " LABELS_FORMAT=long reads one row per chip and tag." if settings.format == "tags" else ""
            raise UserError(
                f"{path} line {row.line}: {settings.name_column} {row.name!r} is also "
                f"in line {first.line}. Remove one of them.{more}"
            )
    return chips, [chip_of[stem(row.name.strip())] for row in rows]


def _multi_hot(path: Path, rows: list[TagRow], row_of_line: list[int], classes: tuple[str, ...]) -> np.ndarray:
    """(chips, classes) uint8."""
    column = {tag: index for index, tag in enumerate(classes)}
    labels = np.zeros((max(row_of_line) + 1, len(classes)), np.uint8)
    for index, row in zip(row_of_line, rows, strict=True):
        for tag in row.tags:
            if tag not in column:
                raise UserError(
                    f"{path} line {row.line}: expected one of the classes {', '.join(classes)}, found tag {tag!r}."
                )
            labels[index, column[tag]] = 1
    return labels


def _read_onehot(
    table: Table, settings: LabelSettings, classes: tuple[str, ...] | None
) -> tuple[tuple[str, ...], list[TagRow]]:
    (name_place,) = column_places(table, (settings.name_column,), settings)
    others = tuple(name for place, name in enumerate(table.header) if place != name_place)
    columns = classes or others
    if not columns:
        raise UserError(f"{table.path}: expected a column per class beside {settings.name_column}, found none.")
    if not all(columns):
        raise UserError(
            f"{table.path} line 1: expected a name for column {table.header.index('') + 1}, found none. "
            "Remove the column, or list the class columns: CLASSES=a,b"
        )
    places = column_places(table, columns)
    rows = []
    for line, row in table.rows:
        found = []
        for column, place in zip(columns, places, strict=True):
            mark = tags.MARKS.get(row[place].strip(" ").casefold())
            if mark is None:
                raise UserError(
                    f"{table.path} line {line}: column {column!r}: expected 0 or 1, found {row[place]!r}. "
                    "If the column is not a class, list the class columns: CLASSES=a,b"
                )
            if mark:
                found.append(column)
        rows.append(TagRow(line, row[name_place], tuple(found)))
    return columns, rows


def _of_columns(table: Table, places: list[int]) -> Iterator[tuple[int, list[str]]]:
    empty = True
    for line, row in table.rows:
        empty = False
        yield line, [row[place] for place in places]
    if empty:
        raise UserError(f"{table.path}: expected rows below the header, found none.")
