"""Each way to write tags in a CSV is read exactly with its setting and refused without it, with the setting's name."""

import csv
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.labels import advised_settings, read_table, tags_by_name, write_labels
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preprocess.console import UserError, is_plain
from preprocess.label_settings import LabelSettings
from preprocess.tags import list_tags

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
ROWS = {"a": {"clear", "road"}, "b": {"clear"}, "c": {"water"}, "d": set()}
WORD = st.text(st.characters(codec="utf-8", categories=["Ll", "Lo", "Nd"]), min_size=1, max_size=6)

# The text of a CSV, and the settings that read it.
FORMS = [
    ("image_name;tags\na;clear road\nb;clear\nc;water\nd;\n", {"csv_separator": ";"}),
    ("image_name\ttags\na\tclear road\nb\tclear\nc\twater\nd\t\n", {"csv_separator": "tab"}),
    ("filename,labels\na,clear road\nb,clear\nc,water\nd,\n", {"name_column": "filename", "tags_column": "labels"}),
    ("Image,Tags,x\na,clear road,1\nb,clear,2\nc,water,3\nd,,4\n", {"name_column": "Image", "tags_column": "Tags"}),
    ('image_name,tags\na,"clear,road"\nb,clear\nc,water\nd,\n', {"tags_separator": ","}),
    ('image_name,tags\na,"clear, road"\nb,clear\nc,water\nd,\n', {"tags_separator": ","}),
    ("image_name,tags\na,clear;road\nb,clear\nc,water\nd,\n", {"tags_separator": ";"}),
    ("image_name,tags\na,clear | road\nb,clear\nc,water\nd,\n", {"tags_separator": "|"}),
    ("image_name,tags\na,\"['clear', 'road']\"\nb,['clear']\nc,['water']\nd,[]\n", {"format": "list"}),
    ('image_name,tags\na,"[""clear"",""road""]"\nb,"[""clear""]"\nc,"[""water""]"\nd,[]\n', {"format": "list"}),
    ("image_name,tags\na,\"{'clear', 'road'}\"\nb,\"('clear',)\"\nc,['water']\nd,()\n", {"format": "list"}),
    ("image_name,clear,road,water\na,1,1,0\nb,1,0,0\nc,0,0,1\nd,0,0,0\n", {"format": "onehot"}),
    ("image_name,clear,road,water\na,1.0,1.0,0.0\nb,1,0,0\nc,0,0,1\nd,0,0,0\n", {"format": "onehot"}),
    ("image_name,clear,road,water\na,True,TRUE,False\nb,true,0,0\nc,0,0,1\nd,0,0,0\n", {"format": "onehot"}),
    ("image_name,tags\na,clear\na,road\nb,clear\nc,water\nd,\n", {"format": "long"}),
]


@pytest.mark.parametrize(("text", "setting"), FORMS)
def test_each_form_is_refused_with_its_setting_and_read_with_it(
    tmp_path: Path, refused: Callable, text: str, setting: dict[str, str]
) -> None:
    path = write_labels(tmp_path, text)
    assert advised_settings(refused(lambda: read_table(path))) == setting
    table = read_table(path, **setting)
    assert tags_by_name(table) == ROWS
    assert table.classes == ("clear", "road", "water")
    assert LabelSettings.of(LabelSettings.of(setting).as_dict()) == LabelSettings.of(setting)


def test_spaces_around_names_headers_and_tags_are_ignored(tmp_path: Path) -> None:
    table = read_table(write_labels(tmp_path, "image_name , tags\na, clear  road \nb ,clear\nc, water\nd, \n"))
    assert tags_by_name(table) == ROWS
    assert table.padded == {1}


def test_class_names_may_contain_spaces_and_commas(tmp_path: Path, refused: Callable) -> None:
    """Classes of BigEarthNet; the name of one contains a comma."""
    long = "Land principally occupied by agriculture, with significant areas of natural vegetation"
    text = f'image_name,tags\na,"Coniferous forest;Inland waters"\nb,Inland waters\nc,"{long}"\n'
    for lines in itertools.permutations(text.splitlines()[1:]):
        path = write_labels(tmp_path, "\n".join(["image_name,tags", *lines]))
        assert advised_settings(refused(lambda: read_table(path))) == {"tags_separator": ";"}  # noqa: B023  # called at once
        table = read_table(path, tags_separator=";")
        assert table.classes == ("Coniferous forest", "Inland waters", long)
        assert tags_by_name(table)["a"] == {"Coniferous forest", "Inland waters"}
        assert tags_by_name(table)["c"] == {long}


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (["a,nan", "b,clear"], {}, "line 2: the tag 'nan' looks like a missing value"),
        (["a,clear", "b,None"], {}, "line 3: the tag 'None' looks like a missing value"),
        (["a,clear", "b,NULL"], {"format": "long"}, "line 3: the tag 'NULL' looks like a missing value"),
        (["a,clear", "b,<NA>"], {}, "looks like a missing value"),
        (["a,clear", "b,-"], {}, "looks like part of a class's name"),
        (["a,trees and shrubs"], {}, "the tag 'and' looks like part of a class's name"),
        (["a,Clear", "b,clear"], {}, "line 3: the tags 'clear' and 'Clear' (line 2) differ only in case"),
        (["a,caf\u00e9", "b,cafe\u0301"], {}, "differ only in case or Unicode form"),
        (["a,cl\x1bear"], {}, "the tag 'cl\\x1bear' has a control"),
        (["a,cl\u200bear"], {}, "the tag 'cl\\u200bear' has a control or invisible"),
        (["a,clear\u00a0road"], {}, "has a control or invisible"),
        (["a,clear\troad"], {}, "has a control or invisible"),
        (["a,0 1 1", "b,1 0 0"], {}, "looks like a mark for yes or no. LABELS_FORMAT=onehot"),
        (['a,"clear,road"', "b,clear;water"], {"tags_separator": ","}, "TAGS_SEPARATOR=';'"),
        (['a,"clear,road"', "b,clear;water"], {"tags_separator": ";"}, "'clear,road' looks like several tags with ','"),
        (["a,clear road", "b,clear;road"], {"tags_separator": ";"}, "'clear road' looks like several tags with ' '"),
        (["a,clear road", "b,clear", "c,road"], {"format": "long"}, "'clear road' looks like several tags with ' '"),
        (['a,"clear,road"', "b,clear"], {"format": "long"}, "'clear,road' looks like several tags with ','"),
        (["a,['clear' 'road']"], {"format": "list"}, "line 2: expected a JSON or Python list of texts"),
        (["a,clear"], {"format": "list"}, "expected a JSON or Python list of texts, found 'clear'"),
        (["a,[1]"], {"format": "list"}, "expected a JSON or Python list"),
        (["a,['']"], {"format": "list"}, "expected a JSON or Python list"),
        (["a,x", "a.tif,y"], {"format": "long"}, "'a.tif' is also in line 2"),
    ],
)
def test_tags_that_look_wrong_are_refused(
    tmp_path: Path, refused: Callable, rows: list[str], settings: dict[str, str], message: str
) -> None:
    path = write_labels(tmp_path, "\n".join(["image_name,tags", *rows, ""]))
    assert message in refused(lambda: read_table(path, **settings))


@pytest.mark.parametrize(
    ("rows", "classes"),
    [
        (["a,nan clear"], ("nan", "clear")),
        (["a,None"], ("None", "null")),
        (["a,Clear", "b,clear"], ("Clear", "clear")),
        (["a,and or"], ("or", "and")),
        (["a,1 0"], ("0", "1")),
        (["a,hay;pasture"], ("hay;pasture",)),
    ],
)
def test_a_tag_that_looks_wrong_is_accepted_if_classes_names_it(
    tmp_path: Path, rows: list[str], classes: tuple[str, ...]
) -> None:
    table = read_table(write_labels(tmp_path, "\n".join(["image_name,tags", *rows])), classes)
    expected = [[int(name in row.partition(",")[2].split(" ")) for name in classes] for row in rows]
    assert table.labels.tolist() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_name,clear,scene\na,1,7\n", "line 2: column 'scene': expected 0 or 1, found '7'"),
        ("image_name,clear,road\na,1,\n", "column 'road': expected 0 or 1, found ''"),
        ("image_name,clear,clear\na,1,0\n", "expected one column clear, found 2"),
        (",image_name,clear\n0,a,1\n", "expected a name for column 1, found none"),
        ("image_name,Clear,clear\na,1,0\n", "differ only in case"),
        ("image_name,clear,nan\na,1,0\n", "looks like a missing value"),
        ("image_name\na\n", "expected a column per class"),
        ("file,clear,road\na,1,0\n", "NAME_COLUMN=file reads it"),
        ("image_name,clear\na,1\na,0\n", "line 3: image_name 'a' is also in line 2"),
    ],
)
def test_wrong_one_hot_columns_are_refused(tmp_path: Path, refused: Callable, text: str, message: str) -> None:
    assert message in refused(lambda: read_table(write_labels(tmp_path, text), format="onehot"))


def test_classes_select_and_order_the_one_hot_columns(tmp_path: Path) -> None:
    path = write_labels(tmp_path, "scene,image_name,clear,road\n7,a,1,0\n8,b,1,1\n")
    table = read_table(path, ("road", "clear"), format="onehot")
    assert (table.classes, table.labels.tolist()) == (("road", "clear"), [[0, 1], [1, 1]])


def test_one_hot_classes_keep_the_order_of_the_columns(tmp_path: Path) -> None:
    table = read_table(write_labels(tmp_path, "image_name,water,clear\na,1,0\n"), format="onehot")
    assert (table.classes, table.labels.tolist()) == (("water", "clear"), [[1, 0]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "hot"}, "LABELS_FORMAT=hot: expected tags, list, onehot, long"),
        ({"tags_separator": "/"}, "TAGS_SEPARATOR='/': expected one of"),
        ({"csv_separator": ":"}, "CSV_SEPARATOR=':': expected one of"),
        ({"format": "list", "tags_separator": ","}, "TAGS_SEPARATOR has no effect with LABELS_FORMAT=list"),
        ({"format": "onehot", "tags_column": "x"}, "TAGS_COLUMN has no effect with LABELS_FORMAT=onehot"),
        ({"name_column": "x", "tags_column": "x"}, "expected two different columns, found x for both"),
        ({"format": 3}, "found format=3"),
        ({"x": "y"}, "found x='y'"),
    ],
)
def test_invalid_label_settings_are_refused(refused: Callable, settings: dict, message: str) -> None:
    assert message in refused(lambda: LabelSettings.of(settings))


@given(tags=st.lists(st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: text == text.strip(" "))))
def test_json_and_python_lists_are_read_as_json_and_python_write_them_or_refused(tags: list[str]) -> None:
    written = [
        json.dumps(tags),
        json.dumps(tags, ensure_ascii=False),
        *(repr(kind(tags)) for kind in (list, set, tuple)),
    ]
    for text in written:
        found = list_tags(text.replace("set()", "{}"))
        if all(is_plain(tag) for tag in tags):
            assert found is not None
            assert sorted(found) == sorted(set(tags) if text == repr(set(tags)) else tags)
        elif found is not None:
            assert not all(is_plain(tag) for tag in found)  # `odd_tag` refuses these


@same_folder
@given(
    rows=st.dictionaries(WORD.map(lambda text: f"n{text}"), st.lists(WORD, max_size=4), min_size=1),
    form=st.sampled_from(["tags", ",", ";", "|", "list", "json", "long", "onehot"]),
    csv_separator=st.sampled_from([",", ";", "|", "tab"]),
)
def test_any_tags_in_any_form_are_read_back_or_refused_by_a_rule(
    tmp_path: Path, rows: dict[str, list[str]], form: str, csv_separator: str
) -> None:
    """Rules that may refuse ordinary words: no tag at all; words that differ only in case or Unicode form; words that
    stand for a missing value; words that look like part of a name; only 0 and 1."""
    classes = list(dict.fromkeys(tag for tags in rows.values() for tag in tags))
    label_settings = {"csv_separator": csv_separator, "format": {"json": "list"}.get(form, form)}
    lines: list[list[str]]
    if form in ("tags", ",", ";", "|"):
        label_settings |= {"format": "tags", "tags_separator": {"tags": "space"}.get(form, form)}
        lines = [[name, {"tags": " "}.get(form, form).join(tags)] for name, tags in rows.items()]
    elif form in ("list", "json"):
        lines = [[name, repr(tags) if form == "list" else json.dumps(tags)] for name, tags in rows.items()]
    elif form == "long":
        lines = [[name, tag] for name, tags in rows.items() for tag in tags or [""]]
    else:
        lines = [[name, *(str(int(tag in tags)) for tag in classes)] for name, tags in rows.items()]
    header = ["image_name", *(classes if form == "onehot" else ["tags"])]
    with open(tmp_path / "t.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t" if csv_separator == "tab" else csv_separator).writerows([header, *lines])
    try:
        table = read_table(tmp_path / "t.csv", **label_settings)
    except UserError as error:
        rules = (
            "expected tags, found none|expected a column per class|differ in case|missing value|part of a class|"
            "mark for yes or no|is there already|expected one column"
        )
        assert re.search(rules, str(error))  # noqa: PT017  # only some inputs are refused
        return
    assert tags_by_name(table) == {name: set(tags) for name, tags in rows.items()}
    assert table.classes == (tuple(classes) if form == "onehot" else tuple(sorted(classes)))
