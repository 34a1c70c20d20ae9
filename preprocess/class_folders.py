"""LABELS=folders: the folder that holds a chip is its tag. Class folders may lie in folders named train, val and test.

In: a folder. Out: `TagRows`. Ambiguous folders are refused, because nobody would notice a missing class or split for a
long time. Leaves the meaning of the rows to `labels`.
"""

from pathlib import Path

import numpy as np

from preprocess.addresses import Location
from preprocess.chip_listing import list_chips
from preprocess.console import UserError
from preprocess.image_names import chip_name
from preprocess.packed_texts import PackedTexts, first_equal
from preprocess.split_rules import split_number
from preprocess.tag_rows import RowCollector, TagRows

_CSV = "write a CSV with the columns image_name, tags and split: LABELS=file.csv SPLIT_COLUMN=split."


def rows_of_folders(folder: Location) -> TagRows:
    """A row for every chip below `folder`, in the order of the names. Class folders are counted from 1 in place of
    lines.

    The tag is the folder that holds the chip. The name is its path without the suffix: `Forest/Forest_1`. Above the
    class folders there may be folders of splits: `train/Forest/Forest_1`. The split is the first folder, "" without
    one.

    Raises:
        UserError: there is no chip, a chip lies in no class folder, two chips have the same name, a link has no target,
            or some folders are named like splits and others are not.
    """
    if isinstance(folder, Path) and not folder.is_dir():
        raise UserError(
            f"{folder}: expected a folder of class folders, found {'a file' if folder.exists() else 'nothing'}."
        )
    files = _chips(folder)
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
    _check_splits(folder, list(numbers))
    return rows.rows("folders")


def _chips(folder: Location) -> PackedTexts:
    """The files, sorted. Links without a target, and PNGs or JPEGs beside TIFFs with other names, are refused: without
    them a whole class may be missing."""
    listing, alone = list_chips(folder)
    if alone:
        raise UserError(
            f"{folder}: expected a TIFF beside each PNG and JPEG, or no TIFF at all; found {alone}. Move the files of "
            "one kind to another folder."
        )
    if listing.dangling:
        raise UserError(
            f"{folder}: expected files, found {len(listing.dangling)} links without a target (first: "
            f"{listing.dangling[0]}). Fetch or mount the files that they point to, or remove the links."
        )
    return listing.names.sorted()


def _check_splits(folder: Location, parents: list[str]) -> None:
    """Raise UserError if only some class folders lie in folders of splits. `parents`: paths of the class folders."""
    below = [parent.split("/") for parent in parents]
    kinds = [len(parts) > 1 and split_number(parts[0]) is not None for parts in below]
    if any(kinds) and not all(kinds):
        inside, other = parents[kinds.index(True)], parents[kinds.index(False)]
        raise UserError(
            f"{folder}: expected all class folders in folders train, val and test, or none; found {inside} and "
            f"{other}. Move or remove {other}. If it should stay, {_CSV}"
        )
    if any(kinds):
        return
    if all(len(parts) == 1 and split_number(parts[0]) is not None for parts in below):
        raise UserError(
            f"{folder}: expected class folders, found only folders named like splits ({', '.join(parents)}). Put the "
            f"chips into class folders inside them, or {_CSV}"
        )
    last = {split_number(parts[-1]) for parts in below if len(parts) > 1} - {None}
    if len(last) > 1:  # Forest/train and Forest/test
        raise UserError(
            f"{folder}: expected folders of splits above the class folders, found them below. Move them, or {_CSV}"
        )
    for parts in below:
        deep = next((k for k, part in enumerate(parts[1:-1], 1) if split_number(part) is not None), 0)
        if deep:
            above = "/".join(parts[:deep])
            raise UserError(
                f"{folder}: expected folders of splits at the top, found {above}/{parts[deep]}. If all chips are in "
                f"{above}, set DATA to that folder; otherwise {_CSV}"
            )
