"""Rows of the CSV -> the TIFF that each of them means.

In: a `LabelTable` and a folder. Out: the files, with what tells later that one has changed. A name that is exactly a
file's costs one stat. Only where one is not, the folder is listed once: a name then means the one file that it can be.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocess.console import UserError, say
from preprocess.image_names import Index, difference, find_exactly, list_tiffs
from preprocess.labels import LabelTable


@dataclass(frozen=True, kw_only=True)
class Found:
    """The files of the CSV's chips: one path, and one entry of each array (int64), per chip that has a file."""

    paths: tuple[str, ...]
    csv_row: np.ndarray
    size: np.ndarray
    mtime_ns: np.ndarray


def match_files(csv: Path, table: LabelTable, folder: Path, *, allow_missing: bool) -> Found:
    """Look up every row; rows without a file are refused, or left out and counted.

    Raises:
        UserError: rows without a file, a name that can be two files, two rows that mean one file.
    """
    count = len(table.names)
    paths: list[str] = [""] * count  # "" for no file
    size, mtime_ns = np.zeros(count, np.int64), np.zeros(count, np.int64)

    def take(row: int, path: str, status: os.stat_result) -> None:
        paths[row], size[row], mtime_ns[row] = path, status.st_size, status.st_mtime_ns

    for row, name in enumerate(table.names):
        # With spaces around it in the CSV, a name may also mean a file that has them.
        if row not in table.padded and (chip := find_exactly(folder, name)) is not None:
            take(row, *chip)
    if others := [row for row in range(count) if not paths[row]]:
        index = Index(list_tiffs(folder).names, folder)
        similar = _similar(csv, table, folder, others, index)
        for row, file in similar.items():
            path = os.path.join(folder, file)
            take(row, path, os.stat(path))
        _check_once(csv, table, paths)
        _tell(csv, table, similar)
        _check_missing(table, folder, paths, index, allow_missing=allow_missing)
    csv_row = np.array([row for row in range(count) if paths[row]], np.int64)
    return Found(
        paths=tuple(path for path in paths if path), csv_row=csv_row, size=size[csv_row], mtime_ns=mtime_ns[csv_row]
    )


def _similar(csv: Path, table: LabelTable, folder: Path, rows: list[int], index: Index) -> dict[int, str]:
    """Row -> the one file below `folder` that its name can be; rows that can be none are left out."""
    similar = {}
    for row in rows:
        files = index.find(table.names[row])
        if len(files) > 1:
            raise UserError(
                f"{csv} line {table.lines[row]}: {table.names[row]!r} can be {len(files)} files in {folder}: "
                f"{', '.join(map(repr, files[:3]))}. Write the name as the file's."
            )
        if files:
            similar[row] = files[0]
    return similar


def _check_once(csv: Path, table: LabelTable, paths: list[str]) -> None:
    first: dict[str, int] = {}
    for row, path in enumerate(paths):
        other = first.setdefault(path, row) if path else row
        if other != row:
            raise UserError(
                f"{csv} line {table.lines[row]}: {table.names[row]!r} means {path}, as {table.names[other]!r} in line "
                f"{table.lines[other]} does. Remove one of the rows."
            )


def _tell(csv: Path, table: LabelTable, similar: dict[int, str]) -> None:
    """Say how names differ from the files that they mean, by one example."""
    if not similar:
        return
    row, file = next(iter(similar.items()))
    name = table.names[row]
    how = difference(f" {name} " if row in table.padded else name, file)
    say(
        f"{csv}: {len(similar)} of {len(table.names)} names are not written exactly as the files; the first, "
        f"{name!r}, means {file!r} ({how})."
    )


def _check_missing(table: LabelTable, folder: Path, paths: list[str], index: Index, *, allow_missing: bool) -> None:
    missing = [name for name, path in zip(table.names, paths, strict=True) if not path]
    if not missing:
        return
    first = ", ".join(missing[:3])
    count = f"{len(missing)} of {len(table.names)} chips of the CSV are missing in {folder} (first: {first})"
    if meant := index.of_last_part(missing):
        name, file = meant[0]
        count += f"; {len(meant)} have the name of a file in another folder, {name!r} may be {file!r}"
    if len(missing) == len(paths):
        raise UserError(f"{count}: none is left. Is DATA the folder of the TIFFs?")
    if not allow_missing:
        raise UserError(f"{count}. Pass ALLOW_MISSING=1 to leave them out.")
    say(f"{count}; they are left out.")
