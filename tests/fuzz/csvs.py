"""Damaged CSVs of tags: `preprocess.labels.read_labels` is compared with Python's csv module in its strict mode.

Oracle. equal: the table of the undamaged file. altered: another table, and the strict reader finds the same rows; the
damage made another valid file. silent: other rows than the strict reader's, a file that the strict reader refuses, or a
class with control characters, which a terminal would obey. (A chip's name may have them: it stands for a file, and
messages escape it.)
"""

import codecs
import csv
import io
import random
from collections.abc import Callable
from pathlib import Path

from fuzz.damage import damage_bytes
from fuzz.label_files import LabelFiles
from fuzz.text_damage import damage_character, damage_encoding, damage_lines
from preprocess import labels

ROWS = [
    ("image_name", "tags"), ("train_0", "haze primary"), ("train_1", "agriculture clear primary water"),
    ("b/train_2", "clear primary"), ('with "quotes", comma', "clear"), ("täg_ü", "água primary"), ("train_5", ""),
    ("train_6.tif", "road clear"), ("train_7", "haze  primary haze"),
]  # fmt: skip

Table = list[tuple[str, frozenset[str]]]


def make_bases(bases: Path) -> None:
    """Write the CSVs: plain; all fields quoted, with a byte order mark; and columns in another order, with one more."""
    more = [(tags, "x,y" if index else "more", name) for index, (name, tags) in enumerate(ROWS)]
    for name, rows, quoting, mark in (
        ("plain", ROWS, csv.QUOTE_MINIMAL, b""),
        ("quoted", ROWS, csv.QUOTE_ALL, codecs.BOM_UTF8),
        ("turned", more, csv.QUOTE_MINIMAL, b""),
    ):
        text = io.StringIO()
        csv.writer(text, quoting=quoting, lineterminator="\n" if name == "turned" else "\r\n").writerows(rows)
        (bases / f"{name}.csv").write_bytes(mark + text.getvalue().encode())


class Csvs(LabelFiles):
    """Damage to bytes, characters and rows."""

    suffix = ".csv"

    def operations(self) -> tuple[Callable[[random.Random, bytes], tuple[bytes, str]], ...]:
        """Characters twice as often."""
        return damage_bytes, damage_character, damage_character, damage_lines, damage_encoding

    def read(self, path: Path) -> Table:
        """Names and tags."""
        return _table(path)

    def strict(self, path: Path) -> Table:
        """By Python's csv module."""
        return strict(path.read_bytes())


def _table(path: Path) -> Table:
    table = labels.read_labels(path)
    tags = [frozenset(tag for tag, has in zip(table.classes, row, strict=True) if has) for row in table.labels.tolist()]
    return list(zip((name.strip() for name in table.names), tags, strict=True))


def strict(data: bytes) -> Table:
    """The rows as Python's csv module reads them in strict mode; each row must have the header's number of fields.

    Raises:
        ValueError, csv.Error: the file is no such CSV.
    """
    text = data.decode("utf-8-sig")
    header, *rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    header = [name.strip() for name in header]
    name, tags = header.index("image_name"), header.index("tags")
    if any(len(row) != len(header) for row in rows):
        raise ValueError("a row with another number of fields")
    return [(row[name].strip(), frozenset(row[tags].split())) for row in rows]
