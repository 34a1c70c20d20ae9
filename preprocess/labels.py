"""A CSV of tags -> names and a (tiles, classes) multi-hot matrix, in the CSV's row order.

In: a CSV with the columns `image_name` and `tags` (space-separated). Out: a `LabelTable`. Leaves
finding the files to `convert` and dividing the rows to `splits`.
"""

import csv
import posixpath
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from preprocess.console import UserError
from preprocess.tiff import SUFFIXES

COLUMNS = ("image_name", "tags")


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """One row a tile: `names` (N), `labels` (N, classes) uint8 0/1, `classes` in column order."""

    names: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]


def read_rows(path: Path, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """(line number, row) for every row of a CSV that must have `columns`; others are ignored."""
    if not path.is_file():
        raise UserError(f"{path}: expected a CSV file, found {'a folder' if path.is_dir() else 'nothing'}.")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = reader.fieldnames or []
            if not header:
                raise UserError(f"{path}: expected the columns {', '.join(columns)}; found an empty file.")
            missing = [name for name in columns if name not in header]
            if missing:
                hint = " (separated by commas)" if len(header) == 1 else ""
                raise UserError(f"{path}: expected the columns {', '.join(columns)}{hint}; found {', '.join(header)}.")
            if twice := [name for name in columns if header.count(name) > 1]:
                raise UserError(f"{path} line 1: expected one column {twice[0]}, found {header.count(twice[0])}.")
            rows: list[tuple[int, dict[Any, Any]]] = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise UserError(f"{path}: expected a readable CSV file, found: {error.strerror}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: expected a CSV in UTF-8, found something else ({error}).") from error
    if not rows:
        raise UserError(f"{path}: expected rows below the header, found none.")
    for line, row in rows:
        if any(row[name] is None for name in columns):
            raise UserError(f"{path} line {line}: expected {len(header)} fields, found fewer.")
        if None in row:  # where DictReader puts what has no column
            raise UserError(
                f"{path} line {line}: expected {len(header)} fields, found {len(header) + len(row[None])}. "
                'Tags are separated by spaces; a field with a comma in it needs quotes ("a,b").'
            )
    return rows


def read_labels(path: Path, classes: tuple[str, ...] | None = None) -> LabelTable:
    """Read the tags.

    Args:
        path: CSV with `image_name` and `tags`; a tag named twice in a row counts once.
        classes: the class list in its order; None sorts the tags that occur.

    Raises:
        UserError: no such file, missing column, a name twice, a name that leaves the folder,
            a tag outside `classes`.
    """
    rows = read_rows(path, COLUMNS)
    seen: dict[str, int] = {}
    for line, row in rows:
        name = row["image_name"]
        if reason := _unsafe(name):
            raise UserError(f"{path} line {line}: image_name {name!r} {reason}; expected a file below the folder.")
        key = stem(name)
        if key in seen:
            raise UserError(f"{path} line {line}: image_name {name!r} is there already, in line {seen[key]}.")
        seen[key] = line
    tags = [row["tags"].split() for _, row in rows]
    order = tuple(sorted({tag for row_tags in tags for tag in row_tags})) if classes is None else classes
    if not order:
        raise UserError(f"{path}: expected tags, found none in {len(rows)} rows.")
    column = {tag: index for index, tag in enumerate(order)}
    labels = np.zeros((len(rows), len(order)), np.uint8)
    for index, (line, row_tags) in enumerate(zip((line for line, _ in rows), tags, strict=True)):
        for tag in row_tags:
            if tag not in column:
                raise UserError(f"{path} line {line}: tag {tag!r} is not one of the classes: {', '.join(order)}.")
            labels[index, column[tag]] = 1
    return LabelTable(names=tuple(row["image_name"] for _, row in rows), labels=labels, classes=order)


def stem(name: str) -> str:
    """An image name without a TIFF suffix, one for all that mean one file: `./a//train_0.tif`, `a/train_0/`,
    `a/train_0`."""
    name = posixpath.normpath(name)
    return next((name[: -len(suffix)] for suffix in SUFFIXES if name.endswith(suffix)), name)


def _unsafe(name: str) -> str | None:
    if not name.strip():
        return "is empty"
    if "\0" in name:
        return "holds a NUL character"
    if name.startswith("/"):
        return "is an absolute path"
    if ".." in PurePosixPath(name).parts:
        return "leaves the folder"
    return None
