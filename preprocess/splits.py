"""Divide the chips of a store into train, val and test.

In: a rule and a store. Out: a `Split` of chip indices. Neighbouring chips of one scene look similar, so a random split
leaks from train to test; a file that divides by scene does not.
"""

import hashlib
import json
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from preprocess.addresses import Location
from preprocess.blocks import block_numbers, blocks_line, joined
from preprocess.console import UserError
from preprocess.csv_rows import is_file, read_table
from preprocess.image_names import Index, stem
from preprocess.label_settings import LabelSettings
from preprocess.labels import HasSource, read_rows, settings_of
from preprocess.packed_texts import HashIndex, PackedTexts
from preprocess.split_rules import BLOCK_KM, read_fractions, split_number
from preprocess.split_rules import SPLIT_NAMES as SPLIT_NAMES
from preprocess.zarr_store import Store

COURSE_TEST_SIZE, COURSE_SEED = 0.33, 0


@dataclass(frozen=True, kw_only=True)
class Split:
    """Chip indices of train, val and test, ascending; `val` may be empty.

    rule: how they were chosen. note: a line about it, or "".
    """

    rule: str
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    note: str = ""

    def indices(self, name: str) -> np.ndarray:
        """Chip indices of "train", "val" or "test"."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    def sha256(self) -> str:
        """Fingerprint of all three index arrays."""
        digest = hashlib.sha256()
        for name in SPLIT_NAMES:
            digest.update(name.encode())
            digest.update(self.indices(name).astype("<i8").tobytes())
        return digest.hexdigest()


def course_rows(num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """(train, test) row numbers of the reference project's split, in the order of scikit-learn."""
    return _random_split(np.arange(num_rows), COURSE_TEST_SIZE)


def _random_split(rows: np.ndarray, test_size: float) -> tuple[np.ndarray, np.ndarray]:
    """(train, test) as scikit-learn's `train_test_split` with seed 0 divides `rows`, without importing it.

    Importing it takes 0.9 CPU-seconds, with pandas and scipy.stats, a fifth of the start of a training.
    """
    # A RandomState, not a Generator: scikit-learn uses one, and numpy has frozen its numbers.
    shuffled = rows[np.random.RandomState(COURSE_SEED).permutation(len(rows))]
    num_test = math.ceil(test_size * len(rows))
    return shuffled[num_test:], shuffled[:num_test]


class ChipTable(HasSource, Protocol):
    """The chips that a split divides: a `Store`, or the plan of one."""

    @property
    def names(self) -> np.ndarray:
        """As in the CSV."""
        ...

    @property
    def csv_row(self) -> np.ndarray:
        """Row of each chip in the CSV."""
        ...

    @property
    def num_csv_rows(self) -> int:
        """Rows of the CSV, with those whose chip is missing."""
        ...

    @property
    def split(self) -> np.ndarray | None:
        """Position in SPLIT_NAMES of each chip's split in the labels file; None without SPLIT_COLUMN."""
        ...


def make_split(rule: str, store: ChipTable, *, val: float = 0.0, block_km: float = BLOCK_KM) -> Split:
    """Divide the chips of a store.

    Args:
        rule: "course"; fractions "train,test" or "train,val,test" with an optional "@seed"
            ("0.7,0.1,0.2@5"); a CSV file with the columns image_name and split; "column", the split of the labels
            file that the store keeps; or "blocked", which has the shares of "course" but keeps together the chips of a
            block of ground, if the store has coordinates, and of each group that `make audit` found (duplicates,
            neighbours).
        store: the store. Random splits are drawn over all rows of its CSV, so that a missing chip moves no other chip.
        val: fraction of the train split to use as `val`, if the rule makes none.
        block_km: side of the blocks of "blocked".

    Raises:
        UserError: the rule is invalid, or the train or test split is empty.
    """
    rows, note = _blocked(store, val, block_km) if rule == "blocked" else (_split_rows(rule, store), "")
    if val and rule != "blocked":
        _carve_val(rows, rule, val)
    split_of_row = np.full(store.num_csv_rows, -1)
    for index, name in enumerate(SPLIT_NAMES):
        split_of_row[rows[name]] = index
    split_of_chip = split_of_row[store.csv_row]
    train, val_chips, test = (np.flatnonzero(split_of_chip == index) for index in range(3))
    for name, chips in (("train", train), ("test", test)):
        if not len(chips):
            total = len(store.csv_row)
            smaller = f" BLOCK_KM={block_km:g} may be too large." if rule == "blocked" else ""
            raise UserError(
                f"SPLIT={rule}: expected chips in the {name} split, found none ({total} chips in the store).{smaller}"
            )
    shown = f"{rule} + val {val:g}" if val else rule
    return Split(rule=shown, train=train, val=val_chips, test=test, note=note)


def _split_rows(rule: str, store: ChipTable) -> dict[str, np.ndarray]:
    """Split name -> rows of the CSV."""
    if rule == "course":
        count = store.num_csv_rows
        train, test = course_rows(count) if count > 1 else (np.arange(count),) * 2
        return {"train": train, "val": np.empty(0, int), "test": test}
    if rule == "column":
        if (split := store.split) is None:
            raise UserError(
                f"SPLIT=column: {store.path} keeps no split. Convert again with SPLIT_COLUMN=split, the column of the "
                "labels file that says train, val or test; with LABELS=folders put the class folders into such folders."
            )
        return {name: store.csv_row[split == index] for index, name in enumerate(SPLIT_NAMES)}
    if rule.lower().endswith(".csv"):
        names = store.name_texts if isinstance(store, Store) else PackedTexts.collect(map(str, store.names))
        return _from_file(Path(rule), store, names)
    return _from_fractions(rule, store.num_csv_rows)


def _carve_val(rows: dict[str, np.ndarray], rule: str, val: float) -> None:
    """Move a fraction of the train rows to val."""
    if not 0 < val < 1:
        raise UserError(f"VAL={val}: expected a fraction between 0 and 1 of the train split.")
    if len(rows["val"]):
        raise UserError(f"VAL={val}: SPLIT={rule} already has a val split. Leave VAL out.")
    count = len(rows["train"])
    if math.ceil(val * count) >= count:  # scikit-learn rounds up
        raise UserError(f"VAL={val}: expected a smaller fraction, since the train split has only {count} rows.")
    rows["train"], rows["val"] = _random_split(rows["train"], val)


def groups_path(store: Location) -> Location:
    """The file in which `make audit` writes the groups of chips that must stay in one split."""
    return store.with_name(store.name + ".groups.json")


def _blocked(store: ChipTable, val: float, block_km: float) -> tuple[dict[str, np.ndarray], str]:
    """Shares of "course" in whole groups, and a line about them. In random order, each group goes to the first split
    with space, else to train.

    A group larger than the test split, such as a scene with all chips linked, is therefore in train.
    """
    if not isinstance(store, Store):
        raise UserError(f"SPLIT=blocked: {store.path} must be made first. Then `make audit` finds the groups.")
    all_groups, note = _whole_groups(store, block_km)
    sizes = {"test": round(COURSE_TEST_SIZE * store.num_chips)}
    sizes["val"] = round(val * (store.num_chips - sizes["test"]))
    chips: dict[str, list[int]] = {name: [] for name in SPLIT_NAMES}
    for index in np.random.Generator(np.random.Philox(key=COURSE_SEED)).permutation(len(all_groups)):
        group = all_groups[index]
        split = next((name for name in ("test", "val") if len(chips[name]) + len(group) <= sizes[name]), "train")
        chips[split] += group
    return {name: store.csv_row[np.array(chips[name], int)] for name in SPLIT_NAMES}, note


def _whole_groups(store: Store, block_km: float) -> tuple[list[list[int]], str]:
    """All chips of a store in the groups that stay in one split, and a line about them."""
    blocks = block_numbers(store, block_km)
    if blocks is None:
        groups = _read_groups(store)
        grouped = {chip for group in groups for chip in group}
        note = f"SPLIT=blocked: {len(groups)} groups of the audit; the store has no coordinates for blocks."
        return groups + [[chip] for chip in range(store.num_chips) if chip not in grouped], note
    is_audited = is_file(groups_path(store.place))
    groups = _read_groups(store) if is_audited else []
    return joined(blocks, groups), blocks_line(blocks, block_km, len(groups) if is_audited else None)


def _read(path: Location) -> bytes:
    if isinstance(path, Path):
        return path.read_bytes()
    from preprocess.remote_files import read_file

    return bytes(read_file(path))


def _read_groups(store: Store) -> list[list[int]]:
    path = groups_path(store.place)
    remedy = f"Run `make audit STORE={store.path}` again."
    try:
        content = json.loads(_read(path))
        fingerprint, groups = content["fingerprint"], [list(group) for group in content["groups"]]
    except FileNotFoundError:
        raise UserError(
            f"SPLIT=blocked: {path} is missing. `make audit STORE={store.path}` finds the groups."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}). {remedy}") from error
    if fingerprint != store.fingerprint:
        raise UserError(f"{path}: expected the groups of this store, found those of another. {remedy}")
    chips = [chip for group in groups for chip in group]
    if wrong := [chip for chip in chips if type(chip) is not int or not 0 <= chip < store.num_chips]:
        raise UserError(f"{path}: expected chips 0 to {store.num_chips - 1}, found {wrong[0]!r}. {remedy}")
    if len(set(chips)) != len(chips):
        raise UserError(f"{path}: expected each chip in one group, found one in several. {remedy}")
    return groups


def _from_fractions(rule: str, num_rows: int) -> dict[str, np.ndarray]:
    numbers = read_fractions(rule)
    if num_rows < len(numbers.fractions):
        raise UserError(f"SPLIT={rule}: {num_rows} rows cannot be divided into {len(numbers.fractions)} splits.")
    order = np.random.Generator(np.random.Philox(key=numbers.seed)).permutation(num_rows)
    ends = np.round(np.cumsum(numbers.fractions)[:-1] * num_rows).astype(int)
    pieces = np.split(order, ends)
    return {"train": pieces[0], "val": pieces[1] if len(pieces) == 3 else np.empty(0, int), "test": pieces[-1]}


def _from_file(path: Path, store: ChipTable, names: PackedTexts) -> dict[str, np.ndarray]:
    """Read a split file. It may have the separator and the name column of the store's own CSV."""
    settings = settings_of(store)
    chips = {name: array("q") for name in SPLIT_NAMES}  # in the order of the file, which VAL draws from
    stems = PackedTexts.collect(map(stem, names))
    places = HashIndex(stems, len(stems))
    index: Index | None = None
    line_of = np.zeros(len(stems), np.int64)
    for line, (written, text) in _file_rows(path, settings):
        name, number = stem(written.strip()), split_number(text)
        if number is None:
            raise UserError(
                f"{path} line {line}: expected {', '.join(SPLIT_NAMES)} as the split, found {text.strip()!r}."
            )
        chip = next((place for place in places.find(name) if stems[place] == name), None)
        if chip is None:
            index = index or Index(stems)
            name = _only_match(index.find(written), f"{path} line {line}: image_name {written!r}")
            chip = next(place for place in places.find(name) if stems[place] == name)
        if line_of[chip]:
            first = next(each for number, (each, _) in _file_rows(path, settings) if number == line_of[chip])
            same = "" if first == written else f", as {first!r}"
            raise UserError(f"{path} line {line}: image_name {written!r} occurs twice{same}. Remove one of the rows.")
        line_of[chip] = line
        chips[SPLIT_NAMES[number]].append(chip)
    if len(absent := np.flatnonzero(line_of == 0)):
        raise UserError(
            f"{path}: expected a split for every chip of the store, found none for {len(absent)} "
            f"(for example {', '.join(stems.at(absent[:3]))})."
        )
    return {name: store.csv_row[np.array(numbers, np.int64)] for name, numbers in chips.items()}


def _only_match(names: list[str], what: str) -> str:
    if len(names) != 1:
        found = f"can mean {', '.join(map(repr, names[:3]))}" if names else "is not in the store"
        raise UserError(f"{what} {found}.")
    return names[0]


def _file_rows(path: Path, settings: LabelSettings) -> Iterator[tuple[int, list[str]]]:
    """(line, [name, split]). The column of splits is called split or, in older files, part."""
    for separator in dict.fromkeys((settings.csv_separator, ",")):
        header = read_table(path, separator).header
        for column in (settings.name_column, "image_name"):
            for split_column in ("split", "part"):
                if column in header and split_column in header:
                    return read_rows(path, (column, split_column), separator)
    return read_rows(path, ("image_name", "split"))  # raises and names the missing column
