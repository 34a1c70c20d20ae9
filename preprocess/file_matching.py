"""Find the TIFF of every row of the CSV. If no row has one, find the PNG or JPEG of every row.

In: a `LabelTable` and a folder. Out: `Files`, with size and time so that a later change is noticed. The exact name of a
TIFF costs one stat. If a name is not exact, the folder is listed once, and the name means the only file that it can
mean. Pictures beside TIFFs are never chips: they are often made from them. Leaves patterns to `pattern_matching`.
"""

import os
import posixpath
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocess.console import UserError, say
from preprocess.image_names import PICTURES, Index, bare, difference, find_exactly, is_picture, list_files, list_tiffs
from preprocess.label_files import number_of
from preprocess.labels import LabelTable


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of the CSV's chips: one path and one entry of each array (int64) per chip with a file.

    Of a chip with a file per band, `chip_reader.state_of` says what path, size and mtime_ns are.
    """

    paths: tuple[str, ...]
    csv_row: np.ndarray
    size: np.ndarray
    mtime_ns: np.ndarray


def match_files(csv: Path, table: LabelTable, folder: Path, *, allow_missing: bool) -> Files:
    """Look up every row. Rows without a file are refused, or skipped and counted.

    Raises:
        UserError: a row has no file, a name can mean two files, or two rows mean one file.
    """
    count = len(table.names)
    paths: list[str] = [""] * count  # "" without a file
    size, mtime_ns = np.zeros(count, np.int64), np.zeros(count, np.int64)

    def take(row: int, path: str, status: os.stat_result) -> None:
        paths[row], size[row], mtime_ns[row] = path, status.st_size, status.st_mtime_ns

    for row, name in enumerate(table.names):
        # A name with surrounding spaces in the CSV may also mean a file that has them.
        if row not in table.padded and (chip := find_exactly(folder, name)) is not None:
            take(row, *chip)
    if others := [row for row in range(count) if not paths[row]]:
        index = Index(list_tiffs(folder).names, folder)
        similar = _similar(csv, table, folder, others, index)
        if len(others) == count and not similar:
            similar, index = _pictures(csv, table, folder) or (similar, index)
        for row, file in similar.items():
            path = os.path.join(folder, file)
            take(row, path, os.stat(path))
        _check_once(csv, table, paths)
        _report(csv, table, similar)
        _check_missing(table, folder, paths, index, allow_missing=allow_missing)
    csv_row = np.array([row for row in range(count) if paths[row]], np.int64)
    return Files(
        paths=tuple(path for path in paths if path), csv_row=csv_row, size=size[csv_row], mtime_ns=mtime_ns[csv_row]
    )


def _pictures(csv: Path, table: LabelTable, folder: Path) -> tuple[dict[int, str], Index] | None:
    """(row -> PNG or JPEG, index of all of them); None if there are none below `folder`. The exact name comes first."""
    names = list_files(folder, PICTURES).names
    index, present = Index(names, folder, pictures=True), set(names)
    exact = {row: file for row, name in enumerate(table.names)
             if row not in table.padded and (file := posixpath.normpath(name)) in present}  # fmt: skip
    rest = [row for row in range(len(table.names)) if row not in exact]
    return (exact | _similar(csv, table, folder, rest, index), index) if names else None


def _similar(csv: Path, table: LabelTable, folder: Path, rows: list[int], index: Index) -> dict[int, str]:
    """Row -> the only file below `folder` that its name can mean; rows without one are skipped."""
    similar = {}
    for row in rows:
        files = index.find(table.names[row])
        if len(files) > 1:
            raise UserError(
                f"{csv} {number_of(csv, table.lines[row])}: {table.names[row]!r} can mean {len(files)} files in "
                f"{folder}: {', '.join(map(repr, files[:3]))}. Write the exact name of the file."
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
                f"{csv} {number_of(csv, table.lines[row])}: {table.names[row]!r} means {path}, and so does "
                f"{table.names[other]!r} in {number_of(csv, table.lines[other])}. Remove one of the rows."
            )


def _report(csv: Path, table: LabelTable, similar: dict[int, str]) -> None:
    """Print how names differ from their files, with one example. A picture may be named without its suffix."""
    others = {
        row: file for row, file in similar.items()
        if row in table.padded or not is_picture(file) or posixpath.normpath(table.names[row]) not in (file, bare(file))
    }  # fmt: skip
    if not others:
        return
    row, file = next(iter(others.items()))
    name = table.names[row]
    how = difference(f" {name} " if row in table.padded else name, file)
    say(
        f"{csv}: {len(others)} of {len(table.names)} names differ from the names of their files. The first, "
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
        count += f"; {len(meant)} have the name of a file in another folder: {name!r} may be {file!r}"
    if len(missing) == len(paths):
        raise UserError(f"{count}. No chip is left. Is DATA the folder of the TIFFs?")
    if not allow_missing:
        raise UserError(f"{count}. ALLOW_MISSING=1 skips them.")
    say(f"{count}; skipping them.")
