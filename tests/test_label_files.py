"""JSON lines and parquet files give the same labels as a CSV of the same rows, or are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from helpers.labels import advised_settings, read_table, tags_by_name
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preprocess.console import UserError

ROWS = {"a": {"clear", "road"}, "b": {"clear"}, "c": {"water"}, "d": set()}
LONG = "Land principally occupied by agriculture, with significant areas of natural vegetation"
TAGS = [["clear", "road"], ["clear"], ["water"], []]
WORD = st.text(st.characters(codec="utf-8", categories=["Ll", "Lo", "Nd"]), min_size=1, max_size=6)
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
FORMS: list[tuple[dict[str, list[Any]], dict[str, str]]] = [
    ({"image_name": list("abcd"), "tags": TAGS}, {}),
    ({"image_name": list("abcd"), "tags": [*TAGS[:3], None]}, {}),
    ({"image_name": list("abcd"), "tags": TAGS}, {"format": "list"}),
    ({"image_name": list("abcd"), "tags": [" ".join(tags) for tags in TAGS]}, {}),
    ({"image_name": list("abcd"), "tags": ["clear;road", "clear", "water", None]}, {"tags_separator": ";"}),
    ({"patch_id": list("abcd"), "labels": TAGS}, {"name_column": "patch_id", "tags_column": "labels"}),
    ({"image_name": list("aabcd"), "tags": ["clear", "road", "clear", "water", None]}, {"format": "long"}),
    ({"image_name": list("abcd"), "clear": [1, 1, 0, 0], "road": [1, 0, 0, 0], "water": [0, 0, 1, 0]},
     {"format": "onehot"}),
    ({"image_name": list("abcd"), "clear": [True, True, False, False], "road": [1.0, 0.0, 0.0, 0.0],
      "water": [0, 0, 1, 0]}, {"format": "onehot"}),
]  # fmt: skip


def write_parquet(folder: Path, columns: dict[str, list[Any]]) -> Path:
    path = folder / "t.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def write_json_lines(folder: Path, columns: dict[str, list[Any]]) -> Path:
    path = folder / "t.jsonl"
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    path.write_text("".join(json.dumps(row, ensure_ascii=index % 2 == 0) + "\n" for index, row in enumerate(rows)))
    return path


@pytest.mark.parametrize("write", [write_parquet, write_json_lines])
@pytest.mark.parametrize(("columns", "setting"), FORMS)
def test_each_form_is_read_from_parquet_and_json_lines(
    tmp_path: Path, write: Callable, columns: dict[str, list[Any]], setting: dict[str, str]
) -> None:
    table = read_table(write(tmp_path, columns), **setting)
    assert tags_by_name(table) == ROWS
    assert table.classes == ("clear", "road", "water")


@pytest.mark.parametrize("kind", ["large_string", "dictionary", "string_view", "pandas"])
def test_texts_of_any_arrow_type_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "t.parquet"
    frame = pd.DataFrame({"image_name": list("abcd"), "tags": TAGS})
    if kind == "pandas":
        frame.to_parquet(path)
    else:
        types = {
            "large_string": (pyarrow.large_string(), pyarrow.large_list(pyarrow.large_string())),
            "dictionary": (pyarrow.dictionary(pyarrow.int8(), pyarrow.string()), pyarrow.list_(pyarrow.string())),
            "string_view": (pyarrow.string_view(), pyarrow.list_(pyarrow.string())),
        }[kind]
        arrays = [pyarrow.array(frame[name].tolist(), type=type_) for name, type_ in zip(frame, types, strict=True)]
        pyarrow.parquet.write_table(pyarrow.table(arrays, names=list(frame)), path)
    assert tags_by_name(read_table(path)) == ROWS


def test_classes_with_spaces_and_commas_in_lists_need_no_setting(tmp_path: Path) -> None:
    columns = {"image_name": ["a", "b"], "tags": [["Inland waters", LONG], ["Inland waters"]]}
    for path in (write_parquet(tmp_path, columns), write_json_lines(tmp_path, columns)):
        assert tags_by_name(read_table(path)) == {"a": {"Inland waters", LONG}, "b": {"Inland waters"}}


@same_folder
@given(rows=st.dictionaries(WORD.map(lambda text: f"n{text}"), st.lists(WORD, max_size=4), min_size=1))
def test_any_lists_are_read_as_from_a_csv_of_lists(tmp_path: Path, rows: dict[str, list[str]]) -> None:
    columns: dict[str, list[Any]] = {"image_name": list(rows), "tags": list(rows.values())}
    lists = pd.DataFrame({"image_name": list(rows), "tags": [json.dumps(tags) for tags in rows.values()]})
    lists.to_csv(tmp_path / "t.csv", index=False)
    schema = pyarrow.schema({"image_name": pyarrow.string(), "tags": pyarrow.list_(pyarrow.string())})
    pyarrow.parquet.write_table(pyarrow.table(columns, schema=schema), tmp_path / "t.parquet")
    paths = [tmp_path / "t.csv", tmp_path / "t.parquet", write_json_lines(tmp_path, columns)]
    outcomes = []
    for path in paths:
        try:
            table = read_table(path, format="list")
            outcomes.append((table.names, table.classes, table.labels.tolist()))
        except UserError as error:
            text = str(error).removeprefix(str(path))
            outcomes.append(text.partition(": ")[2])  # without the number of the line
    assert outcomes[0] == outcomes[1] == outcomes[2] or "differ only in case" in str(outcomes[0])


def test_a_file_of_many_batches_is_read_whole_and_only_its_columns_are(tmp_path: Path) -> None:
    count = 40_000
    columns: dict[str, list[Any]] = {
        "image_name": [f"n{index}" for index in range(count)],
        "tags": [[f"t{index % 7}"] for index in range(count)],
        "when": [pd.Timestamp(index, unit="s") for index in range(count)],
    }
    table = read_table(write_parquet(tmp_path, columns))
    assert table.names == tuple(columns["image_name"])
    assert np.array_equal(table.labels.argmax(axis=1), np.arange(count) % 7)
    assert table.lines.tolist() == list(range(1, count + 1))


@pytest.mark.parametrize(
    ("columns", "setting", "message"),
    [
        ({"image_name": ["a"], "labels": [["x"]]}, {}, "expected the columns image_name, tags; found image_name, lab"),
        ({"image_name": ["a"], "tags": [[1]]}, {}, "row 1: expected a text, a number or a list of texts in column"),
        ({"image_name": ["a"], "tags": [[""]]}, {}, "row 1: expected a JSON or Python list of texts, found ['']"),
        ({"image_name": ["a"], "tags": [["x"]]}, {"format": "long"}, "expected one tag, found the list ['x']"),
        ({"image_name": ["a"], "tags": [["x"]]}, {"tags_separator": ","}, "Leave TAGS_SEPARATOR out."),
        ({"image_name": ["a", "a"], "tags": [["x"]] * 2}, {}, "row 2: image_name 'a' is also in row 1. Remove"),
        ({"image_name": ["a", "b"], "tags": [["x"], ["X"]]}, {}, "row 2: the tags 'X' and 'x' (row 1) differ only in"),
        ({"image_name": [["a"]], "tags": [["x"]]}, {}, "row 1: expected a text as name and split, found ('a',)"),
        ({"image_name": ["a\0"], "tags": [["x"]]}, {}, "row 1: expected a text"),
        ({"image_name": ["a"], "clear": [2]}, {"format": "onehot"}, "column 'clear': expected 0 or 1, found '2'"),
        ({"image_name": ["a"], "clear": [None]}, {"format": "onehot"}, "column 'clear': expected 0 or 1, found ''"),
        ({"image_name": ["a"], "clear": [pd.Timestamp(0)]}, {"format": "onehot"}, "row 1: expected a text, a number"),
        ({"image_name": [], "tags": []}, {}, "expected rows below the header, found none"),
        ({"x": ["a"]}, {}, "expected the columns image_name, tags; found x."),
    ],
)  # fmt: skip
def test_wrong_parquet_files_are_refused(
    tmp_path: Path, refused: Callable, columns: dict[str, list[Any]], setting: dict[str, str], message: str
) -> None:
    path = write_parquet(tmp_path, columns)
    text = refused(lambda: read_table(path, **setting))
    assert str(path) in text
    assert message in text


def test_bigearthnets_columns_are_offered(tmp_path: Path, refused: Callable) -> None:
    path = write_parquet(tmp_path, {"patch_id": ["a"], "labels": [["x"]], "split": ["train"], "country": ["Austria"]})
    advice = advised_settings(refused(lambda: read_table(path)))
    assert advice == {"name_column": "patch_id", "tags_column": "labels"}
    assert tags_by_name(read_table(path, **advice)) == {"a": {"x"}}


@pytest.mark.parametrize("content", [b"", b"PAR1", b"image_name,tags\na,x\n"])
def test_what_is_no_parquet_file_is_refused(tmp_path: Path, refused: Callable, content: bytes) -> None:
    path = tmp_path / "t.parquet"
    assert f"{path}: expected a parquet file, found nothing" in refused(lambda: read_table(path))
    path.write_bytes(content)
    assert f"{path}: expected a readable parquet file, found: " in refused(lambda: read_table(path))


def test_a_cut_or_damaged_parquet_file_is_refused_or_read_as_it_was(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {"image_name": [f"n{index}" for index in range(50)], "tags": [["x", "y"]] * 50}
    path = write_parquet(tmp_path, columns)
    whole = path.read_bytes()
    for at in range(0, len(whole), 37):
        for data in (whole[:at], whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]):
            path.write_bytes(data)
            try:
                assert len(read_table(path).names) == 50
            except UserError as error:
                assert str(path) in str(error)  # noqa: PT017  # some damage hits bytes that nobody reads


def test_damage_is_noticed_if_the_file_has_checksums(tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "t.parquet"
    table = pyarrow.table({"image_name": [f"name{index}" for index in range(50)], "tags": ["x"] * 50})
    pyarrow.parquet.write_table(table, path, write_page_checksum=True, compression="none", use_dictionary=False)
    path.write_bytes(path.read_bytes().replace(b"name17", b"name71", 1))
    assert f"{path}: expected a readable parquet file" in refused(lambda: read_table(path))


@pytest.mark.parametrize(
    ("text", "setting", "message"),
    [
        ('{"image_name": "a", "tags": ["x"]}\n["b"]\n', {}, "line 2: expected a JSON object per line, found list"),
        ('[{"image_name": "a"}]', {}, "jq -c '.[]' t.jsonl > tags.jsonl"),
        ('{"image_name": "a", "tags": ["x"]}\n{"image_name": "b"}\n', {}, "line 2: expected the key 'tags', found 'im"),
        ('{"image_name": "a", "tags": "x", "tags": "y"}', {}, "line 1: expected a JSON object, found something else ("),
        ('{"image_name": "a", "tags": ["x"]', {}, "line 1: expected a JSON object, found something else"),
        ('{"image_name": "a", "tags": NaN}', {}, "NaN is no JSON number"),
        ('{"image_name": "a", "tags": {"x": 1}}', {}, "line 1: expected a text, a number or a list of texts in 'tags'"),
        ('{"image_name": "\\ud800", "tags": "x"}', {}, "line 1: expected a text"),
        ('{"image_name": "a", "tags": "x"}\n{"image_name": "b", "tags": ["y"]}', {}, "line 2: expected a text with ta"),
        ('{"image_name": "a", "tags": ["x"]}\n{"image_name": "b", "tags": "y"}', {}, "line 2: expected a JSON or Pyt"),
        ('{"image_name": "a", "clear": 1}\n{"image_name": "b", "road": 1}', {"format": "onehot"}, "the key 'road'"),
        ("", {}, "found an empty file"),
        ("[" * 100_000, {}, "line 1: expected a JSON object"),
    ],
)  # fmt: skip
def test_wrong_json_lines_are_refused(
    tmp_path: Path, refused: Callable, text: str, setting: dict[str, str], message: str
) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    assert message in refused(lambda: read_table(path, **setting))


def test_json_lines_may_have_a_byte_order_mark_empty_lines_and_other_keys(tmp_path: Path) -> None:
    path = tmp_path / "t.ndjson"
    path.write_text(
        '\ufeff{"image_name": "a", "tags": ["x"], "box": {"x": 1}}\r\n\r\n{"tags": ["y"], "image_name": "b"}\r\n'
    )
    table = read_table(path)
    assert tags_by_name(table) == {"a": {"x"}, "b": {"y"}}
    assert table.lines.tolist() == [1, 3]


def test_damaged_json_lines_are_refused_or_read_as_pythons_json_reads_them(tmp_path: Path) -> None:
    lines = (
        {"image_name": "a", "tags": ["x", "y"]},
        {"image_name": "b", "tags": ["x"]},
        {"image_name": "c", "tags": None},
    )
    whole = "\n".join(map(json.dumps, lines)).encode()
    path = tmp_path / "t.jsonl"
    read = 0
    for at in range(len(whole)):
        for middle in (b"", bytes([whole[at] ^ 1]), b"\n", b'"', whole[at : at + 1] * 2):
            path.write_bytes(whole[:at] + middle + whole[at + 1 :])
            try:
                table = read_table(path)
            except UserError as error:
                assert str(error).startswith(str(path))  # noqa: PT017  # only some damage is refused
                continue
            read += 1
            expected: dict[str, set[str]] = {}
            for line in path.read_text().split("\n"):
                if values := json.loads(line or "null"):
                    tags = values["tags"] or []
                    expected[str(values["image_name"]).strip()] = set(
                        tags.split(" ") if isinstance(tags, str) else tags
                    )
            assert tags_by_name(table) == {
                name: {tag.strip(" ") for tag in tags} - {""} for name, tags in expected.items()
            }
