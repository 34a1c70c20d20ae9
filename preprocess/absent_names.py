"""Tell which names surely have no file with exactly that name.

In: very many names, a folder on disk. Out: a mask. Asking the system for the five spellings of a name takes 15 us; a
folder is listed once here. Leaves looking for the others to `image_names`.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from preprocess.image_names import stem
from preprocess.packed_texts import HashIndex, TextBuilder

_MAX_FOLDERS = 4096  # with more, names are a folder each, and listing them costs more than asking
_MAX_NAME = 200  # characters; the system refuses longer names, which is an error to show


def surely_absent(folder: Path, names: Sequence[str]) -> np.ndarray:
    """(names,) bool: no entry of the folder that a name points into has this name, without the suffix of a TIFF.

    A folder that cannot be listed, or whose file system does not distinguish cases, says nothing about its names.
    """
    parents = dict[str, bool]()
    for name in names:
        parents.setdefault(_parent(name), False)
        if len(parents) > _MAX_FOLDERS:
            return np.zeros(len(names), bool)
    entries = TextBuilder()
    for parent in parents:
        parents[parent] = _list(os.path.join(folder, parent), parent, entries)
    packed = entries.packed()
    index = HashIndex(packed, len(packed))
    result = np.asarray(index.first_of_each(map(stem, names), len(names)) < 0)
    for row, name in enumerate(names):
        if result[row] and not (parents[_parent(name)] and len(name) < _MAX_NAME):
            result[row] = False
    return result


def _parent(name: str) -> str:
    return stem(name).rpartition("/")[0] if "/" in name else ""


def _list(folder: str, parent: str, entries: TextBuilder) -> bool:
    """Add what a folder holds. False: it says nothing about other names."""
    start = f"{parent}/" if parent else ""
    try:
        for name in _names(folder):
            entries.append(start + stem(name))
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    first = next((name for name in _names(folder) if name.swapcase() != name), None)
    return first is None or not Path(folder, first.swapcase()).exists()


def _names(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry.name
