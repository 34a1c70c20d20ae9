"""Each preset converts small made files in the layout that the data set is published in."""

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from helpers.chips import conversion
from helpers.doc_blocks import ROOT
from helpers.published import (
    PATCHES,
    SIDES,
    UCMERCED,
    write_bigearthnet,
    write_eurosat,
    write_planet,
    write_tiff,
    write_ucmerced,
)

from canopy.main import dispatch
from preprocess.convert import convert
from preprocess.fit import resize
from preprocess.info import info
from preprocess.presets import PRESETS, exclusive_classes
from preprocess.splits import make_split
from preprocess.zarr_store import Store, open_store


def converted(data: Path, preset: str, **settings: object) -> Store:
    convert(conversion(data=data, preset=preset, store=data.parent / "s.zarr", **settings))
    return open_store(data.parent / "s.zarr")


def tags_of(store: Store) -> dict[str, list[str]]:
    classes = np.array(store.classes)
    return {name: classes[marks == 1].tolist() for name, marks in zip(store.names.tolist(), store.labels, strict=True)}


def test_planet_as_tiffs_and_as_jpegs(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_planet(data)
    store = converted(data, "planet")
    assert tags_of(store) == {"train_0": ["clear", "primary"], "train_1": ["haze", "water"]}
    assert (store.layout.bands, store.layout.dtype) == (("red", "green", "blue"), "uint8")
    shutil.rmtree(store.local_path)
    values = [write_tiff(data / "train-tif-v2" / f"train_{index}.tif", 4) for index in range(2)]
    store = converted(data, "planet")  # TIFFs come first
    assert (store.layout.bands, store.layout.dtype) == (("blue", "green", "red", "nir"), "uint16")
    assert np.array_equal(store.band_sum, [chip.sum(axis=(1, 2), dtype=np.uint64) for chip in values])
    shutil.rmtree(store.local_path)
    assert converted(data / "train-jpg", "planet").layout.dtype == "uint8"  # the CSV is beside DATA


def test_bigearthnet_with_12_bands_and_the_official_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    patches = write_bigearthnet(tmp_path / "data")
    store = converted(tmp_path / "data", "bigearthnet")
    assert list(tags_of(store).values()) == [tags for _, _, tags in PATCHES]
    assert store.names.tolist() == list(patches)
    assert (len(store.classes), store.layout.height, store.layout.dtype) == (19, 120, "uint16")
    assert store.layout.bands == (
        "B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12",
    )  # fmt: skip
    pixels = np.asarray(zarr.open_group(store.path, mode="r")["tiles"][...])
    for chip, (name, bands) in enumerate(patches.items()):
        for row, band in enumerate(store.layout.bands):
            expected = bands[band] if SIDES[band] == 120 else resize(bands[band], 120, 120)
            assert np.array_equal(pixels[chip, row], expected), (name, band)
    info(store.local_path, "column")
    table = capsys.readouterr().out.split("class  ")[1].splitlines()[1:20]
    assert len({len(line) for line in table}) == 1  # though one name has more than 80 letters
    split = make_split("column", store)
    assert [split.indices(name).tolist() for name in ("train", "val", "test")] == [[0, 3], [1], [2]]


@pytest.mark.parametrize("folder", ["EuroSAT_MS", "ds/images/remote_sensing/otherDatasets/sentinel_2/tif", "."])
def test_eurosat_with_13_bands(tmp_path: Path, folder: str) -> None:
    data = tmp_path / "data"
    values = [write_tiff(data / folder / name / f"{name}_1.tif", 13) for name in ("Forest", "SeaLake")]
    store = converted(data, "eurosat")
    assert tags_of(store) == {"Forest/Forest_1": ["Forest"], "SeaLake/SeaLake_1": ["SeaLake"]}
    assert (len(store.classes), store.classes[0], store.classes[-1]) == (10, "AnnualCrop", "SeaLake")
    assert (store.layout.bands[1:4], store.layout.bands[12]) == (("B02", "B03", "B04"), "B8A")
    assert np.array_equal(store.band_sum, [chip.sum(axis=(1, 2), dtype=np.uint64) for chip in values])


@pytest.mark.parametrize("folder", ["EuroSAT_RGB", "2750", "."])
def test_eurosat_as_jpegs(tmp_path: Path, folder: str) -> None:
    data = tmp_path / "data"
    write_eurosat(data / folder)
    store = converted(data, "eurosat")
    assert tags_of(store) == {"Forest/Forest_1": ["Forest"], "River/River_1": ["River"]}
    assert (store.layout.bands, store.layout.height, store.layout.dtype) == (("red", "green", "blue"), 64, "uint8")


def test_uc_merced_in_21_folders(tmp_path: Path) -> None:
    write_ucmerced(tmp_path / "data")
    store = converted(tmp_path / "data", "ucmerced")
    assert tags_of(store) == {f"{name}/{name}00": [name] for name in UCMERCED}
    assert (len(store.classes), store.layout.bands) == (21, ("red", "green", "blue"))
    assert (store.layout.height, store.layout.width) == (256, 256)


def test_uc_merced_with_17_labels(tmp_path: Path) -> None:
    labels = write_ucmerced(tmp_path / "data")
    store = converted(tmp_path / "data" / "UCMerced_LandUse", "ucmerced_multilabel")
    assert {name: set(tags) for name, tags in tags_of(store).items()} == labels
    assert (len(store.classes), store.layout.height) == (17, 256)


def test_what_the_user_sets_comes_before_the_preset(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_tiff(data / "a" / "1.tif", 13)
    (tmp_path / "mine.csv").write_text("image_name,tags\na/1,x y\n")
    bands = tuple(f"b{index}" for index in range(13))
    store = converted(data, "eurosat", labels=tmp_path / "mine.csv", classes=("y", "x"), bands=bands)
    assert (store.classes, store.layout.bands) == (("y", "x"), bands)
    assert tags_of(store) == {"a/1": ["y", "x"]}


def test_a_preset_without_its_files_says_what_is_missing(tmp_path: Path, refused: Callable) -> None:
    (tmp_path / "data").mkdir()
    assert "expected chips in class folders, found none" in refused(lambda: converted(tmp_path / "data", "eurosat"))
    assert f"no preset knows a CSV in DATA={tmp_path / 'data'}." in refused(
        lambda: converted(tmp_path / "data", "planet")
    )


def test_classes_of_class_folders_exclude_each_other() -> None:
    assert exclusive_classes(PRESETS["eurosat"].classes) == PRESETS["eurosat"].classes
    assert len({preset.classes for preset in PRESETS.values()}) == len(PRESETS)


def read_commands() -> list[str]:
    lines = (ROOT / "docs" / "formats.md").read_text().splitlines()
    return [line for line in lines if line.startswith("make zarr") and "PRESET=" in line]


COMMANDS = read_commands()


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_page_converts_its_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_planet(tmp_path / "planet")
    write_bigearthnet(tmp_path / "bigearthnet")
    write_eurosat(tmp_path / "eurosat" / "EuroSAT_RGB")
    write_ucmerced(tmp_path / "ucmerced")
    words = shlex.split(line)[1:]
    assert dispatch("", [*words, "JOBS=1"]) == 0
    settings = dict(word.split("=") for word in words[1:])
    assert open_store(settings["STORE"]).classes == PRESETS[settings["PRESET"]].classes


def test_the_page_has_a_command_for_every_preset() -> None:
    assert {word for line in COMMANDS for word in line.split() if "PRESET=" in word} == {
        f"PRESET={name}" for name in PRESETS
    }
