"""A CSV of tags -> names and a (chips, classes) multi-hot matrix, in the CSV's row order.

In: a CSV with a column of names and, as `LabelSettings` say, tags in one column or one column per class. Out: a
`LabelTable`. Leaves finding the files to `plan` and dividing the rows to `splits`.
"""

import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from preprocess import csv_rows, tags
from preprocess.console import UserError
from preprocess.csv_rows import Table, read_table
from preprocess.image_names import stem, unsafe
from preprocess.zarr_store import Store

FORMATS = ("tags", "list", "onehot", "long")
_NAME_WORDS = ("image_name", "filename", "file_name", "file", "image", "name", "path", "chip", "id")
_TAG_WORDS = ("tags", "labels", "label", "tag", "classes", "class", "categories", "category")


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """How the CSV is written. A store keeps it as a dictionary, so that the same CSV is read alike later.

    `format`: "tags" (several in a field, with `tags_separator` between them), "list" (a JSON or Python list in a
    field), "onehot" (a column of 0 and 1 per class) or "long" (one row per chip and tag).
    """

    format: str = "tags"
    tags_separator: str = " "
    name_column: str = "image_name"
    tags_column: str = "tags"
    csv_separator: str = ","

    @classmethod
    def of(cls, given: dict[str, Any]) -> "LabelSettings":
        """From texts as the command line or a store has them; None means the default.

        Raises:
            UserError: a value that is not known, or settings that mean nothing together.
        """
        known = {field.name for field in fields(cls)}
        texts = {name: value for name, value in given.items() if value is not None}
        if odd := [name for name, value in texts.items() if name not in known or not isinstance(value, str)]:
            raise UserError(f"labels: expected the texts {', '.join(sorted(known))}; found {odd[0]}={texts[odd[0]]!r}.")
        for name, choices in (("csv_separator", csv_rows.SEPARATORS), ("tags_separator", tags.SEPARATORS)):
            if name in texts:
                texts[name] = _choice(name.upper(), texts[name], choices)
        settings = cls(**{name: text.strip() if name.endswith("column") else text for name, text in texts.items()})
        if settings.format not in FORMATS:
            raise UserError(f"LABELS_FORMAT={settings.format}: expected {', '.join(FORMATS)}.")
        if settings.format != "tags" and settings.tags_separator != " ":
            raise UserError(f"TAGS_SEPARATOR has no effect with LABELS_FORMAT={settings.format}; leave it out.")
        if settings.format == "onehot" and settings.tags_column != "tags":
            raise UserError("TAGS_COLUMN has no effect with LABELS_FORMAT=onehot; leave it out.")
        if settings.format != "onehot" and settings.name_column == settings.tags_column:
            raise UserError(f"NAME_COLUMN and TAGS_COLUMN are both {settings.name_column}; expected two columns.")
        return settings

    def variables(self) -> dict[str, str]:
        """What differs from the defaults, by the names of Make's variables."""
        names = {"format": "LABELS_FORMAT"}
        return {
            names.get(field.name, field.name.upper()): value
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        }

    def as_dict(self) -> dict[str, str]:
        """What a store keeps; `of` reads it back."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """One row per chip: `names` (N), `labels` (N, classes) uint8 0/1, `classes` in column order.

    `lines`: (N) int64, where each stands in the CSV. `padded`: rows whose name has spaces around it in the CSV; in
    `names` it has none.
    """

    names: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    lines: np.ndarray
    padded: frozenset[int]


class TagRow(NamedTuple):
    """One row of the CSV: its name as it is written, and its tags in their order, a repeated one repeated."""

    line: int
    name: str
    tags: tuple[str, ...]


def settings_of(store: Store) -> LabelSettings:
    """How the CSV was written that a store was made from; the defaults for a store that does not keep it."""
    kept = store.source.get("labels", {})
    if not isinstance(kept, dict):
        raise UserError(f"{store.path}: expected the labels' settings, found {kept!r}. Convert again.")
    return LabelSettings.of(kept)


def read_rows(path: Path, columns: tuple[str, ...], separator: str = ",") -> Iterator[tuple[int, list[str]]]:
    """(line number, fields of `columns`) for every row of a CSV that must have these columns; others are ignored."""
    table = read_table(path, separator)
    yield from _of_columns(table, _places(table, columns))


def read_tags(
    path: Path, settings: LabelSettings, classes: tuple[str, ...] | None = None
) -> tuple[tuple[str, ...] | None, list[TagRow]]:
    """(classes of a one-hot CSV or None, rows). With `classes`, a one-hot CSV's other columns are ignored.

    Raises:
        UserError: the CSV cannot be read, a column is missing, a field is not as the format says.
    """
    table = read_table(path, settings.csv_separator)
    if settings.format == "onehot":
        return _read_onehot(table, settings, classes)
    names = (settings.name_column, settings.tags_column)
    places = _places(table, names, settings)
    same: dict[tuple[str, ...], tuple[str, ...]] = {}  # rows of the same tags share them in memory
    rows = []
    for line, (name, field) in _of_columns(table, places):
        found: list[str] | None
        if settings.format == "list":
            found = tags.list_tags(field)
            if found is None:
                raise UserError(
                    f"{path} line {line}: expected a JSON or Python list of texts, found {field!r}. "
                    """For instance: ["clear", "road"]"""
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
        path: the CSV; a tag named twice in a row counts once.
        classes: the class list in its order; None: the columns of a one-hot CSV, else the tags that occur, sorted.
        settings: how the CSV is written; None: columns image_name and tags, spaces between tags.

    Raises:
        UserError: the CSV cannot be read, a name twice, a name that leaves the folder, a tag that looks as if it was
            meant otherwise, a tag outside `classes`.
    """
    settings = settings or LabelSettings()
    columns, rows = read_tags(path, settings, classes)
    if not rows:
        raise UserError(f"{path}: expected rows below the header, found none.")
    seen: dict[str, int] = {}
    row_of_line: list[int] = []  # of each line of the CSV; several in the long format
    chips: list[TagRow] = []
    for row in rows:
        name = row.name.strip()
        if reason := unsafe(name):
            raise UserError(
                f"{path} line {row.line}: {settings.name_column} {row.name!r} {reason}; "
                "expected a file below the folder."
            )
        key = stem(name)
        if key in seen:
            first = chips[seen[key]]
            if settings.format != "long" or first.name.strip() != name:
                more = " LABELS_FORMAT=long reads one row per chip and tag." if settings.format == "tags" else ""
                raise UserError(
                    f"{path} line {row.line}: {settings.name_column} {row.name!r} is there already, "
                    f"in line {first.line}.{more}"
                )
        else:
            seen[key] = len(chips)
            chips.append(row)
        row_of_line.append(seen[key])
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
    column = {tag: index for index, tag in enumerate(order)}
    labels = np.zeros((len(chips), len(order)), np.uint8)
    for index, row in zip(row_of_line, rows, strict=True):
        for tag in row.tags:
            if tag not in column:
                raise UserError(f"{path} line {row.line}: tag {tag!r} is not one of the classes: {', '.join(order)}.")
            labels[index, column[tag]] = 1
    return LabelTable(
        names=tuple(row.name.strip() for row in chips), labels=labels, classes=order,
        lines=np.array([row.line for row in chips], np.int64),
        padded=frozenset(index for index, row in enumerate(chips) if row.name != row.name.strip()),
    )  # fmt: skip


def _choice(variable: str, text: str, choices: dict[str, str]) -> str:
    if text not in choices and text not in choices.values():
        raise UserError(f"{variable}={text!r}: expected one of {' '.join(choices)}.")
    return choices.get(text, text)


def _read_onehot(
    table: Table, settings: LabelSettings, classes: tuple[str, ...] | None
) -> tuple[tuple[str, ...], list[TagRow]]:
    (name_place,) = _places(table, (settings.name_column,), settings)
    others = tuple(name for place, name in enumerate(table.header) if place != name_place)
    columns = classes or others
    if not columns:
        raise UserError(f"{table.path}: expected a column per class beside {settings.name_column}, found none.")
    if not all(columns):
        raise UserError(
            f"{table.path} line 1: column {table.header.index('') + 1} has no name. Remove it, "
            "or name the columns that are classes: CLASSES=a,b"
        )
    places = _places(table, columns)
    rows = []
    for line, row in table.rows:
        found = []
        for column, place in zip(columns, places, strict=True):
            mark = tags.MARKS.get(row[place].strip(" ").casefold())
            if mark is None:
                raise UserError(
                    f"{table.path} line {line}: column {column!r}: expected 0 or 1, found {row[place]!r}. "
                    "If it is no class, name those that are: CLASSES=a,b"
                )
            if mark:
                found.append(column)
        rows.append(TagRow(line, row[name_place], tuple(found)))
    return columns, rows


def _places(table: Table, columns: tuple[str, ...], settings: LabelSettings | None = None) -> list[int]:
    """Where the columns are; UserError if one is missing (with advice on `settings`) or there twice."""
    wanted = f"expected the column{'s' if len(columns) > 1 else ''} {', '.join(columns)}"
    if not any(table.header):
        raise UserError(f"{table.path}: {wanted}; found an empty file.")
    if any(name not in table.header for name in columns):
        advice = _header_advice(table, settings) if settings else ""
        raise UserError(f"{table.path}: {wanted}; found {', '.join(table.header)}.{advice}")
    if twice := [name for name in columns if table.header.count(name) > 1]:
        count = table.header.count(twice[0])
        raise UserError(f"{table.path} line 1: expected one column {twice[0]}, found {count}.")
    return [table.header.index(name) for name in columns]


def _of_columns(table: Table, places: list[int]) -> Iterator[tuple[int, list[str]]]:
    some = False
    for line, row in table.rows:
        some = True
        yield line, [row[place] for place in places]
    if not some:
        raise UserError(f"{table.path}: expected rows below the header, found none.")


def _header_advice(table: Table, settings: LabelSettings) -> str:
    """Which settings would read a header that lacks a column, as far as it shows; begins with a space."""
    header, given = table.header, []
    if len(header) == 1:
        other = next((word for word, char in csv_rows.SEPARATORS.items() if char in header[0]), None)
        if other is None:
            return " Columns are separated by commas; CSV_SEPARATOR=';' sets another character."
        given.append(f"CSV_SEPARATOR={shlex.quote(other)}")
        header = tuple(name.strip() for name in header[0].split(csv_rows.SEPARATORS[other]))
    name = _guess(header, settings.name_column, _NAME_WORDS, ())
    if name and name != settings.name_column:
        given.append(f"NAME_COLUMN={shlex.quote(name)}")
    if settings.format != "onehot" and settings.tags_column not in header:
        tag_column = _guess(header, settings.tags_column, _TAG_WORDS, (name,))
        if _marks_only(table, header, name):
            given.append("LABELS_FORMAT=onehot")
        elif tag_column or len(header) == 2:
            rest = [other for other in header if other != name]
            given.append(f"TAGS_COLUMN={shlex.quote(tag_column or rest[0])}")
    if given:
        return f" {' '.join(given)} reads it."
    return " NAME_COLUMN=... and TAGS_COLUMN=... name other columns; LABELS_FORMAT=onehot reads a column per class."


def _guess(header: tuple[str, ...], column: str, words: tuple[str, ...], used: tuple[str | None, ...]) -> str | None:
    """The column that is `column`, or looks like it."""
    free = [name for name in header if name not in used]
    return next(
        (name for word in (column, *words) for name in free if name in (column, word) or name.casefold() == word), None
    )


def _marks_only(table: Table, header: tuple[str, ...], name: str | None) -> bool:
    """Whether all but the names are 0 or 1 in the first row."""
    _, row = next(table.rows, (0, []))
    if len(row) != len(header):
        return False
    marks = [field for column, field in zip(header, row, strict=True) if column != name]
    return len(marks) >= 1 and all(mark.strip(" ").casefold() in tags.MARKS for mark in marks)
