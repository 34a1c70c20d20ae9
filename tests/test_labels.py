"""Labels of a CSV of tags, and the errors that such a CSV can have."""

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from helpers.chips import write_csv

from preprocess.labels import read_labels


def test_labels_are_in_row_order_with_sorted_classes(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [("b", "water clear"), ("a", "clear clear"), ("c", "")])
    table = read_labels(tmp_path / "t.csv")
    assert table.names == ("b", "a", "c")
    assert table.classes == ("clear", "water")
    assert np.array_equal(table.labels, [[1, 1], [1, 0], [0, 0]])  # a repeated tag counts once


def test_the_user_sets_the_order_of_classes(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [("a", "x"), ("b", "z")])
    table = read_labels(tmp_path / "t.csv", ("z", "y", "x"))
    assert table.classes == ("z", "y", "x")
    assert np.array_equal(table.labels, [[0, 0, 1], [1, 0, 0]])


def test_other_columns_and_a_byte_order_mark_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\ufefftags,image_name,scene\nx y,a,1\n", encoding="utf-8")
    assert read_labels(tmp_path / "t.csv").names == ("a",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image_name,labels\na,x\n", "columns image_name, tags; found image_name, labels. TAGS_COLUMN=labels"),
        ("image_name\na\n", "expected the columns image_name, tags"),
        ("", "expected the columns"),
        ("image_name,tags\n", "expected rows below the header"),
        ("image_name,tags\na,x\nb\n", "line 3: expected 2 fields"),
        ("image_name,tags\na,x\nb,y\na,z\n", "line 4: image_name 'a' is also in line 2"),
        ("image_name,tags\na,x\na.tif,y\n", "is also in line 2"),
        ("image_name,tags\n../a,x\n", "leaves the folder"),
        ("image_name,tags\nb/../../a,x\n", "leaves the folder"),
        ("image_name,tags\n/etc/a,x\n", "is an absolute path"),
        ("image_name,tags\na\0b,x\n", "found a NUL character"),
        ("image_name,tags\n ,x\n", "is empty"),
        ("image_name,tags\na,\n", "expected tags, found none"),
        (
            "image_name,tags\na,x\nt_0,x,y,z\n",
            "line 3: expected 2 fields, found 4. Put quotes around a field with a comma",
        ),
        ("image_name,tags,tags\na,x,y\n", "line 1: expected one column tags, found 2"),
        ("image_name,image_name,tags\na,b,y\n", "line 1: expected one column image_name, found 2"),
        ("image_name,tags\nt_0,x\n./t_0,y\n", "line 3: image_name './t_0' is also in line 2"),
        ("image_name,tags\nt_0,x\nt_0/,y\n", "line 3: image_name 't_0/' is also in line 2"),
        ("image_name,tags\ns/t_0,x\ns//./t_0.tif,y\n", "is also in line 2"),
    ],
)
def test_a_wrong_csv_is_refused_with_its_name(tmp_path: Path, refused: Callable, content: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(content)
    text = refused(lambda: read_labels(path))
    assert message in text
    assert "t.csv" in text


def test_a_missing_csv_is_refused(tmp_path: Path, refused: Callable) -> None:
    assert "found nothing" in refused(lambda: read_labels(tmp_path / "no.csv"))
    assert "found a folder" in refused(lambda: read_labels(tmp_path))


def test_quoted_commas_and_repeated_other_columns_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('image_name,note,note,tags\na,"1,2",3,x y\n')
    assert read_labels(tmp_path / "t.csv").classes == ("x", "y")


def test_a_csv_without_read_permission_is_one_line(tmp_path: Path, refused: Callable) -> None:
    write_csv(tmp_path / "t.csv", [("a", "x")])
    denied = PermissionError(13, "Permission denied")  # the test raises it: root may read every file
    with mock.patch("builtins.open", side_effect=denied):
        text = refused(lambda: read_labels(tmp_path / "t.csv"))
    assert "t.csv: expected a readable CSV file, found: Permission denied" in text


def test_bytes_that_are_not_utf_8_are_refused(tmp_path: Path, refused: Callable) -> None:
    (tmp_path / "t.csv").write_bytes(b"image_name,tags\n\xff\xfe\x80,x\n")
    assert "UTF-8" in refused(lambda: read_labels(tmp_path / "t.csv"))


def test_a_tag_outside_the_given_classes_is_refused(tmp_path: Path, refused: Callable) -> None:
    write_csv(tmp_path / "t.csv", [("a", "clear"), ("b", "claer")])
    text = refused(lambda: read_labels(tmp_path / "t.csv", ("clear", "water")))
    assert "line 3" in text
    assert "found tag 'claer'" in text
