"""Read labels: chip names and a (chips, classes) multi-hot matrix in the order of the rows.

In: a CSV, JSON lines, a parquet file or a folder of class folders, and its `LabelSettings`. Out: a `LabelTable`. Leaves
opening the file to `label_files`, finding the chips' files to `file_matching` and dividing the rows to `splits`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from preprocess import tags
from preprocess.console import UserError
from preprocess.csv_rows import read_table
from preprocess.image_names import stem, unsafe
from preprocess.label_files import chips_in_folders, number_of, open_table
from preprocess.label_settings import LabelSettings, column_places
from preprocess.split_rules import NO_SPLIT, split_number
from preprocess.table import Field, Row, Table


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """One row per chip: `names` (N), `labels` (N, classes) uint8 0/1, `classes` in column order.

    `lines`: (N) int64, line numbers in the CSV (`label_files.number_of`). `padded`: rows whose name has spaces around
    it in the CSV; `names` have none. `split`: (N) uint8, positions in `split_rules.SPLIT_NAMES`; None without
    SPLIT_COLUMN and without folders of splits. `columns`: those of the file, () for class folders.
    """

    names: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    lines: np.ndarray
    padded: frozenset[int]
    split: np.ndarray | None = None
    columns: tuple[str, ...] = ()


class TagRow(NamedTuple):
    """One row of the CSV: its name as written, its tags in order, including repeated ones, and its split as written."""

    line: int
    name: str
    tags: tuple[str, ...]
    split: str = ""


class TagRows(NamedTuple):
    """Rows of one form: that of `LabelSettings`, or "list" where the file itself holds lists.

    `classes` are those of a one-hot file, else None. `columns`: of the file.
    """

    form: str
    classes: tuple[str, ...] | None
    rows: list[TagRow]
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


def read_rows(path: Path, columns: tuple[str, ...], separator: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, fields of `columns`) for every row. The CSV must have these columns; others are ignored."""
    table = read_table(path, separator)
    for line, fields in _of_columns(table, column_places(table, columns)):
        yield line, [str(field) for field in fields]


def read_tags(path: Path, settings: LabelSettings, classes: tuple[str, ...] | None = None) -> TagRows:
    """The rows of a file. With `classes`, other columns of a one-hot file are ignored.

    Raises:
        UserError: the file cannot be read, a column is missing, or a field does not follow the format.
    """
    if settings.format == "folders":
        chips = chips_in_folders(path)
        tags_of = {chip.tag: (chip.tag,) for chip in chips}
        rows = [TagRow(chip.number, chip.name, tags_of[chip.tag], chip.split) for chip in chips]
        return TagRows("folders", None, rows)
    table = open_table(path, settings.csv_separator)
    if settings.format == "onehot":
        return _read_onehot(table, settings, classes)
    names = (settings.name_column, settings.tags_column, *settings.split_columns)
    places = column_places(table, names, settings)
    same: dict[tuple[str, ...], tuple[str, ...]] = {}  # rows with equal tags share one tuple in memory
    rows = []
    form = ""  # known from the first row with a tag on
    for line, (name, field, *split) in _of_columns(table, places):
        form = form or (settings.form_of(field) if field else "")
        found = tags.field_tags(field, form or settings.format, settings.tags_separator)
        if found is None:
            reason = tags.unexpected(field, form, settings.tags_separator)
            raise UserError(f"{path} {number_of(path, line)}: {reason}")
        row = same.setdefault(tuple(found), tuple(found))
        texts = [_text(table, line, field) for field in (name, *split)]
        rows.append(TagRow(line, texts[0], row, *texts[1:]))
    return TagRows(form or settings.format, None, rows, table.header)


def read_labels(
    path: Path, classes: tuple[str, ...] | None = None, settings: LabelSettings | None = None
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
    form, marked, rows, columns = read_tags(path, settings, classes)
    chips, chip_of_row = _chips(path, rows, settings)
    first_line: dict[str, int] = {}
    for row in rows:
        for tag in row.tags:
            first_line.setdefault(tag, row.line)
    checked = dict.fromkeys(marked, 1) if marked else first_line
    places = {tag: number_of(path, line) for tag, line in checked.items()}
    if odd := tags.odd_tag(places, classes or (), form, settings.tags_separator):
        raise UserError(f"{path} {odd[0]}: {odd[1]}")
    order = classes or marked or tuple(sorted(first_line))
    if not first_line:
        raise UserError(f"{path}: expected tags, found none in {len(rows)} rows.")
    labels = _multi_hot(path, rows, chip_of_row, order)
    has_split = bool(settings.split_column) or _split_folders(form, rows)
    return LabelTable(
        names=tuple(row.name.strip() for row in chips), labels=labels, classes=order,
        lines=np.array([row.line for row in chips], np.int64),
        padded=frozenset(index for index, row in enumerate(chips) if row.name != row.name.strip()),
        split=_splits(path, rows, chip_of_row, settings) if has_split else None, columns=columns,
    )  # fmt: skip


def _chips(path: Path, rows: list[TagRow], settings: LabelSettings) -> tuple[list[TagRow], list[int]]:
    """(first row of each chip, index of the chip of each row). In the long format a chip has several rows."""
    chip_of: dict[str, int] = {}
    chips: list[TagRow] = []
    for row in rows:
        name = row.name.strip()
        if reason := unsafe(name):
            raise UserError(
                f"{path} {number_of(path, row.line)}: {settings.name_column} {row.name!r} {reason}; "
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
                f"{path} {number_of(path, row.line)}: {settings.name_column} {row.name!r} is also "
                f"in {number_of(path, first.line)}. Remove one of them.{more}"
            )
    return chips, [chip_of[stem(row.name.strip())] for row in rows]


def _multi_hot(path: Path, rows: list[TagRow], chip_of_row: list[int], classes: tuple[str, ...]) -> np.ndarray:
    """(chips, classes) uint8."""
    column = {tag: index for index, tag in enumerate(classes)}
    labels = np.zeros((max(chip_of_row) + 1, len(classes)), np.uint8)
    for index, row in zip(chip_of_row, rows, strict=True):
        for tag in row.tags:
            if tag not in column:
                raise UserError(
                    f"{path} {number_of(path, row.line)}: expected one of the classes {', '.join(classes)}, "
                    f"found tag {tag!r}."
                )
            labels[index, column[tag]] = 1
    return labels


def _split_folders(form: str, rows: list[TagRow]) -> bool:
    """Whether all class folders lie in folders named train, val or test."""
    return form == "folders" and all(split_number(row.split) is not None for row in rows)


def _splits(path: Path, rows: list[TagRow], chip_of_row: list[int], settings: LabelSettings) -> np.ndarray:
    """(chips,) uint8: number of each chip's split."""
    splits = np.full(max(chip_of_row) + 1, NO_SPLIT, np.uint8)
    for index, row in zip(chip_of_row, rows, strict=True):
        number = split_number(row.split)
        if number is None:
            raise UserError(
                f"{path} {number_of(path, row.line)}: expected train, val (or validation) or test in column "
                f"{settings.split_column}, found {row.split!r}."
            )
        if splits[index] not in (NO_SPLIT, number):
            raise UserError(
                f"{path} {number_of(path, row.line)}: {settings.name_column} {row.name!r} is in the split "
                f"{row.split!r} here and in another split above. Write one split in all its rows."
            )
        splits[index] = number
    return splits


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
    rows = []
    for line, (name, *fields) in _of_columns(table, [first, *split, *places]):
        marks = zip(columns, fields[len(split) :], strict=True)
        found = tuple(column for column, field in marks if _is_marked(table, line, column, field))
        texts = [_text(table, line, field) for field in (name, *fields[: len(split)])]
        rows.append(TagRow(line, texts[0], found, *texts[1:]))
    return TagRows("onehot", columns, rows, table.header)


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
