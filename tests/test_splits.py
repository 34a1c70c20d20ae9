"""Splits against scikit-learn and against the real CSV."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import write_csv
from sklearn.model_selection import train_test_split

from preprocess.labels import read_labels
from preprocess.presets import PRESETS
from preprocess.schema import Store
from preprocess.splits import course_rows, make_split


def test_course_is_scikit_learns(session_store: Store) -> None:
    split = make_split("course", session_store)
    train, test = train_test_split(np.arange(session_store.num_tiles), test_size=0.33, random_state=0)
    assert np.array_equal(split.train, np.sort(train))
    assert np.array_equal(split.test, np.sort(test))
    assert not len(split.val)


def test_course_of_the_real_csv(shared: Path) -> None:
    table = read_labels(shared / "data/planet/train_v2.csv", PRESETS["planet"].classes)
    totals = [28431, 2089, 2697, 7261, 12315, 339, 862, 332, 98, 100, 4477, 3660, 37513, 8071, 340, 209, 7411]
    assert table.labels.sum(axis=0).tolist() == totals
    train, test = course_rows(len(table.names))
    assert (len(train), len(test)) == (27120, 13359)
    first = ["train_5603", "train_33842", "train_20450", "train_25679", "train_10507", "train_32802"]
    assert [table.names[row] for row in test[:6]] == first
    counts = [9388, 655, 874, 2442, 4144, 109, 307, 105, 25, 35, 1513, 1251, 12409, 2697, 113, 82, 2428]
    assert table.labels[test].sum(axis=0).tolist() == counts


def test_missing_chips_move_no_other(session_store: Store) -> None:
    kept = np.arange(0, session_store.num_tiles, 3)
    part = replace(
        session_store, labels=session_store.labels[kept], csv_row=session_store.csv_row[kept],
        read=lambda name: session_store.read(name)[kept],
    )  # fmt: skip
    whole, thinned = make_split("course", session_store), make_split("course", part)
    assert set(part.csv_row[thinned.test]) == set(whole.test) & set(kept)


@pytest.mark.parametrize("rule", ["0.7,0.1,0.2", "0.7,0.1,0.2@5"])
def test_fractions(session_store: Store, rule: str) -> None:
    split = make_split(rule, session_store)
    parts = [split.train, split.val, split.test]
    assert [len(part) for part in parts] == [210, 30, 60]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(300))
    assert split.sha256() == make_split(rule, session_store).sha256()


def test_seeds_differ(session_store: Store) -> None:
    assert make_split("0.5,0.5@1", session_store).sha256() != make_split("0.5,0.5@2", session_store).sha256()


def test_val_comes_out_of_train_and_leaves_test_alone(session_store: Store) -> None:
    plain, carved = make_split("course", session_store), make_split("course", session_store, val=0.1)
    assert np.array_equal(plain.test, carved.test)
    assert set(carved.train) | set(carved.val) == set(plain.train)
    assert not set(carved.train) & set(carved.val)
    assert len(carved.val) == 21


def test_file(tmp_path: Path, session_store: Store) -> None:
    names = [str(name) for name in session_store.names]
    parts = ["train" if index % 3 else "test" for index in range(300)]
    write_csv(tmp_path / "s.csv", list(zip(names, parts, strict=True)), ("image_name", "part"))
    split = make_split(str(tmp_path / "s.csv"), session_store)
    assert np.array_equal(split.test, np.arange(0, 300, 3))


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([("t_0", "train")], "299 tiles of the store have no part"),
        ([("t_0", "dev")], "expected train, val, test"),
        ([("nobody", "train")], "is not in the store"),
        ([("t_0", "train"), ("t_0", "test")], "is there twice"),
        ([(f"t_{i}", "train") for i in range(300)], "the test part is empty"),
    ],
)
def test_bad_files(
    tmp_path: Path, session_store: Store, refused: Callable, rows: list[tuple[str, str]], found: str
) -> None:
    write_csv(tmp_path / "s.csv", rows, ("image_name", "part"))
    assert found in refused(lambda: make_split(str(tmp_path / "s.csv"), session_store))


@pytest.mark.parametrize("rule", ["half", "0.5", "0.5,0.6", "1,0", "0.5,0.5@x", "0.1,0.2,0.3,0.4", "-1,2", "nan,0.5"])
def test_rules_that_make_no_sense(session_store: Store, refused: Callable, rule: str) -> None:
    assert f"SPLIT={rule}" in refused(lambda: make_split(rule, session_store))


def test_val_twice_is_refused(session_store: Store, refused: Callable) -> None:
    assert "already has a val part" in refused(lambda: make_split("0.7,0.1,0.2", session_store, val=0.1))


@pytest.mark.parametrize("val", [0.999, 1.0, -0.1])
def test_val_that_leaves_no_train_part(session_store: Store, refused: Callable, val: float) -> None:
    assert f"VAL={val}" in refused(lambda: make_split("course", session_store, val=val))


@pytest.mark.parametrize(
    ("change", "header"),
    [
        (lambda name: f"{name}.tif", "image_name,part"),
        (lambda name: f"{name}.jpg", "image_name,part"),
        (lambda name: f" {name.upper()} ", "image_name, part"),
        (lambda name: f".\\{name}", "image_name,part"),
        (str, "note;part;file"),
    ],
)
def test_a_file_may_spell_names_as_a_csv_of_tags_may(
    tmp_path: Path, session_store: Store, change: Callable[[str], str], header: str
) -> None:
    store = replace(session_store, source={"labels": {"csv_separator": ";", "name_column": "file"}})
    rows = [(change(f"t_{index}"), "train" if index % 3 else "test") for index in range(300)]
    lines = [f"x;{part};{name}" if "file" in header else f"{name},{part}" for name, part in rows]
    (tmp_path / "s.csv").write_text("\n".join([header, *lines]))
    assert np.array_equal(make_split(str(tmp_path / "s.csv"), store).test, np.arange(0, 300, 3))


def test_a_name_that_can_be_two_chips_and_a_chip_named_twice_are_refused(
    tmp_path: Path, session_store: Store, refused: Callable
) -> None:
    names = ["T_0", "t_0", *session_store.names[2:].tolist()]
    store = replace(session_store, read=lambda name: np.array(names))
    path = tmp_path / "s.csv"
    path.write_text("image_name,part\nt_0.jpg,train\n")
    assert "line 2: image_name 't_0.jpg' can be 'T_0', 't_0'" in refused(lambda: make_split(str(path), store))
    path.write_text("image_name,part\nt_5,train\nT_5.tif,test\n")
    assert "line 3: image_name 'T_5.tif' is there twice, as 't_5'" in refused(lambda: make_split(str(path), store))
    path.write_text('image_name,part\nt_5,"train\nt_6,test\n')
    assert "line 2: expected a closing quote" in refused(lambda: make_split(str(path), store))
