"""CSV that reads back exactly: names stay text, numbers stay the same float64.

In: tables and rows. Out: CSV text and back. A class may be called nan, NA, None or True, so the reader must name the
columns that hold text.
"""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TextIO

import pandas as pd

_WHOLE = re.compile("-?[0-9]+")
SEPARATORS = (" ", ",", ";", "|")  # of tags


class CsvWriter:
    """Writes rows to a text file that was opened with newline=""."""

    def __init__(self, file: TextIO) -> None:
        self._plain = csv.writer(file, lineterminator="\n")
        self._quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def writerow(self, row: Sequence[object]) -> None:
        """Write one row."""
        # Python's csv quotes a cell with a line feed, but not one with a carriage return, which also ends a line.
        odd = any(isinstance(cell, str) and "\r" in cell for cell in row)
        (self._quoted if odd else self._plain).writerow(row)

    def writerows(self, rows: Iterable[Sequence[object]]) -> None:
        """Write several rows."""
        for row in rows:
            self.writerow(row)


def table_bytes(frame: pd.DataFrame) -> bytes:
    """A table as a CSV in UTF-8, without its index; NaN is an empty cell."""
    text = frame.to_csv(index=False, lineterminator="\n")
    if "\r" in text:  # see `CsvWriter`
        text = frame.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    return text.encode()


def read_table(data: bytes, words: tuple[str, ...]) -> pd.DataFrame:
    """The reverse of `table_bytes`; the columns in `words` hold text, the others numbers.

    Raises:
        ValueError: the data is not such a CSV.
    """
    try:
        header, *rows = csv.reader(io.StringIO(data.decode(), newline=""), strict=True)
    except csv.Error as error:
        raise ValueError(str(error)) from error
    if absent := [name for name in words if name not in header]:
        raise ValueError(f"expected a column {absent[0]}, found {', '.join(header)}")
    if any(len(row) != len(header) for row in rows):
        raise ValueError(f"expected {len(header)} fields in each row")
    columns = {name: [row[place] for row in rows] for place, name in enumerate(header)}
    return pd.DataFrame({name: cells if name in words else _numbers(cells) for name, cells in columns.items()})


def _numbers(cells: list[str]) -> list[int] | list[float]:
    if all(_WHOLE.fullmatch(cell) for cell in cells):
        return [int(cell) for cell in cells]
    return [float(cell) if cell else math.nan for cell in cells]


def tags_form(classes: Sequence[str]) -> tuple[Callable[[list[str]], str], str]:
    """Choose a form of the tags column from which every class can be read back, and the words that explain it.

    Tags are separated by spaces, else by the first of , ; | that no class contains; else they are a JSON list.
    """
    for separator in SEPARATORS:
        if not any(separator in name or (separator == " " and name.split() != [name]) for name in classes):
            return separator.join, "" if separator == " " else f", separated by {separator!r}"
    return lambda tags: json.dumps(tags, ensure_ascii=False), ", as JSON lists"
