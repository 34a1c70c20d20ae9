"""Open labels of any kind: a CSV, JSON lines, a parquet file, or a folder with a folder per class.

In: a path. Out: a `Table`, or the rows of class folders. Leaves the meaning of the fields to `labels`.
"""

from pathlib import Path

import numpy as np

from preprocess import csv_rows, json_rows
from preprocess.addresses import Location
from preprocess.console import UserError
from preprocess.image_names import chip_name, list_chips
from preprocess.packed_texts import first_equal
from preprocess.suffixes import JSON, PARQUET
from preprocess.table import Table
from preprocess.tag_rows import RowCollector, TagRows


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


def rows_of_folders(folder: Location) -> TagRows:
    """A row for every chip below `folder`, in the order of the names. Class folders are counted from 1 in place of
    lines.

    The tag is the folder that holds the chip. The name is its path without the suffix: `Forest/Forest_1`. Above the
    class folders there may be folders of splits: `train/Forest/Forest_1`. The split is the first folder, "" without
    one.

    Raises:
        UserError: there is no chip, a chip lies in no class folder, or two chips have the same name.
    """
    if isinstance(folder, Path) and not folder.is_dir():
        raise UserError(
            f"{folder}: expected a folder of class folders, found {'a file' if folder.exists() else 'nothing'}."
        )
    files = list_chips(folder).names.sorted()
    rows, numbers = RowCollector(), dict[str, int]()
    outside = next((place for place, file in enumerate(files) if "/" not in file), len(files))
    first = first_equal(files[:outside] if outside < len(files) else files, chip_name)
    if len(again := np.flatnonzero(first != np.arange(len(first)))):
        one, other = files[int(first[again[0]])], files[int(again[0])]
        raise UserError(f"{folder}: {one} and {other} would both be the chip {chip_name(one)}. Remove one of them.")
    if outside < len(files):
        raise UserError(
            f"{folder}: expected every chip in the folder of its class, found {files[outside]} outside of them."
        )
    for file in files:
        parent = file.rpartition("/")[0]
        number = numbers.setdefault(parent, len(numbers) + 1)
        split, nested, _ = parent.partition("/")
        rows.add(number, chip_name(file), (parent.rpartition("/")[2],), split if nested else "")
    if not files:
        raise UserError(f"{folder}: expected chips in class folders, found none.")
    return rows.rows("folders")
