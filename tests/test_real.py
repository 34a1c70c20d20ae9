"""Real files, if they are beside the project: five chips and the CSV of Planet, chips of Landsat."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from helpers.chips import conversion
from helpers.commands import train
from sklearn.model_selection import train_test_split

from preprocess.convert import convert
from preprocess.splits import make_split
from preprocess.zarr_store import Store, open_store


@pytest.fixture(scope="module")
def planet(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("planet") / "chips.zarr"
    folder = shared / "data/planet"
    request = conversion(
        data=folder / "tif", labels=folder / "train_v2.csv", preset="planet", store=path, allow_missing=True
    )
    convert(request)
    return open_store(path)


def test_the_five_chips_are_exact_in_the_order_of_names_and_bands(planet: Store, shared: Path) -> None:
    group = zarr.open(planet.path, mode="r")
    assert [str(name) for name in group["names"][...]] == [f"train_{index}" for index in range(5)]
    assert planet.layout.bands == ("blue", "green", "red", "nir")
    for index in range(5):
        direct = tifffile.imread(shared / f"data/planet/tif/train_{index}.tif")
        for band, name in enumerate(planet.layout.bands):
            stored = group["tiles"][index, group.attrs["layout"]["bands"].index(name)]
            assert np.array_equal(stored, direct[..., band])


def test_40474_missing_chips_are_counted(
    shared: Path, tmp_path: Path, refused: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shared / "data/planet"
    arguments = {"data": folder / "tif", "labels": folder / "train_v2.csv", "preset": "planet"}
    text = refused(lambda: convert(conversion(**arguments, store=tmp_path / "s.zarr")))
    assert "40474 of 40479 chips of the CSV are missing" in text
    assert not (tmp_path / "s.zarr").exists()
    convert(conversion(**arguments, store=tmp_path / "s.zarr", allow_missing=True))
    assert "40474 of 40479 chips" in capsys.readouterr().out


def test_the_five_chips_are_split_as_in_the_whole_csv(planet: Store) -> None:
    split = make_split("course", planet)
    assert planet.num_csv_rows == 40479
    train, test = train_test_split(np.arange(40479), test_size=0.33, random_state=0)
    assert split.train.tolist() == [row for row in range(5) if row in set(train)]
    assert split.test.tolist() == [row for row in range(5) if row in set(test)]


@pytest.fixture(scope="module")
def landsat(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("landsat")
    data = shared / "data/landsat_masks"
    convert(
        conversion(
            data=data / "tiles", labels=data / "train.csv", store=folder / "chips.zarr",
            bands=("blue", "green", "red", "nir"),
        )
    )  # fmt: skip
    with open(data / "tiles_index.csv", newline="") as file:
        rows = [[row["image_name"], "test" if row["scene"] == "landsat7" else "train"] for row in csv.DictReader(file)]
    with open(folder / "scenes.csv", "w", newline="") as file:
        csv.writer(file).writerows([["image_name", "part"], *rows])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("task", [1, 3, 4])
def test_landsat_trains_and_reproduces_with_a_difference_of_0(landsat: Path, task: int) -> None:
    from helpers.commands import python

    run = landsat / f"task{task}"
    ended = train(landsat / "chips.zarr", run, f"SPLIT={landsat / 'scenes.csv'}", "EPOCHS=1", "CROP=32", task=task)
    assert ended.returncode == 0, ended.stderr
    again = python("-m", "analysis", "reproduce", f"RUN={run}")
    assert again.returncode == 0, again.stderr
    assert "BIT-IDENTICAL" in again.stdout
    assert "mean 0, max 0\n" in again.stdout
