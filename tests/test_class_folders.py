"""LABELS=folders: the tag of a chip is the folder that holds it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.chips import conversion

from preprocess.label_settings import LabelSettings
from preprocess.labels import read_labels


def make_files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


FOLDERS = LabelSettings.of({"format": "folders"})


def test_the_tag_of_a_chip_is_the_folder_that_holds_it(tmp_path: Path) -> None:
    make_files(tmp_path, "River/River_2.tif", "River/River_1.TIF", "Sea Lake/x.tiff", "north/River/0.tif", "notes.txt")
    table = read_labels(tmp_path, None, FOLDERS)
    assert table.classes == ("River", "Sea Lake")
    assert dict(zip(table.names, table.labels.argmax(axis=1).tolist(), strict=True)) == {
        "River/River_1": 0, "River/River_2": 0, "Sea Lake/x": 1, "north/River/0": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"files": "{name}.tif"}, "FILES={name}.tif has no effect with LABELS=folders"),
        ({"labels_format": "list"}, "LABELS_FORMAT has no effect with LABELS=folders"),
        ({"csv_separator": ";"}, "CSV_SEPARATOR has no effect with LABELS=folders"),
        ({"tags_column": "x"}, "TAGS_COLUMN has no effect with LABELS=folders"),
    ],
)
def test_settings_of_a_file_have_no_effect_on_class_folders(refused: Callable, setting: dict, message: str) -> None:
    assert message in refused(lambda: conversion(data=Path("x"), labels=Path("folders"), **setting))


@pytest.mark.parametrize(
    ("files", "classes", "message"),
    [
        (["Forest/a.tif", "b.tif"], None, "expected every chip in the folder of its class, found b.tif outside"),
        (["Forest/a.tif", "Forest/a.tiff"], None, "Forest/a.tif and Forest/a.tiff would both be the chip Forest/a"),
        (["Forest/a.tif", "forest/b.tif"], None, "folder 2: the tags 'forest' and 'Forest' (folder 1) differ only"),
        (["Forest/a.tif", "River/b.tif"], ("Forest",), "folder 2: expected one of the classes Forest, found tag 'Ri"),
        (["Forest/a.tif", "none/b.tif"], None, "folder 2: the tag 'none' looks like a missing value"),
        (["a.txt"], None, "expected chips in class folders, found none"),
        (["train/Forest/a.png", "test/b.png"], None, "found train/Forest and test. Move or remove test. If it sho"),
        (["train/Forest/a.tif", "dev/Forest/b.tif"], None, "found train/Forest and dev/Forest. Move or remove dev/Fo"),
        (["train/Forest/a.tif", "River/b.tif"], None, "found train/Forest and River. Move or remove River."),
        (["images/train/Forest/a.tif"], None, "expected folders of splits at the top, found images/train. If all"),
        (["Forest/train/a.tif", "Forest/test/b.tif", "River/c.tif"], None, "above the class folders, found them below"),
        (["train/a.png", "test/b.png"], None, "found only folders named like splits (test, train)"),
        (["Forest/a.tif", "River/b.png", "Lake/c.jpg"], None, "found Forest/a.tif, and no TIFF for Lake/c.jpg (2 such"),
    ],
)  # fmt: skip
def test_wrong_class_folders_are_refused(
    tmp_path: Path, refused: Callable, files: list[str], classes: tuple[str, ...] | None, message: str
) -> None:
    make_files(tmp_path, *files)
    assert message in refused(lambda: read_labels(tmp_path, classes, FOLDERS))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for folder in ("flat", "deep/vehicles"):
        make_files(tmp_path / folder, "car/a.png", "train/b.png")
        table = read_labels(tmp_path / folder.partition("/")[0], None, FOLDERS)
        assert (table.classes, table.split) == (("car", "train"), None)


def test_pictures_beside_tiffs_of_the_same_name_are_no_chips(tmp_path: Path) -> None:
    make_files(tmp_path, "Forest/a.tif", "Forest/a.jpg", "River/b.png", "River/b.TIF", "River/b.tif.png", "map.png")
    (tmp_path / "Forest/a.jpeg").symlink_to(tmp_path / "nothing")
    assert list(read_labels(tmp_path, None, FOLDERS).names) == ["Forest/a", "River/b"]


def test_a_link_without_a_target_is_refused(tmp_path: Path, refused: Callable) -> None:
    make_files(tmp_path, "Forest/a.tif")
    (tmp_path / "Lake").mkdir()
    (tmp_path / "Lake/b.tif").symlink_to(tmp_path / "nothing")
    message = refused(lambda: read_labels(tmp_path, None, FOLDERS))
    assert "found 1 links without a target (first: Lake/b.tif)" in message
