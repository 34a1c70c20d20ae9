"""CSVs are read back exactly: any name stays the same text, any number the same float64."""

import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.chips import to_store, write_chips, write_csv
from helpers.commands import here, train
from hypothesis import example, given
from hypothesis import strategies as st
from tiny import tiny_networks

from analysis.page import Tables
from analysis.tables import CsvWriter, read_table, table_bytes, tags_form

# Words that CSV readers may convert or split, such as missing values, numbers, "" and separators.
ODD = (
    "nan", "NaN", "NA", "N/A", "None", "null", "", "inf", "-inf", "1e5", "007", "True", "0x10", "1_000", " a ", "a,b",
    'a"b', '"', "a\nb", "a\rb", "a\r\nb", "a;b", "a|b", "é", "\u202e", "\ufeff", "#", "mean",
)  # fmt: skip
names = st.sampled_from(ODD) | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@given(st.lists(st.tuples(names, names, st.floats()), min_size=1, max_size=5))
@example([(word, word, 0.1) for word in ODD])
def test_rows_are_read_back_with_pythons_csv(rows: list[tuple[str, str, float]]) -> None:
    text = io.StringIO(newline="")
    CsvWriter(text).writerows(rows)
    found = list(csv.reader(io.StringIO(text.getvalue(), newline="")))
    assert [row[:2] for row in found] == [list(row[:2]) for row in rows]
    assert [repr(float(row[2])) for row in found] == [repr(row[2]) for row in rows]


@given(st.lists(st.tuples(names, st.floats(), st.integers(0, 10**12)), min_size=1, max_size=5))
@example([(word, math.nan, 0) for word in ODD])
def test_tables_are_read_back_to_the_bit(rows: list[tuple[str, float, int]]) -> None:
    frame = pd.DataFrame(rows, columns=["class", "ap", "positives"])
    data = table_bytes(frame)
    found = read_table(data, words=("class",))
    assert found["class"].tolist() == [row[0] for row in rows]
    assert [repr(value) for value in found["ap"].astype(float)] == [repr(row[1]) for row in rows]
    assert found["positives"].tolist() == [row[2] for row in rows]
    assert [row[0] for row in csv.reader(io.StringIO(data.decode(), newline=""))][1:] == [row[0] for row in rows]


def test_a_table_without_an_expected_column_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a column class, found tag, ap"):
        read_table(b"tag,ap\na,1\n", words=("class",))


@given(st.lists(names.filter(lambda name: name.strip() == name != ""), min_size=1, max_size=5, unique=True), st.data())
def test_tags_in_one_cell_can_be_separated_again(classes: list[str], data: st.DataObject) -> None:
    tags = data.draw(st.lists(st.sampled_from(classes), unique=True))
    join, text = tags_form(classes)
    cell = join(tags)
    separator = {"": " ", ", separated by ','": ",", ", separated by ';'": ";", ", separated by '|'": "|"}.get(text)
    assert (json.loads(cell) if separator is None else [tag for tag in cell.split(separator) if tag]) == tags


def test_plain_tags_are_separated_by_spaces() -> None:
    for classes, text in (
        (("a", "b,c"), ""),
        (("a b", "c"), ", separated by ','"),
        (("a b", "c,d"), ", separated by ';'"),
        (("a b", "c,d;e|f"), ", as JSON lists"),
    ):
        assert tags_form(classes)[1] == text


CLASSES = ("1e5", "NA", "None", "True", "inf", "nan", "null")


@pytest.fixture
def tiny() -> Iterator[None]:
    with tiny_networks():
        yield


@pytest.mark.usefixtures("tiny")
def test_classes_with_odd_names_survive_a_run_its_report_and_a_prediction(tmp_path: Path) -> None:
    chips = write_chips(tmp_path / "tif", count=40)
    rows = [(f"t_{index}", " ".join(CLASSES[index % 7 : index % 7 + 3])) for index in range(40)]
    write_csv(chips.csv, rows)
    store = to_store(chips, tmp_path / "chips.zarr", classes=CLASSES)
    run = tmp_path / "run"
    assert store.classes == CLASSES
    ended = train(store.path, run, "BATCH=8", "EPOCHS=1")
    assert ended.returncode == 0, ended.stderr
    assert here("analysis", "reproduce", f"RUN={run}").returncode == 0
    table = read_table((run / "reproduce.csv").read_bytes(), words=("class",))
    assert table["class"].tolist() == [*CLASSES, "mean"]
    with np.load(run / "results.npz") as results:
        assert table["ap_saved"].tolist()[:-1] == results["AP"].tolist()
    ended = here("analysis", "report", f"RUN={run}")
    assert ended.returncode == 0, ended.stderr
    copy = read_table((run / "report" / "tables" / "reproduction.csv").read_bytes(), words=("class",))
    pd.testing.assert_frame_equal(copy, table)
    page = (run / "report" / "report.html").read_text()
    for name in CLASSES:
        assert f">{name}</td>" in page
    out = tmp_path / "p.csv"
    ended = here("analysis", "predict", f"RUN={run}", f"DATA={chips.folder}", f"OUT={out}", "GPU=cpu")
    assert ended.returncode == 0, ended.stderr
    with open(out, newline="") as file:
        header, *scores = csv.reader(file)
    assert header == ["image_name", *CLASSES]
    assert len(scores) == 40
    with open(tmp_path / "p_submission.csv", newline="") as file:
        assert all(set(row["tags"].split()) <= set(CLASSES) for row in csv.DictReader(file))


def test_a_table_of_a_page_keeps_names_and_numbers(tmp_path: Path) -> None:
    frame = pd.DataFrame({"class": list(ODD), "ap": np.linspace(0, 1 / 3, len(ODD))})
    Tables(folder=tmp_path).add("odd", frame)
    found = read_table((tmp_path / "odd.csv").read_bytes(), words=("class",))
    assert found["class"].tolist() == list(ODD)
    assert found["ap"].tolist() == frame["ap"].tolist()
