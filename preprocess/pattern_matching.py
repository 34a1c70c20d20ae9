"""Find the files of every row of the CSV by the pattern FILES.

In: a `FilePattern`, a `LabelTable`, a folder. Out: `Files`, as `file_matching` makes them. The path of a chip with a
file per band keeps {band}, which `chip_reader` replaces. Names must be exact: the pattern says how they are written.
"""

import os
import re
from array import array
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from preprocess.addresses import Location
from preprocess.chip_reader import paths_of, state_of
from preprocess.console import UserError, advice, say
from preprocess.file_matching import Files
from preprocess.file_patterns import BAND, NAME, FilePattern
from preprocess.image_names import bare
from preprocess.label_files import number_of
from preprocess.labels import LabelTable
from preprocess.packed_texts import HashIndex, TextBuilder
from preprocess.sources import Source, listed

_SHOWN = 3  # missing files that a message names


def match_pattern(
    csv: Location, table: LabelTable, folder: Location, pattern: FilePattern, *, allow_missing: bool
) -> Files:  # fmt: skip
    """Look up every row. Rows that lack a file of any band are refused, or skipped and counted.

    Raises:
        UserError: files are missing, or a name can mean two folders.
    """
    places, source = _Places(folder, pattern), listed(folder)
    paths, missing = TextBuilder(os.path.join(folder, "")), list[list[str]]()
    rows, size, mtime_ns = array("q"), array("q"), array("q")
    for row, name in enumerate(table.names):
        if "{" in name:
            raise UserError(
                f"{csv} {number_of(csv, int(table.lines[row]))}: {name!r}: expected a name without braces, for FILES."
            )
        path = places.path(bare(name))
        try:
            state = state_of(path, pattern.bands, source)
        except (FileNotFoundError, NotADirectoryError):
            missing.append([file for file in paths_of(path, pattern.bands) if not _exists(source, file)])
            continue
        except OSError as error:
            raise UserError(f"{path}: expected readable files ({error.strerror}). {advice(error)}".rstrip()) from error
        paths.append(path)
        rows.append(row)
        size.append(state[0])
        mtime_ns.append(state[1])
    _check_missing(table, folder, pattern, missing, allow_missing=allow_missing)
    csv_row, sizes, times = (np.frombuffer(column, np.int64) for column in (rows, size, mtime_ns))
    return Files(paths=paths.packed(), csv_row=csv_row, size=sizes, mtime_ns=times)


def _exists(source: Source, file: str) -> bool:
    try:
        source.state(file)
    except OSError:
        return False
    return True


def list_pattern(folder: Location, pattern: FilePattern) -> list[tuple[str, str]]:
    """(name, path) of every chip below `folder` that has a file of the first band, sorted; {band} is kept in paths."""
    parts = [
        part.replace(BAND, pattern.bands[0]) if pattern.bands else part for part in (*pattern.fixed, *pattern.rest)
    ]
    known, form = False, []
    for piece in re.split(r"(\{name\}|\*)", "/".join(parts)):
        form.append({NAME: r"(?P=name)" if known else r"(?P<name>[^/]+)", "*": "[^/]*"}.get(piece, re.escape(piece)))
        known |= piece == NAME
    chips = []
    for file in _files_like(folder, "/".join(parts).replace(NAME, "*")):
        if match := re.fullmatch("".join(form), file):
            start = file.split("/")[: len(pattern.fixed)]
            rest = [part.replace(NAME, match["name"]) for part in pattern.rest]
            chips.append((match["name"], os.path.join(folder, *start, *rest)))
    return sorted(chips)


def _files_like(folder: Location, form: str) -> Iterator[str]:
    """Names below `folder` that may have a form with *; in object storage every name. Hidden files, such as the `._`
    files of macOS, are left out, unless the form has a part that begins with a dot."""
    files: Iterable[str]
    if isinstance(folder, Path):
        files = (file.relative_to(folder).as_posix() for file in folder.glob(form))
    else:
        from preprocess.remote_files import list_folder

        files = list_folder(folder)
    return iter(files) if "/." in f"/{form}" else (file for file in files if "/." not in f"/{file}")


def _entries(folder: Location, pattern: FilePattern) -> Iterator[tuple[str, str]]:
    """(name, folder) of everything in the folders that the pattern's fixed parts can mean, folder by folder."""
    if isinstance(folder, Path):
        for each in sorted(folder.glob("/".join(pattern.fixed))):
            yield from ((entry.name, str(each)) for entry in (os.scandir(each) if each.is_dir() else ()))
        return
    from preprocess.remote_files import list_folder

    count = len(pattern.fixed)
    parts = {tuple(key.split("/")[: count + 1]) for key in list_folder(folder) if key.count("/") >= count}
    for *start, name in sorted(parts):
        if all(fnmatchcase(each, form) for each, form in zip(start, pattern.fixed, strict=True)):
            yield name, os.path.join(folder, *start)


class _Places:
    """Where the files of a name are. Folders that * stands for are listed once: there can be half a million names."""

    def __init__(self, folder: Location, pattern: FilePattern) -> None:
        self._pattern, self._folder = pattern, os.path.join(folder, *pattern.fixed)
        self._folders: list[str] | None = None
        if "*" in self._folder.removeprefix(str(folder)):
            self._folders = []
            entries, numbers = TextBuilder(), array("q")
            for name, each in _entries(folder, pattern):
                if not self._folders or self._folders[-1] != each:
                    self._folders.append(each)
                entries.append(name)
                numbers.append(len(self._folders) - 1)
            self._entries, self._numbers = entries.packed(), numbers
            self._places = HashIndex(self._entries, len(numbers))

    def path(self, name: str) -> str:
        """The path of a name; {band} is kept."""
        pattern = self._pattern
        rest = [part.replace(NAME, name) for part in pattern.rest]
        if self._folders is None:
            return os.path.join(self._folder, *rest)
        first = rest[0].replace(BAND, pattern.bands[0]) if pattern.bands else rest[0]
        top = first.partition("/")[0]
        folders = [
            self._folders[self._numbers[place]] for place in self._places.find(top) if self._entries[place] == top
        ]
        if len(folders) > 1:
            raise UserError(f"FILES={pattern.text}: {first!r} is in {folders[0]} and in {folders[1]}. Remove one.")
        return os.path.join(folders[0] if folders else self._folder, *rest)


def _check_missing(
    table: LabelTable, folder: Location, pattern: FilePattern, missing: list[list[str]], *, allow_missing: bool
) -> None:
    """`missing`: for each chip that lacks files, their paths."""
    if not missing:
        return
    files = [file for of_chip in missing for file in of_chip]
    first = ", ".join(os.path.relpath(file, folder) for file in files[:_SHOWN])
    text = f"{len(missing)} of {len(table.names)} chips of the CSV are missing in {folder}"
    text += f" or lack a band ({len(files)} files, first: {first})" if pattern.bands else f" (first: {first})"
    if len(missing) == len(table.names):
        raise UserError(f"{text}. No chip is left. Does FILES={pattern.text} fit the folder?")
    if not allow_missing:
        raise UserError(f"{text}. ALLOW_MISSING=1 skips them.")
    say(f"{text}; skipping them.")
