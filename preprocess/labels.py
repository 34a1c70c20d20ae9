"""Read labels: chip names and a (chips, classes) multi-hot matrix in the order of the rows.

In: a CSV, JSON lines, a parquet file or a folder of class folders, and its `LabelSettings`. Out: a `LabelTable`. Leaves
opening the file to `label_files`, finding the chips' files to `file_matching` and dividing the rows to `splits`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from preprocess import tags
from preprocess.addresses import Location
from preprocess.class_folders import rows_of_folders
from preprocess.console import UserError
from preprocess.csv_rows import read_table
from preprocess.image_names import stem, unsafe
from preprocess.label_files import number_of, open_table
from preprocess.label_settings import LabelSettings, column_places
from preprocess.packed_texts import PackedTexts, first_equal
from preprocess.split_rules import NO_SPLIT, split_number
from preprocess.table import Field, Row, Table
from preprocess.tag_rows import RowCollector, TagRows


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """One row per chip: `names` (N), `labels` (N, classes) uint8 0/1, `classes` in column order.

    `lines`: (N) int64, line numbers in the CSV (`label_files.number_of`). `padded`: rows whose name has spaces around
    it in the CSV; `names` have none. `split`: (N) uint8, positions in `split_rules.SPLIT_NAMES`; None without
    SPLIT_COLUMN and without folders of splits. `columns`: those of the file, () for class folders.
    """

    names: Sequence[str]
    labels: np.ndarray
    classes: tuple[str, ...]
    lines: np.ndarray
    padded: frozenset[int]
    split: np.ndarray | None = None
    columns: tuple[str, ...] = ()


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


def read_rows(path: Location, columns: tuple[str, ...], separator: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, fields of `columns`) for every row. The CSV must have these columns; others are ignored."""
    table = read_table(path, separator)
    for line, fields in _of_columns(table, column_places(table, columns)):
        yield line, [str(field) for field in fields]


def read_tags(path: Location, settings: LabelSettings, classes: tuple[str, ...] | None = None) -> TagRows:
    """The rows of a file. With `classes`, other columns of a one-hot file are ignored.

    Raises:
        UserError: the file cannot be read, a column is missing, or a field does not follow the format.
    """
    if settings.format == "folders":
        return rows_of_folders(path)
    table = open_table(path, settings.csv_separator)
    if settings.format == "onehot":
        return _read_onehot(table, settings, classes)
    names = (settings.name_column, settings.tags_column, *settings.split_columns)
    places = column_places(table, names, settings)
    rows = RowCollector(repeated_names=settings.format == "long")
    form = ""  # known from the first row with a tag on
    for line, (name, field, *split) in _of_columns(table, places):
        form = form or (settings.form_of(field) if field else "")
        found = tags.field_tags(field, form or settings.format, settings.tags_separator)
        if found is None:
            reason = tags.unexpected(field, form, settings.tags_separator)
            raise UserError(f"{path} {number_of(path, line)}: {reason}")
        texts = [_text(table, line, field) for field in (name, *split)]
        rows.add(line, texts[0], tuple(found), *texts[1:])
    return rows.rows(form or settings.format, columns=table.header)


def read_labels(
    path: Location, classes: tuple[str, ...] | None = None, settings: LabelSettings | None = None
) -> LabelTable:
    """Read names and tags.

    Args:
        path: the file, or the folder of class folders. A tag that occurs twice in a row counts once.
        classes: the classes in order. None: the columns of a one-hot CSV, else all tags that occur, sorted.
        settings: the form of the file. None: columns image_name and tags, spaces between tags.

    Raises:
        UserError: the file cannot be read, a name occurs twice or leaves the folder, a tag looks misread, or a tag is
            not in `classes`.
    """
    settings = settings or LabelSettings()
    rows = read_tags(path, settings, classes)
    first, chip_of_row = chips_of_rows(path, rows, settings)
    first_line: dict[str, int] = {}
    for line, row_tags in zip(rows.first_lines(), rows.tags, strict=True):
        for tag in row_tags:
            first_line.setdefault(tag, line)
    checked = dict.fromkeys(rows.classes, 1) if rows.classes else first_line
    places = {tag: number_of(path, line) for tag, line in checked.items()}
    if odd := tags.odd_tag(places, classes or (), rows.form, settings.tags_separator):
        raise UserError(f"{path} {odd[0]}: {odd[1]}")
    order = classes or rows.classes or tuple(sorted(first_line))
    if not first_line:
        raise UserError(f"{path}: expected tags, found none in {len(rows)} rows.")
    labels = _multi_hot(path, rows, first, chip_of_row, order)
    has_split = bool(settings.split_column) or _split_folders(rows)
    names = rows.names.take(rows.places()[first])
    padded = frozenset(index for index, name in enumerate(names) if name != name.strip())
    return LabelTable(
        names=PackedTexts.collect(name.strip() for name in names) if padded else names, labels=labels, classes=order,
        lines=rows.lines[first], padded=padded, columns=rows.columns,
        split=_splits(path, rows, first, chip_of_row, settings) if has_split else None,
    )  # fmt: skip


def chips_of_rows(path: Location, rows: TagRows, settings: LabelSettings) -> tuple[np.ndarray, np.ndarray]:
    """(first row of each chip, index of the chip of each row). In the long format a chip has several rows."""
    names, first_rows = rows.names, rows.first_rows()
    unsafe_place = next((place for place, name in enumerate(names) if unsafe(name.strip())), len(names))
    if unsafe_place < len(names):
        names = names[:unsafe_place]
    first = first_equal(names, lambda name: stem(name.strip()))
    again = np.flatnonzero(first != np.arange(len(first)))
    if settings.format == "long":
        again = np.array([one for one in again.tolist() if names[one].strip() != names[int(first[one])].strip()], int)
    if len(again):
        more = " LABELS_FORMAT=long reads one row per chip and tag." if settings.format == "tags" else ""
        line, other = rows.lines[first_rows[[again[0], first[again[0]]]]].tolist()
        raise UserError(
            f"{path} {number_of(path, line)}: {settings.name_column} {names[int(again[0])]!r} is also in "
            f"{number_of(path, other)}. Remove one of them.{more}"
        )
    if unsafe_place < len(rows.names):
        name, line = rows.names[unsafe_place], int(rows.lines[first_rows[unsafe_place]])
        raise UserError(
            f"{path} {number_of(path, line)}: {settings.name_column} {name!r} {unsafe(name.strip())}; expected a file "
            "below the folder."
        )
    is_first = first == np.arange(len(first))
    return first_rows[is_first], (np.cumsum(is_first) - 1)[first][rows.places()]


def _multi_hot(
    path: Location, rows: TagRows, first: np.ndarray, chip_of_row: np.ndarray, classes: tuple[str, ...]
) -> np.ndarray:
    """(chips, classes) uint8."""
    column = {tag: index for index, tag in enumerate(classes)}
    kinds = np.zeros((len(rows.tags), len(classes)), np.uint8)
    for kind, (line, row_tags) in enumerate(zip(rows.first_lines(), rows.tags, strict=True)):
        for tag in row_tags:
            if tag not in column:
                raise UserError(
                    f"{path} {number_of(path, line)}: expected one of the classes {', '.join(classes)}, found tag "
                    f"{tag!r}."
                )
            kinds[kind, column[tag]] = 1
    if len(first) == len(rows):
        return np.asarray(kinds[rows.kinds])
    labels = np.zeros((len(first), len(classes)), np.uint8)
    for index in range(len(classes)):
        labels[chip_of_row[kinds[rows.kinds, index] == 1], index] = 1
    return labels


def _split_folders(rows: TagRows) -> bool:
    """Whether all class folders lie in folders named train, val or test."""
    return rows.form == "folders" and all(split_number(split) is not None for split in rows.splits)


def _splits(
    path: Location, rows: TagRows, first: np.ndarray, chip_of_row: np.ndarray, settings: LabelSettings
) -> np.ndarray:
    """(chips,) uint8: number of each chip's split."""
    known = [split_number(split) for split in rows.splits]
    numbers = np.array([NO_SPLIT if number is None else number for number in known], np.uint8)[rows.split_kinds]
    splits = np.asarray(numbers[first])
    if not len(wrong := np.flatnonzero((numbers == NO_SPLIT) | (numbers != splits[chip_of_row]))):
        return splits
    row = int(wrong[0])
    where, text = f"{path} {number_of(path, int(rows.lines[row]))}", rows.splits[rows.split_kinds[row]]
    if numbers[row] == NO_SPLIT:
        raise UserError(
            f"{where}: expected train, val (or validation) or test in column {settings.split_column}, found {text!r}."
        )
    raise UserError(
        f"{where}: {settings.name_column} {rows[row].name!r} is in the split {text!r} here and in another split "
        "above. Write one split in all its rows."
    )


def _read_onehot(table: Table, settings: LabelSettings, classes: tuple[str, ...] | None) -> TagRows:
    first, *split = column_places(table, (settings.name_column, *settings.split_columns), settings)
    others = tuple(name for place, name in enumerate(table.header) if place not in (first, *split))
    columns = classes or others
    if not columns:
        raise UserError(f"{table.path}: expected a column per class beside {settings.name_column}, found none.")
    if not all(columns):
        raise UserError(
            f"{table.path} line 1: expected a name for column {table.header.index('') + 1}, found none. "
            "Remove the column, or list the class columns: CLASSES=a,b"
        )
    places = column_places(table, columns)
    rows = RowCollector()
    for line, (name, *fields) in _of_columns(table, [first, *split, *places]):
        marks = zip(columns, fields[len(split) :], strict=True)
        found = tuple(column for column, field in marks if _is_marked(table, line, column, field))
        texts = [_text(table, line, field) for field in (name, *fields[: len(split)])]
        rows.add(line, texts[0], found, *texts[1:])
    return rows.rows("onehot", columns, table.header)


def _is_marked(table: Table, line: int, column: str, field: Field) -> bool:
    mark = tags.MARKS.get(field.strip(" ").casefold()) if isinstance(field, str) else None
    if mark is None:
        raise UserError(
            f"{table.path} {number_of(table.path, line)}: column {column!r}: expected 0 or 1, found {field!r}. "
            "If the column is not a class, list the class columns: CLASSES=a,b"
        )
    return mark


def _text(table: Table, line: int, field: Field) -> str:
    """A field that cannot be a list: a name or a split."""
    if isinstance(field, str):
        return field
    raise UserError(f"{table.path} {number_of(table.path, line)}: expected a text as name and split, found {field!r}.")


def _of_columns(table: Table, places: list[int]) -> Iterator[Row]:
    """The rows of a table, at least one."""
    empty = True
    for row in table.read(places):
        empty = False
        yield row
    if empty:
        raise UserError(f"{table.path}: expected rows below the header, found none.")
