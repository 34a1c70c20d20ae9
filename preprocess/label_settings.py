"""The form of a file of tags, and its columns.

In: settings as texts, a header. Out: `LabelSettings`, positions of columns; for a header that does not fit, the
settings that would read it. Leaves the rows to `labels`.
"""

import itertools
import shlex
from dataclasses import asdict, dataclass, fields
from typing import Any

from preprocess import csv_rows, tags
from preprocess.console import UserError
from preprocess.suffixes import is_csv
from preprocess.table import Field, Table

FORMATS = ("tags", "list", "onehot", "long")  # of LABELS_FORMAT; LABELS=folders is a form of its own
_NAME_WORDS = (
    "image_name", "filename", "file_name", "patch_id", "image_id", "file", "image", "name", "path", "chip", "id",
)  # fmt: skip
_TAG_WORDS = ("tags", "labels", "label", "tag", "classes", "class", "categories", "category")


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """The form of the labels. A store keeps these settings, so that the same file is read in the same way later.

    `format`: "tags" (several in a field, with `tags_separator` between them), "list" (a JSON or Python list in a
    field), "onehot" (a column of 0 and 1 per class), "long" (one row per chip and tag) or "folders" (class folders; it
    has no file and no columns). `split_column`: of train, val and test; "" for none.
    """

    format: str = "tags"
    tags_separator: str = " "
    name_column: str = "image_name"
    tags_column: str = "tags"
    csv_separator: str = ","
    split_column: str = ""

    @classmethod
    def of(cls, values: dict[str, Any]) -> "LabelSettings":
        """Make settings from texts of the command line or a store; None means the default.

        Raises:
            UserError: an unknown value, or settings that have no effect together.
        """
        known = {field.name for field in fields(cls)}
        texts = {name: value for name, value in values.items() if value is not None}
        if wrong := [name for name, value in texts.items() if name not in known or not isinstance(value, str)]:
            raise UserError(
                f"labels: expected texts for {', '.join(sorted(known))}; found {wrong[0]}={texts[wrong[0]]!r}."
            )
        for name, choices in (("csv_separator", csv_rows.SEPARATORS), ("tags_separator", tags.SEPARATORS)):
            if name in texts:
                texts[name] = _choice(name.upper(), texts[name], choices)
        settings = cls(**{name: text.strip() if name.endswith("column") else text for name, text in texts.items()})
        settings._check()
        return settings

    def _check(self) -> None:
        if self.format not in (*FORMATS, "folders"):
            raise UserError(f"LABELS_FORMAT={self.format}: expected {', '.join(FORMATS)}.")
        if self.format == "folders" and (others := list(self.variables())[1:]):
            raise UserError(f"{others[0]} has no effect with LABELS=folders; leave it out.")
        if self.format != "tags" and self.tags_separator != " ":
            raise UserError(f"TAGS_SEPARATOR has no effect with LABELS_FORMAT={self.format}; leave it out.")
        if self.format == "onehot" and self.tags_column != "tags":
            raise UserError("TAGS_COLUMN has no effect with LABELS_FORMAT=onehot; leave it out.")
        words = {"NAME_COLUMN": self.name_column, "TAGS_COLUMN": self.tags_column, "SPLIT_COLUMN": self.split_column}
        if self.format == "onehot":
            del words["TAGS_COLUMN"]
        for (one, column), (other, same) in itertools.combinations(words.items(), 2):
            if column == same:
                raise UserError(f"{one} and {other}: expected two different columns, found {column} for both.")

    def variables(self) -> dict[str, str]:
        """Settings that differ from the defaults, by the names that the user sets."""
        names = {"format": "LABELS" if self.format == "folders" else "LABELS_FORMAT"}
        return {
            names.get(field.name, field.name.upper()): value
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        }

    def as_dict(self) -> dict[str, str]:
        """The settings as a store keeps them; `of` reads them back. Without a split column there is no key for it."""
        return {name: value for name, value in asdict(self).items() if name != "split_column" or value}

    @property
    def split_columns(self) -> tuple[str, ...]:
        """The split column, if there is one."""
        return (self.split_column,) if self.split_column else ()

    def form_of(self, field: Field) -> str:
        """The form in which a field of tags is written: a file that itself holds lists needs no LABELS_FORMAT."""
        holds_lists = isinstance(field, tuple) and self.format == "tags" and self.tags_separator == " "
        return "list" if holds_lists else self.format


def column_places(table: Table, columns: tuple[str, ...], settings: LabelSettings | None = None) -> list[int]:
    """Positions of the columns; UserError if one is missing (with advice on `settings`) or occurs twice."""
    expectation = f"expected the column{'s' if len(columns) > 1 else ''} {', '.join(columns)}"
    if not any(table.header):
        raise UserError(f"{table.path}: {expectation}; found an empty file.")
    if any(name not in table.header for name in columns):
        advice = _header_advice(table, settings) if settings else ""
        raise UserError(f"{table.path}: {expectation}; found {', '.join(table.header)}.{advice}")
    if twice := [name for name in columns if table.header.count(name) > 1]:
        count = table.header.count(twice[0])
        where = f"{table.path} line 1" if is_csv(table.path) else table.path
        raise UserError(f"{where}: expected one column {twice[0]}, found {count}.")
    return [table.header.index(name) for name in columns]


def _choice(variable: str, text: str, choices: dict[str, str]) -> str:
    if text not in choices and text not in choices.values():
        raise UserError(f"{variable}={text!r}: expected one of {' '.join(choices)}.")
    return choices.get(text, text)


def _header_advice(table: Table, settings: LabelSettings) -> str:
    """The settings that would read a header that lacks a column, if it shows them; begins with a space."""
    header, words = table.header, []
    if len(header) == 1 and is_csv(table.path):
        other = next((word for word, char in csv_rows.SEPARATORS.items() if char in header[0]), None)
        if other is None:
            return " Columns are separated by commas; CSV_SEPARATOR=';' sets another separator."
        words.append(f"CSV_SEPARATOR={shlex.quote(other)}")
        header = tuple(name.strip() for name in header[0].split(csv_rows.SEPARATORS[other]))
    name = _guess(header, settings.name_column, _NAME_WORDS, ())
    if name and name != settings.name_column:
        words.append(f"NAME_COLUMN={shlex.quote(name)}")
    if settings.format != "onehot" and settings.tags_column not in header:
        tag_column = _guess(header, settings.tags_column, _TAG_WORDS, (name,))
        if _marks_only(table, header, name):
            words.append("LABELS_FORMAT=onehot")
        elif tag_column or len(header) == 2:
            rest = [other for other in header if other != name]
            words.append(f"TAGS_COLUMN={shlex.quote(tag_column or rest[0])}")
    if words:
        return f" {' '.join(words)} reads it."
    if {settings.name_column, settings.tags_column} <= {*header}:
        return " SPLIT_COLUMN names the column of train, val and test."
    return " NAME_COLUMN=... and TAGS_COLUMN=... set other columns; LABELS_FORMAT=onehot reads one column per class."


def _guess(header: tuple[str, ...], column: str, words: tuple[str, ...], used: tuple[str | None, ...]) -> str | None:
    """The column named `column`, or one with a similar name."""
    free = [name for name in header if name not in used]
    return next(
        (name for word in (column, *words) for name in free if name in (column, word) or name.casefold() == word), None
    )


def _marks_only(table: Table, header: tuple[str, ...], name: str | None) -> bool:
    """Whether all fields of the first row, except the name, are 0 or 1."""
    row = next(table.rows, (0, list[Field]()))[1]
    if len(row) != len(header):
        return False
    marks = [field for column, field in zip(header, row, strict=True) if column != name]
    return len(marks) >= 1 and all(isinstance(mark, str) and mark.strip(" ").casefold() in tags.MARKS for mark in marks)
