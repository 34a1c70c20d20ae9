"""Rows of the CSV -> train, val and test chips.

In: how to split, and the store's names. Out: a `Split` of chip indices. Neighbouring chips of one
scene look alike, so a random split leaks from train to test; a file split by scene does not.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

from preprocess.console import UserError
from preprocess.csv_rows import read_table
from preprocess.image_names import Index, stem
from preprocess.labels import LabelSettings, read_rows, settings_of
from preprocess.split_rules import read_fractions
from preprocess.zarr_store import Store

SPLIT_NAMES = ("train", "val", "test")
COURSE_TEST_SIZE, COURSE_SEED = 0.33, 0


@dataclass(frozen=True, kw_only=True)
class Split:
    """Chip indices of each part, ascending; `val` may be empty. `rule` is how they were chosen."""

    rule: str
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    def indices(self, name: str) -> np.ndarray:
        """The chips of "train", "val" or "test"."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    def sha256(self) -> str:
        """Fingerprint of who is where."""
        digest = hashlib.sha256()
        for name in SPLIT_NAMES:
            digest.update(name.encode())
            digest.update(self.indices(name).astype("<i8").tobytes())
        return digest.hexdigest()


def course_rows(num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """(train, test) row numbers of the reference project's split, in scikit-learn's order."""
    train, test = train_test_split(np.arange(num_rows), test_size=COURSE_TEST_SIZE, random_state=COURSE_SEED)
    return train, test


def make_split(rule: str, store: Store, *, val: float = 0.0) -> Split:
    """Divide the chips of a store.

    Args:
        rule: "course"; fractions "train,test" or "train,val,test" with an optional "@seed"
            ("0.7,0.1,0.2@5"); a CSV file with the columns image_name, part; or "blocked", with the course's
            shares, which keeps the groups together that `make audit` found (duplicates and neighbours).
        store: whose chips. Random splits are drawn over all rows of the CSV that it was made from, so that
            leaving out a missing chip moves no other.
        val: fraction of the train split to carve out as `val`, if the rule itself makes none.

    Raises:
        UserError: a rule that makes no sense, or an empty train or test split.
    """
    names, csv_row, num_csv_rows = store.names, store.csv_row, store.num_csv_rows
    if rule == "course":
        train_rows, test_rows = course_rows(num_csv_rows) if num_csv_rows > 1 else (np.arange(num_csv_rows),) * 2
        parts = {"train": train_rows, "val": np.empty(0, int), "test": test_rows}
    elif rule == "blocked":
        parts = _from_groups(store, val)
    elif rule.endswith(".csv"):
        parts = _from_file(Path(rule), store, names, csv_row)
    else:
        parts = _from_fractions(rule, num_csv_rows)
    if val and rule != "blocked":
        if not 0 < val < 1:
            raise UserError(f"VAL={val}: expected a fraction between 0 and 1 of the train split.")
        if len(parts["val"]):
            raise UserError(f"VAL={val}: SPLIT={rule} already has a val split.")
        if math.ceil(val * len(parts["train"])) >= len(parts["train"]):  # scikit-learn rounds up
            raise UserError(f"VAL={val}: nothing is left of the train split's {len(parts['train'])} rows.")
        parts["train"], parts["val"] = train_test_split(parts["train"], test_size=val, random_state=COURSE_SEED)
    part_of_row = np.full(num_csv_rows, -1)
    for index, name in enumerate(SPLIT_NAMES):
        part_of_row[parts[name]] = index
    chip_part = part_of_row[csv_row]
    train, val_chips, test = (np.flatnonzero(chip_part == index) for index in range(3))
    for name, chips in (("train", train), ("test", test)):
        if not len(chips):
            raise UserError(f"SPLIT={rule}: the {name} part is empty ({len(names)} chips in the store).")
    shown = f"{rule} + val {val:g}" if val else rule
    return Split(rule=shown, train=train, val=val_chips, test=test)


def groups_path(store: Path) -> Path:
    """Where `make audit` keeps the groups of a store's chips that a split must not divide."""
    return store.with_name(store.name + ".groups.json")


def _from_groups(store: Store, val: float) -> dict[str, np.ndarray]:
    """The course's shares in whole groups: drawn in random order, a group goes where it still fits, else to train.

    A group larger than the test split, such as a scene whose chips are all linked, is therefore in train.
    """
    groups = _read_groups(store)
    grouped = {chip for group in groups for chip in group}
    everything = groups + [[chip] for chip in range(store.num_chips) if chip not in grouped]
    room = {"test": round(COURSE_TEST_SIZE * store.num_chips)}
    room["val"] = round(val * (store.num_chips - room["test"]))
    chips: dict[str, list[int]] = {name: [] for name in SPLIT_NAMES}
    for index in np.random.Generator(np.random.Philox(key=COURSE_SEED)).permutation(len(everything)):
        group = everything[index]
        part = next((name for name in ("test", "val") if len(chips[name]) + len(group) <= room[name]), "train")
        chips[part] += group
    return {name: store.csv_row[np.array(chips[name], int)] for name in SPLIT_NAMES}


def _read_groups(store: Store) -> list[list[int]]:
    path = groups_path(store.local_path)
    again = f"Run `make audit STORE={store.path}` again."
    try:
        found = json.loads(path.read_text())
        fingerprint, groups = found["fingerprint"], [list(group) for group in found["groups"]]
    except FileNotFoundError:
        raise UserError(
            f"SPLIT=blocked: {path} is missing. `make audit STORE={store.path}` finds the groups."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}). {again}") from error
    if fingerprint != store.fingerprint:
        raise UserError(f"{path}: found in another store's chips. {again}")
    chips = [chip for group in groups for chip in group]
    if wrong := [chip for chip in chips if type(chip) is not int or not 0 <= chip < store.num_chips]:
        raise UserError(f"{path}: expected chips 0 to {store.num_chips - 1}, found {wrong[0]!r}. {again}")
    if len(set(chips)) != len(chips):
        raise UserError(f"{path}: expected each chip in one group, found one in several. {again}")
    return groups


def _from_fractions(rule: str, num_rows: int) -> dict[str, np.ndarray]:
    numbers = read_fractions(rule)
    if num_rows < len(numbers.fractions):
        raise UserError(f"SPLIT={rule}: {num_rows} rows cannot be divided into {len(numbers.fractions)} parts.")
    order = np.random.Generator(np.random.Philox(key=numbers.seed)).permutation(num_rows)
    ends = np.round(np.cumsum(numbers.fractions)[:-1] * num_rows).astype(int)
    pieces = np.split(order, ends)
    return {"train": pieces[0], "val": pieces[1] if len(pieces) == 3 else np.empty(0, int), "test": pieces[-1]}


def _from_file(path: Path, store: Store, names: np.ndarray, csv_row: np.ndarray) -> dict[str, np.ndarray]:
    """A CSV may be written as the one that the store was made from: its separator, its column of names."""
    settings = settings_of(store)
    parts: dict[str, list[int]] = {name: [] for name in SPLIT_NAMES}
    row_of = {stem(str(name)): int(row) for name, row in zip(names, csv_row, strict=True)}
    index: Index | None = None
    seen: dict[str, str] = {}
    for line, (written, text) in _rows(path, settings):
        name, part = stem(written.strip()), text.strip()
        if part not in parts:
            raise UserError(f"{path} line {line}: part {part!r}; expected {', '.join(SPLIT_NAMES)}.")
        if name not in row_of:
            index = index or Index(row_of)
            meant = index.find(written)
            if len(meant) != 1:
                which = f"can be {', '.join(map(repr, meant[:3]))}" if meant else "is not in the store"
                raise UserError(f"{path} line {line}: image_name {written!r} {which}.")
            name = meant[0]
        if name in seen:
            same = "" if seen[name] == written else f", as {seen[name]!r}"
            raise UserError(f"{path} line {line}: image_name {written!r} is there twice{same}.")
        seen[name] = written
        parts[part].append(row_of[name])
    absent = [name for name in row_of if name not in seen]
    if absent:
        raise UserError(f"{path}: {len(absent)} chips of the store have no part, e.g. {', '.join(absent[:3])}.")
    return {name: np.array(rows, int) for name, rows in parts.items()}


def _rows(path: Path, settings: LabelSettings) -> Iterator[tuple[int, list[str]]]:
    for separator in dict.fromkeys((settings.csv_separator, ",")):
        header = read_table(path, separator).header
        for column in (settings.name_column, "image_name"):
            if column in header and "part" in header:
                return read_rows(path, (column, "part"), separator)
    return read_rows(path, ("image_name", "part"))  # which says what is missing
