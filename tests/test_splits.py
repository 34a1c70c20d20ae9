"""Splits, compared with scikit-learn and with known numbers of the real CSV."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from random import Random

import numpy as np
import pytest
from helpers.chips import write_csv
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from preprocess.console import UserError, one_line
from preprocess.labels import read_labels
from preprocess.presets import PRESETS
from preprocess.splits import SPLIT_NAMES, course_rows, make_split
from preprocess.zarr_store import Store

RULES = st.sampled_from(["course", "0.8,0.2", "0.5,0.5@7", "0.7,0.1,0.2", "0.6,0.2,0.2@5"])


def chips_of(store: Store, num_rows: int, rows: list[int] | np.ndarray) -> Store:
    """A store with the chips of these rows, from a CSV of `num_rows` rows."""
    names = np.array([f"folder {row % 3}/é{row}" for row in rows])
    csv_row = np.array(rows, store.csv_row.dtype)
    return replace(
        store,
        num_csv_rows=num_rows,
        csv_row=csv_row,
        labels=np.zeros((len(rows), 3), np.uint8),
        read=lambda _, **__: names,
    )


def every(num_rows: int) -> np.ndarray:
    return np.arange(num_rows)


@given(RULES, st.integers(20, 3000), st.sampled_from([0.0, 0.1, 1 / 3, 0.5]))
def test_any_rule_puts_each_chip_into_one_split_and_is_deterministic(
    session_store: Store, rule: str, num_rows: int, val: float
) -> None:
    store = chips_of(session_store, num_rows, every(num_rows))
    val = 0.0 if rule.count(",") == 2 else val
    split = make_split(rule, store, val=val)
    splits = [split.train, split.val, split.test]
    assert np.array_equal(np.sort(np.concatenate(splits)), every(num_rows))
    assert all(np.array_equal(rows, np.sort(rows)) for rows in splits)
    assert split.sha256() == make_split(rule, store, val=val).sha256()


@given(st.integers(2, 3000), st.sampled_from([0.0, 0.1, 1 / 3, 0.5]))
def test_course_and_val_equal_scikit_learns_splits(session_store: Store, num_rows: int, val: float) -> None:
    train, test = train_test_split(every(num_rows), test_size=0.33, random_state=0)
    assert [rows.tolist() for rows in course_rows(num_rows)] == [train.tolist(), test.tolist()]
    carved: np.ndarray = np.empty(0, int)
    if val and np.ceil(val * len(train)) < len(train):
        train, carved = train_test_split(train, test_size=val, random_state=0)
    split = make_split("course", chips_of(session_store, num_rows, every(num_rows)), val=val if len(carved) else 0.0)
    for found, expected in ((split.train, train), (split.val, carved), (split.test, test)):
        assert np.array_equal(found, np.sort(expected))


@given(st.integers(3, 3000), st.lists(st.integers(1, 98), min_size=2, max_size=3), st.integers(0, 2**63 - 1))
def test_each_split_has_its_fraction_of_the_rows(
    session_store: Store, num_rows: int, weights: list[int], seed: int
) -> None:
    """Each size is within one row of the exact fraction. An empty train or test split is refused; val may be empty."""
    shares = [Fraction(weight, sum(weights)) for weight in weights]
    rule = ",".join(str(float(share)) for share in shares) + f"@{seed}"
    store = chips_of(session_store, num_rows, every(num_rows))
    try:
        split = make_split(rule, store)
    except UserError as error:
        refusal = str(error)
        assert min(shares) * num_rows < 1
        assert "split, found none" in refusal
        return
    splits = [split.train, split.val, split.test] if len(shares) == 3 else [split.train, split.test]
    assert all(abs(len(rows) - share * num_rows) <= 1 for rows, share in zip(splits, shares, strict=True))


@given(RULES, st.integers(60, 1000), st.data())
def test_missing_chips_do_not_move_other_chips(
    session_store: Store, rule: str, num_rows: int, data: st.DataObject
) -> None:
    present = sorted(data.draw(st.sets(st.integers(0, num_rows - 1), min_size=num_rows // 2)))
    whole = make_split(rule, chips_of(session_store, num_rows, every(num_rows)))
    thinned_store = chips_of(session_store, num_rows, present)
    thinned = make_split(rule, thinned_store)
    for name in SPLIT_NAMES:
        assert set(thinned_store.csv_row[thinned.indices(name)]) == set(whole.indices(name)) & set(present)


@given(
    st.lists(st.sampled_from(SPLIT_NAMES), min_size=2, max_size=30).filter(
        lambda splits: {"train", "test"} <= set(splits)
    ),
    st.randoms(),
)
def test_a_split_from_a_csv_does_not_depend_on_the_order_of_rows(
    tmp_path_factory: pytest.TempPathFactory, session_store: Store, splits: list[str], random: Random
) -> None:
    store = chips_of(session_store, len(splits), every(len(splits)))
    rows = list(zip(store.names.tolist(), splits, strict=True))
    random.shuffle(rows)
    path = tmp_path_factory.getbasetemp() / "split.csv"
    write_csv(path, rows, ("image_name", "part"))
    split = make_split(str(path), store)
    assert {name: split.indices(name).tolist() for name in SPLIT_NAMES} == {
        name: [chip for chip, part in enumerate(splits) if part == name] for name in SPLIT_NAMES
    }


@given(
    st.text(st.characters(exclude_characters="\0"), max_size=12) | st.from_regex("[0-9.,@e_-]{1,12}", fullmatch=True)
)
def test_any_text_is_a_valid_rule_or_one_line(session_store: Store, rule: str) -> None:
    try:
        split = make_split(rule, session_store)
    except UserError as error:
        refusal = str(error)
    else:
        assert len(split.train) + len(split.val) + len(split.test) == session_store.num_chips
        return
    assert one_line(rule) in refusal


def test_the_course_split_of_the_real_csv_is_known(shared: Path) -> None:
    table = read_labels(shared / "data/planet/train_v2.csv", PRESETS["planet"].classes)
    totals = [28431, 2089, 2697, 7261, 12315, 339, 862, 332, 98, 100, 4477, 3660, 37513, 8071, 340, 209, 7411]
    assert table.labels.sum(axis=0).tolist() == totals
    train, test = course_rows(len(table.names))
    assert (len(train), len(test)) == (27120, 13359)
    first = ["train_5603", "train_33842", "train_20450", "train_25679", "train_10507", "train_32802"]
    assert [table.names[row] for row in test[:6]] == first
    counts = [9388, 655, 874, 2442, 4144, 109, 307, 105, 25, 35, 1513, 1251, 12409, 2697, 113, 82, 2428]
    assert table.labels[test].sum(axis=0).tolist() == counts


def test_different_seeds_give_different_splits(session_store: Store) -> None:
    assert make_split("0.5,0.5@1", session_store).sha256() != make_split("0.5,0.5@2", session_store).sha256()


def test_val_is_taken_from_train_and_does_not_change_test(session_store: Store) -> None:
    plain, carved = make_split("course", session_store), make_split("course", session_store, val=0.1)
    assert np.array_equal(plain.test, carved.test)
    assert set(carved.train) | set(carved.val) == set(plain.train)
    assert not set(carved.train) & set(carved.val)
    assert len(carved.val) == 21


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("t_0", "train")], "found none for 299"),
        ([("t_0", "dev")], "expected train, val, test"),
        ([("nobody", "train")], "is not in the store"),
        ([("t_0", "train"), ("t_0", "test")], "occurs twice"),
        ([(f"t_{i}", "train") for i in range(300)], "expected chips in the test split"),
    ],
)
def test_bad_split_files_are_refused(
    tmp_path: Path, session_store: Store, refused: Callable, rows: list[tuple[str, str]], message: str
) -> None:
    write_csv(tmp_path / "s.csv", rows, ("image_name", "part"))
    assert message in refused(lambda: make_split(str(tmp_path / "s.csv"), session_store))


@pytest.mark.parametrize(
    "rule",
    [
        "half",
        "0.5",
        "0.5,0.6",
        "1,0",
        "0.5,0.5@x",
        "0.1,0.2,0.3,0.4",
        "-1,2",
        "nan,0.5",
        "0.5,0.5@9999999999999999999999999999999999999999",
        "0.5,0.5@1_0",
        "0_.5,0.5",
        "\u0660.5,0.5",
        "5e-1,5e-01@-1",
        "1e400,1",
    ],
)
def test_invalid_rules_are_refused(session_store: Store, refused: Callable, rule: str) -> None:
    assert f"SPLIT={rule}" in refused(lambda: make_split(rule, session_store))


def test_val_twice_is_refused(session_store: Store, refused: Callable) -> None:
    assert "already has a val split" in refused(lambda: make_split("0.7,0.1,0.2", session_store, val=0.1))


@pytest.mark.parametrize("val", [0.999, 1.0, -0.1])
def test_val_that_leaves_no_train_chip_is_refused(session_store: Store, refused: Callable, val: float) -> None:
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
def test_a_split_file_may_spell_names_as_a_csv_of_tags_may(
    tmp_path: Path, session_store: Store, change: Callable[[str], str], header: str
) -> None:
    store = replace(session_store, source={"labels": {"csv_separator": ";", "name_column": "file"}})
    rows = [(change(f"t_{index}"), "train" if index % 3 else "test") for index in range(300)]
    lines = [f"x;{part};{name}" if "file" in header else f"{name},{part}" for name, part in rows]
    (tmp_path / "s.csv").write_text("\n".join([header, *lines]))
    assert np.array_equal(make_split(str(tmp_path / "s.csv"), store).test, np.arange(0, 300, 3))


def test_a_split_file_may_use_the_words_of_a_split_column(tmp_path: Path, session_store: Store) -> None:
    words = ("Train", "validation", " test ", "TRAIN", "Val")
    rows = [f"t_{index},{words[index % 5]}" for index in range(300)]
    (tmp_path / "S.CSV").write_text("\n".join(["image_name,split", *rows]))
    split = make_split(str(tmp_path / "S.CSV"), session_store)
    places = np.arange(300) % 5
    assert np.array_equal(split.val, np.flatnonzero((places == 1) | (places == 4)))
    assert np.array_equal(split.test, np.flatnonzero(places == 2))


def test_a_name_that_fits_two_chips_and_a_chip_named_twice_are_refused(
    tmp_path: Path, session_store: Store, refused: Callable
) -> None:
    names = ["T_0", "t_0", *session_store.names[2:].tolist()]
    store = replace(session_store, read=lambda _, **__: np.array(names))
    path = tmp_path / "s.csv"
    path.write_text("image_name,part\nt_0.jpg,train\n")
    assert "line 2: image_name 't_0.jpg' can mean 'T_0', 't_0'" in refused(lambda: make_split(str(path), store))
    path.write_text("image_name,part\nt_5,train\nT_5.tif,test\n")
    assert "line 3: image_name 'T_5.tif' occurs twice, as 't_5'" in refused(lambda: make_split(str(path), store))
    path.write_text('image_name,part\nt_5,"train\nt_6,test\n')
    assert "line 2: expected a closing quote" in refused(lambda: make_split(str(path), store))
