"""Open labels of any kind: a CSV, JSON lines, a parquet file, or a folder with a folder per class.

In: a path. Out: a `Table`, or the chips of class folders. Leaves the meaning of the fields to `labels`.
"""

from pathlib import Path, PurePosixPath
from typing import NamedTuple

from preprocess import csv_rows, json_rows
from preprocess.console import UserError
from preprocess.image_names import chip_name, list_chips
from preprocess.table import Table

FOLDERS = Path("folders")  # LABELS=folders: the labels are the names of folders
_JSON, _PARQUET = (".jsonl", ".ndjson", ".json"), (".parquet", ".pq")


def is_csv(path: Path) -> bool:
    """Whether a path is read as a CSV: everything but LABELS=folders and files with the suffix of another kind."""
    return path != FOLDERS and path.suffix.lower() not in _JSON + _PARQUET


def open_table(path: Path, separator: str) -> Table:
    """Open a labels file. Its suffix says what it is. `separator` is the character between the fields of a CSV.

    Raises:
        UserError: the file cannot be read.
    """
    if path.suffix.lower() in _JSON:
        return json_rows.read_table(path)
    if path.suffix.lower() in _PARQUET:
        from preprocess import parquet_rows  # pyarrow takes 0.1 s to load

        return parquet_rows.read_table(path)
    return csv_rows.read_table(path, separator)


def number_of(path: Path, number: int) -> str:
    """`line 3`, for a message. In a parquet file rows are counted; in a folder, its class folders."""
    if path.is_dir():
        return f"folder {number}"
    return f"{'row' if path.suffix.lower() in _PARQUET else 'line'} {number}"


class FolderChip(NamedTuple):
    """A chip in a class folder. `number` counts the class folders from 1. `split`: the first folder, "" without one."""

    number: int
    name: str
    tag: str
    split: str


def chips_in_folders(folder: Path) -> list[FolderChip]:
    """Every chip below `folder`, in the order of the names.

    The tag is the folder that holds the chip. The name is its path without the suffix: `Forest/Forest_1`. Above the
    class folders there may be folders of splits: `train/Forest/Forest_1`.

    Raises:
        UserError: there is no chip, a chip lies in no class folder, or two chips have the same name.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder}: expected a folder of class folders, found {'a file' if folder.exists() else 'nothing'}."
        )
    chips: list[FolderChip] = []
    numbers: dict[str, int] = {}
    files: dict[str, str] = {}
    for file in list_chips(folder).names:
        name, parent = chip_name(file), PurePosixPath(file).parent
        if not parent.name:
            raise UserError(f"{folder}: expected every chip in the folder of its class, found {file} outside of them.")
        if name in files:
            raise UserError(f"{folder}: {files[name]} and {file} would both be the chip {name}. Remove one of them.")
        files[name] = file
        number = numbers.setdefault(parent.as_posix(), len(numbers) + 1)
        chips.append(FolderChip(number, name, parent.name, parent.parts[0] if len(parent.parts) > 1 else ""))
    if not chips:
        raise UserError(f"{folder}: expected chips in class folders, found none.")
    return chips
