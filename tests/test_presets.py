"""Each preset converts small made files in the layout that the data set is published in."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.chips import conversion, smooth
from tifffile import imwrite

from preprocess.convert import convert
from preprocess.presets import PRESETS, exclusive_classes
from preprocess.zarr_store import Store, open_store


def write_tiff(path: Path, bands: int, *, side: int = 16, dtype: str = "uint16", rgb: bool = False) -> np.ndarray:
    """Returns the values, (bands, side, side)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = smooth(np.random.default_rng(len(str(path))), (bands, side, side), dtype)
    imwrite(path, np.moveaxis(values, 0, -1), photometric="rgb" if rgb else "minisblack", planarconfig=1)
    return values


def converted(data: Path, preset: str, **settings: object) -> Store:
    convert(conversion(data=data, preset=preset, store=data.parent / "s.zarr", **settings))
    return open_store(data.parent / "s.zarr")


def tags_of(store: Store) -> dict[str, list[str]]:
    classes = np.array(store.classes)
    return {name: classes[marks == 1].tolist() for name, marks in zip(store.names.tolist(), store.labels, strict=True)}


@pytest.mark.parametrize("folder", ["EuroSAT_MS", "ds/images/remote_sensing/otherDatasets/sentinel_2/tif", "."])
def test_eurosat_with_13_bands(tmp_path: Path, folder: str) -> None:
    data = tmp_path / "data"
    values = [write_tiff(data / folder / name / f"{name}_1.tif", 13) for name in ("Forest", "SeaLake")]
    store = converted(data, "eurosat")
    assert tags_of(store) == {"Forest/Forest_1": ["Forest"], "SeaLake/SeaLake_1": ["SeaLake"]}
    assert (len(store.classes), store.classes[0], store.classes[-1]) == (10, "AnnualCrop", "SeaLake")
    assert store.layout.bands[1:4] == ("blue", "green", "red")
    assert (store.layout.bands[7], store.layout.bands[12]) == ("nir", "B8A")
    assert np.array_equal(store.band_sum, [chip.sum(axis=(1, 2), dtype=np.uint64) for chip in values])


def test_uc_merced_in_21_folders(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("agricultural00", "tenniscourt99"):
        write_tiff(data / "UCMerced_LandUse/Images" / name[:-2] / f"{name}.tif", 3, dtype="uint8", rgb=True)
    store = converted(data, "ucmerced")
    assert tags_of(store) == {
        "agricultural/agricultural00": ["agricultural"], "tenniscourt/tenniscourt99": ["tenniscourt"],
    }  # fmt: skip
    assert (len(store.classes), store.layout.bands) == (21, ("red", "green", "blue"))


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
