"""Find the TIFF of every row of the CSV. If no row has one, find the PNG or JPEG of every row.

In: a `LabelTable` and a folder. Out: `Files`, with size and time so that a later change is noticed. The exact name of a
TIFF costs one stat. If a name is not exact, the folder is listed once, and the name means the only file that it can
mean. Pictures beside TIFFs are never chips: they are often made from them. Leaves patterns to `pattern_matching`.
"""

import os
import posixpath
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from preprocess.absent_names import surely_absent
from preprocess.addresses import Location
from preprocess.console import UserError, say
from preprocess.image_names import (
    Index,
    bare,
    difference,
    find_exactly,
    is_picture,
    list_files,
    list_tiffs,
    state_below,
)
from preprocess.label_files import number_of
from preprocess.labels import LabelTable
from preprocess.packed_texts import HashIndex, PackedTexts, TextBuilder, first_equal
from preprocess.suffixes import PICTURES

_PROBED = 256  # if no name until there is exact, few others are


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of the CSV's chips: one path and one entry of each array (int64) per chip with a file.

    Of a chip with a file per band, `chip_reader.state_of` says what path, size and mtime_ns are.
    """

    paths: Sequence[str]
    csv_row: np.ndarray
    size: np.ndarray
    mtime_ns: np.ndarray


def match_files(csv: Location, table: LabelTable, folder: Location, *, allow_missing: bool) -> Files:
    """Look up every row. Rows without a file are refused, or skipped and counted.

    Raises:
        UserError: a row has no file, a name can mean two files, or two rows mean one file.
    """
    count = len(table.names)
    exact = TextBuilder(os.path.join(folder, ""))
    size, mtime_ns = np.zeros(count, np.int64), np.zeros(count, np.int64)
    found = np.zeros(count, bool)

    def take(row: int, state: tuple[int, int]) -> None:
        found[row], (size[row], mtime_ns[row]) = True, state

    absent = np.zeros(count, bool)
    for row, name in enumerate(table.names):
        if row == _PROBED and not found.any() and isinstance(folder, Path):
            absent = surely_absent(folder, table.names)
        # A name with surrounding spaces in the CSV may also mean a file that has them.
        if not absent[row] and row not in table.padded and (chip := find_exactly(folder, name)) is not None:
            exact.append(chip[0])
            take(row, chip[1])
    paths = exact.packed()
    if not found.all():
        similar = _similar(csv, table, folder, np.flatnonzero(~found), Index(list_tiffs(folder).names, folder))
        if not found.any() and not len(similar.rows):
            similar = _pictures(csv, table, folder) or similar
        for row, file in similar:
            take(row, state_below(folder, file))
        paths = _joined(folder, paths, similar, found)
        _check_once(csv, table, paths, np.flatnonzero(found), similar)
        _report(csv, table, similar)
        _check_missing(table, folder, found, similar.index, allow_missing=allow_missing)
    csv_row = np.flatnonzero(found)
    return Files(paths=paths, csv_row=csv_row, size=size[csv_row], mtime_ns=mtime_ns[csv_row])


@dataclass(frozen=True, kw_only=True)
class _Similar:
    """Rows that mean a file by another name: `rows` ascending, and the place of each one's file in `index`."""

    rows: np.ndarray
    places: np.ndarray
    index: Index

    def __iter__(self) -> Iterator[tuple[int, str]]:
        return zip(map(int, self.rows), self.index.names.at(self.places), strict=True)  # a list takes 40 bytes per row


def _joined(folder: Location, exact: PackedTexts, similar: _Similar, found: np.ndarray) -> PackedTexts:
    """The paths of all rows with a file, in order."""
    if not len(exact):
        return replace(PackedTexts.collect(similar.index.names.at(similar.places)), prefix=exact.prefix)
    others = np.zeros(len(found), bool)
    others[similar.rows] = True
    same, different = iter(exact), (os.path.join(folder, file) for _, file in similar)
    paths = (next(different if other else same) for other in others[found].tolist())
    return PackedTexts.collect(paths, exact.prefix)


def _pictures(csv: Location, table: LabelTable, folder: Location) -> _Similar | None:
    """The PNG or JPEG of each row; None if there are none below `folder`. The exact name comes first."""
    names = list_files(folder, PICTURES).names
    if not names:
        return None
    index = Index(names, folder, pictures=True)
    written = ("" if row in table.padded else posixpath.normpath(name) for row, name in enumerate(table.names))
    exact = HashIndex(names, len(names)).first_of_each(written, len(table.names))
    del names
    for row in np.flatnonzero(exact >= 0).tolist():
        if index.names[int(exact[row])] != posixpath.normpath(table.names[row]):
            exact[row] = -1
    rest = _similar(csv, table, folder, np.flatnonzero(exact < 0), index)
    exact[rest.rows] = rest.places
    rows = np.flatnonzero(exact >= 0)
    return _Similar(rows=rows, places=exact[rows], index=index)


def _similar(csv: Location, table: LabelTable, folder: Location, rows: np.ndarray, index: Index) -> _Similar:
    """The only file below `folder` that the name of each of `rows` can mean; rows without one are skipped."""
    found, places = array("q"), array("q")
    for row, files in zip(map(int, rows), index.places(PackedTexts.of(table.names).at(rows)), strict=True):
        if len(files) > 1:
            names = sorted(index.names[file] for file in files)
            raise UserError(
                f"{csv} {number_of(csv, table.lines[row])}: {table.names[row]!r} can mean {len(files)} files in "
                f"{folder}: {', '.join(map(repr, names[:3]))}. Write the exact name of the file."
            )
        if files:
            found.append(row)
            places.append(files[0])
    return _Similar(rows=np.array(found, np.int64), places=np.array(places, np.int64), index=index)


def _check_once(csv: Location, table: LabelTable, paths: PackedTexts, rows: np.ndarray, similar: _Similar) -> None:
    """`paths` of `rows`."""
    if len(similar.rows) == len(rows):  # 16 bytes per row, where comparing texts takes 120
        first_row = np.zeros(len(similar.index.names), np.int64)
        first_row[similar.places[::-1]] = np.arange(len(rows))[::-1]
        first = first_row[similar.places]
    else:
        first = first_equal(paths)
    if len(again := np.flatnonzero(first != np.arange(len(first)))):
        row, other = rows[again[0]], rows[first[again[0]]]
        raise UserError(
            f"{csv} {number_of(csv, table.lines[row])}: {table.names[row]!r} means {paths[int(again[0])]}, and so does "
            f"{table.names[other]!r} in {number_of(csv, table.lines[other])}. Remove one of the rows."
        )


def _report(csv: Location, table: LabelTable, similar: _Similar) -> None:
    """Print how names differ from their files, with one example. A picture may be named without its suffix."""
    first, count = (0, ""), 0
    for row, file in similar:
        if (
            row in table.padded or not is_picture(file)
            or posixpath.normpath(table.names[row]) not in (file, bare(file))
        ):  # fmt: skip
            first, count = first if count else (row, file), count + 1
    if not count:
        return
    row, file = first
    name = table.names[row]
    how = difference(f" {name} " if row in table.padded else name, file)
    say(
        f"{csv}: {count} of {len(table.names)} names differ from the names of their files. The first, "
        f"{name!r}, means {file!r} ({how})."
    )


def _check_missing(
    table: LabelTable, folder: Location, found: np.ndarray, index: Index, *, allow_missing: bool
) -> None:
    missing = [table.names[row] for row in np.flatnonzero(~found).tolist()]
    if not missing:
        return
    first = ", ".join(missing[:3])
    count = f"{len(missing)} of {len(table.names)} chips of the CSV are missing in {folder} (first: {first})"
    if meant := index.of_last_part(missing):
        name, file = meant[0]
        count += f"; {len(meant)} have the name of a file in another folder: {name!r} may be {file!r}"
    if len(missing) == len(found):
        raise UserError(f"{count}. No chip is left. Is DATA the folder of the TIFFs?")
    if not allow_missing:
        there = _picture_of(missing, folder)
        why = f" {there} is there, but other rows have TIFFs, so PNGs and JPEGs are no chips." if there else ""
        raise UserError(f"{count}.{why} ALLOW_MISSING=1 skips them.")
    say(f"{count}; skipping them.")


def _picture_of(names: list[str], folder: Location) -> str:
    """The first of the names that is a PNG or JPEG below the folder; "" if there is none, and in object storage."""
    if not isinstance(folder, Path):
        return ""
    return next((name for name in names[:_PROBED] if is_picture(name) and (folder / name).is_file()), "")
