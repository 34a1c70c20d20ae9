"""Open a file of labels: a CSV, JSON lines or a parquet file.

In: a path. Out: a `Table`. Leaves folders of classes to `class_folders` and the meaning of the fields to `labels`.
"""

from pathlib import Path

from preprocess import csv_rows, json_rows
from preprocess.addresses import Location
from preprocess.suffixes import JSON, PARQUET
from preprocess.table import Table


def open_table(path: Location, separator: str) -> Table:
    """Open a labels file. Its suffix says what it is. `separator` is the character between the fields of a CSV.

    Raises:
        UserError: the file cannot be read.
    """
    if path.suffix.lower() in JSON:
        return json_rows.read_table(path)
    if path.suffix.lower() in PARQUET:
        from preprocess import parquet_rows  # pyarrow takes 0.1 s to load

        return parquet_rows.read_table(path)
    return csv_rows.read_table(path, separator)


def number_of(path: Location, number: int) -> str:
    """`line 3`, for a message. In a parquet file rows are counted; in a folder, its class folders."""
    if path.is_dir() if isinstance(path, Path) else not path.suffix:
        return f"folder {number}"
    return f"{'row' if path.suffix.lower() in PARQUET else 'line'} {number}"
