"""Conversions from CSVs of every form: the store records how its labels are read."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from helpers.chips import conversion, write_chips
from helpers.labels import advised_settings, write_labels

from analysis.label_checks import csv_findings
from preprocess.convert import convert
from preprocess.label_settings import LabelSettings
from preprocess.zarr_store import open_store


def words(setting: dict[str, str]) -> dict[str, str]:
    """Label settings under the names that a conversion uses."""
    return {{"format": "labels_format"}.get(name, name): text for name, text in setting.items()}


PLAIN = {"a": {"clear", "road"}, "b": {"clear"}, "c": {"water"}}
LONG = "Land principally occupied by agriculture, with significant areas of natural vegetation"
# File in shared/faults/csv -> the settings that read it ({}: none are needed; None: the file is refused), its rows.
FAULTS: dict[str, tuple[dict[str, str] | None, dict[str, set[str]]]] = {
    "bigearthnet_spaces": (
        {"tags_separator": ";"},
        {"a": {"Coniferous forest", "Inland waters"}, "b": {"Inland waters"}, "c": {LONG}},
    ),
    "header_filename_labels": (
        {"name_column": "filename", "tags_column": "labels"}, {"a": {"clear"}, "b": {"clear"}, "c": {"water"}},
    ),
    "header_spaces": ({}, PLAIN),
    "long_format": ({"format": "long"}, PLAIN),
    "mixed_case_tags": (None, {}),
    "names_jpg_files_tif": ({}, {f"{name}.jpg": tags for name, tags in PLAIN.items()}),
    "names_trailing_space": ({}, PLAIN),
    "nan_text": (None, {}),
    "nul_bytes": (None, {}),
    "onehot_planet": ({"format": "onehot"}, PLAIN),
    "prefix_folder": ({}, {"tif/a.tif": {"clear"}, "tif/b.tif": {"clear"}, "tif/c.tif": {"water"}}),
    "quotes_unbalanced": (None, {}),
    "semicolons": ({"csv_separator": ";"}, PLAIN),
    "tags_comma_space": ({"tags_separator": ","}, PLAIN),
    "tags_list": ({"format": "list"}, PLAIN),
    "tags_semicolon": ({"tags_separator": ";"}, PLAIN),
}  # fmt: skip


def collected(shared: Path, name: str) -> Path:
    path = shared / "faults" / "csv" / f"{name}.csv"
    if not path.is_file():
        pytest.skip(f"{path} does not exist")
    return path


@pytest.mark.parametrize("name", list(FAULTS))
def test_a_collected_csv_is_read_exactly_or_refused_with_advice(
    shared: Path, tmp_path: Path, refused: Callable, name: str
) -> None:
    setting, rows = FAULTS[name]
    chips = write_chips(tmp_path / "tif", count=3)
    for index, chip in enumerate("abc"):
        (chips.folder / f"t_{index}.tif").rename(chips.folder / f"{chip}.tif")
    request = conversion(data=chips.folder, labels=collected(shared, name), store=tmp_path / "s.zarr")
    if setting != {}:
        text = refused(lambda: convert(request))
        assert advised_settings(text) == (setting or {})
        assert not request.store.exists()
        if setting is None:
            assert re.search(r"line \d", text)
            return
    convert(request.replace(**words(setting)))
    store = open_store(request.store)
    found = {
        chip: {tag for tag, mark in zip(store.classes, marks, strict=True) if mark}
        for chip, marks in zip(store.names.tolist(), store.labels.tolist(), strict=True)
    }
    assert found == rows
    assert LabelSettings.of(store.source["labels"]) == LabelSettings.of(setting)


def test_every_collected_csv_has_its_case(shared: Path) -> None:
    assert {path.stem for path in collected(shared, "semicolons").parent.glob("*.csv")} == FAULTS.keys()


def test_a_store_records_how_its_labels_are_read_and_the_audit_uses_it(tmp_path: Path) -> None:
    """From the command line to the audit: a repeated tag in the long format, in columns with other names."""
    chips = write_chips(tmp_path / "tif", count=3)
    path = write_labels(tmp_path, "file;label\nt_0.jpg;Inland waters\nt_1;road\nt_0.jpg;road\nt_0.jpg;road\nt_2;\n")
    command = [sys.executable, "-m", "preprocess", "zarr", f"DATA={chips.folder}", f"LABELS={path}"]
    command += [f"STORE={tmp_path / 's.zarr'}", "LABELS_FORMAT=long", "CSV_SEPARATOR=;", "NAME_COLUMN=file"]
    ended = subprocess.run([*command, "TAGS_COLUMN=label"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "3 chips, 2 classes (Inland waters,road)" in ended.stdout
    store = open_store(tmp_path / "s.zarr")
    assert store.source["labels"] == {
        "format": "long", "tags_separator": " ", "name_column": "file", "tags_column": "label", "csv_separator": ";",
    }  # fmt: skip
    assert store.labels.tolist() == [[1, 1], [0, 1], [0, 0]]
    assert store.csv_row.tolist() == [0, 1, 2]  # one number per chip, in the order of first rows
    repeated, differ = csv_findings(store, path)
    assert (repeated.chips.tolist(), repeated.reasons) == ([[0]], ["line 5: road repeated"])
    assert len(differ.chips) == 0
    write_labels(tmp_path, "file;label\nt_0;Inland waters\nt_1;\nt_2;\n".replace("t_0;", "t_0.jpg;"))
    assert csv_findings(store, path)[1].chips.tolist() == [[0], [1]]


def test_a_conversion_resumes_only_with_the_same_label_settings(tmp_path: Path, refused: Callable) -> None:
    chips = write_chips(tmp_path / "tif", count=2)
    path = write_labels(tmp_path, "image_name,clear,road\nt_0,1,1\nt_1,0,1\n")
    request = conversion(data=chips.folder, labels=path, store=tmp_path / "s.zarr")
    onehot = request.replace(labels_format="onehot")
    with mock.patch("preprocess.zarr_store.finish", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        convert(onehot)
    write_labels(tmp_path, "image_name,tags\nt_0,clear road\nt_1,road\n")
    assert "how labels are read: " in refused(lambda: convert(request))
    write_labels(tmp_path, "image_name,clear,road\nt_0,1,1\nt_1,0,1\n")
    convert(onehot)
    write_labels(tmp_path, "image_name,tags\nt_0,clear road\nt_1,road\n")
    assert "how labels are read: " in refused(lambda: convert(request))
