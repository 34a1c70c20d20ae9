"""Runs on windows of rasters, and predictions of all windows of other rasters, without the store."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyproj
import pytest
from helpers.buckets import bucket_server
from helpers.commands import train
from helpers.pictures import write_bands
from helpers.places import UTM_33N, geo_tags
from helpers.rasters import corners, names, raster, windows_store, write_labels, write_raster
from run_files import one_line
from tiny import tiny_networks

from analysis import predict
from analysis.finished_run import load_run
from preprocess.addresses import Address, Location

HEIGHT, WIDTH, WINDOW = 150, 330, 32
BANDS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Two rasters, all windows of one and half of those of the other; a run, whose store is gone."""
    folder = tmp_path_factory.mktemp("windows")
    for index, name in enumerate(("one", "b/two")):
        tags = geo_tags(UTM_33N, corner=(500_000 + 10_000 * index, 5_400_000), side=(10, 10))
        values = raster(index, HEIGHT, WIDTH)
        write_raster(folder / "in" / f"{name}.tif", values, tile=(64, 48), compression="deflate", extratags=tags)
    places = corners(HEIGHT, WIDTH, WINDOW, WINDOW)
    windows = names("one", places) + names("b/two", places[1::2])
    write_labels(folder / "in", windows)
    store = windows_store(folder / "in", folder / "s.zarr", window=WINDOW, bands=BANDS)
    split = ["TEST_BATCH=8", "CROP_SHARE=1", "SPLIT=blocked", "BLOCK_KM=1"]
    with tiny_networks():
        ended = train(store.path, folder / "run", "EPOCHS=1", *split)
    assert ended.returncode == 0, ended.stderr
    shutil.rmtree(store.local_path)
    return SimpleNamespace(folder=folder, data=folder / "in", windows=windows, ended=ended, run=folder / "run")


def score(trained: SimpleNamespace, data: Location, out: Path, **settings: Any) -> int:
    with tiny_networks():
        return predict.predict(trained.run, data, out, bands=None, gpu="cpu", tta=False, **settings)


def test_all_windows_are_scored_and_those_of_the_run_equally(trained: SimpleNamespace, tmp_path: Path) -> None:
    assert "blocks of 1 km from coordinates" in trained.ended.stdout
    assert score(trained, trained.data, tmp_path / "p.csv") == 0
    scores, run = pd.read_csv(tmp_path / "p.csv", index_col="image_name"), load_run(trained.run)
    places = corners(HEIGHT, WIDTH, WINDOW, WINDOW)
    assert scores.index.tolist() == names("b/two", places) + names("one", places)
    assert np.array_equal(scores.loc[run.names.tolist()].to_numpy(), run.probabilities)
    bounds = pd.read_csv(tmp_path / "p_bounds.csv", index_col="image_name")
    assert bounds.index.tolist() == scores.index.tolist()
    left, top = 510_000 + 96 * 10, 5_400_000 - 64 * 10
    assert bounds.loc["b/two_r00064_c00096"].tolist() == ["EPSG:32633", left, top - 320, left + 320, top]


def test_rasters_in_a_bucket_get_the_scores_of_the_disk(trained: SimpleNamespace, tmp_path: Path) -> None:
    assert score(trained, trained.data, tmp_path / "disk.csv") == 0
    with bucket_server() as bucket:
        assert score(trained, Address(bucket.upload(trained.data, "in")), tmp_path / "bucket.csv") == 0
    for suffix in ("", "_bounds", "_submission"):
        disk, remote = (tmp_path / f"{name}{suffix}.csv" for name in ("disk", "bucket"))
        assert disk.read_bytes() == remote.read_bytes()


def test_stride_may_be_set_and_the_common_windows_have_the_same_scores(
    trained: SimpleNamespace, tmp_path: Path
) -> None:
    assert score(trained, trained.data, tmp_path / "p.csv") == 0
    assert score(trained, trained.data, tmp_path / "q.csv", stride=16) == 0
    wide, dense = (pd.read_csv(tmp_path / f"{name}.csv", index_col="image_name") for name in "pq")
    assert len(dense) == 2 * len(corners(HEIGHT, WIDTH, WINDOW, 16))
    common = [name for name in wide.index if name in dense.index]
    assert common == wide.index.tolist()
    assert np.array_equal(dense.loc[common].to_numpy(), wide.to_numpy())


def test_a_damaged_block_costs_its_windows_and_a_damaged_header_its_raster(
    trained: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import tifffile

    data = tmp_path / "in"
    shutil.copytree(trained.data, data)
    with tifffile.TiffFile(data / "one.tif") as file:
        page = file.pages.first
        offset, count = page.dataoffsets[8], page.databytecounts[8]  # row 1, column 1 of the tiles of 64 x 48
    bytes_ = bytearray((data / "one.tif").read_bytes())
    bytes_[offset : offset + count] = bytes(count)
    (data / "one.tif").write_bytes(bytes_)
    (data / "broken.tif").write_bytes(b"II*\0")
    write_raster(data / "small.tif", raster(0, 31, 400))
    hit = [(row, column) for row, column in corners(HEIGHT, WIDTH, WINDOW, WINDOW)
           if row < 128 and row + WINDOW > 64 and column < 96 and column + WINDOW > 48]  # fmt: skip
    assert score(trained, data, tmp_path / "p.csv") == len(hit) + 1
    bad = pd.read_csv(tmp_path / "p_bad.csv")
    assert bad["image_name"].tolist() == [*names("one", hit), "broken"]
    assert all(f"{data / 'one.tif'}: expected a valid TIFF" in reason for reason in bad["reason"][:-1])
    good = pd.read_csv(tmp_path / "p.csv", index_col="image_name")
    assert len(good) == 2 * len(corners(HEIGHT, WIDTH, WINDOW, WINDOW)) - len(hit)
    assert score(trained, trained.data, tmp_path / "q.csv") == 0
    assert good.equals(pd.read_csv(tmp_path / "q.csv", index_col="image_name").loc[good.index])


def test_run_json_keeps_how_windows_were_cut(trained: SimpleNamespace) -> None:
    record = json.loads((trained.run / "run.json").read_text())
    assert record["inputs"]["chip"]["reading"] == {"window": "32", "stride": "32"}


def test_rasters_without_a_window_and_stride_without_windows_are_one_line(
    trained: SimpleNamespace, tmp_path: Path
) -> None:
    write_raster(tmp_path / "in" / "small.tif", raster(0, 31, 31))
    line = one_line(lambda: score(trained, tmp_path / "in", tmp_path / "p.csv"))
    assert line == (
        f"DATA={tmp_path / 'in'}: none of 1 rasters has 32 rows and columns, as the windows of the run's store have."
    )


def test_geojson_has_a_polygon_the_tags_and_the_scores_of_every_window(
    trained: SimpleNamespace, tmp_path: Path
) -> None:
    assert score(trained, trained.data, tmp_path / "p.csv", geojson=True) == 0
    features = json.loads((tmp_path / "p.geojson").read_text())["features"]
    scores = pd.read_csv(tmp_path / "p.csv", index_col="image_name")
    tags = pd.read_csv(tmp_path / "p_submission.csv", index_col="image_name", keep_default_na=False)["tags"]
    assert [one["properties"]["image_name"] for one in features] == scores.index.tolist()
    assert [one["properties"]["tags"] for one in features] == tags.tolist()
    assert [[one["properties"][name] for name in scores.columns] for one in features] == scores.to_numpy().tolist()
    first = next(one for one in features if one["properties"]["image_name"] == "one_r00000_c00000")
    lat, lon = pyproj.Transformer.from_crs("EPSG:32633", "EPSG:4326").transform(500_000, 5_400_000)
    assert [round(lon, 7), round(lat, 7)] in first["geometry"]["coordinates"][0]


def test_windows_with_a_file_per_band_padding_and_nodata_have_the_scores_of_the_run(tmp_path: Path) -> None:
    values = raster(0, 100, 150, dtype="float32")
    values[:, :40, 60:100] = np.nan
    for index, name in enumerate(("x", "y")):
        write_bands(tmp_path / "in", name, dict(zip(BANDS, np.roll(values, index, axis=1), strict=True)))
    # Windows of 32 every 16 pixels; the last ones begin at 80 and 128.
    places = [(row, column) for row in range(0, 81, 16) for column in range(0, 129, 16)]
    write_labels(tmp_path / "in", names("x", places))
    words: dict[str, Any] = {"files": "{name}/{name}_{band}.tif", "fit": "pad", "nodata": "nan", "stride": 16}
    store = windows_store(tmp_path / "in", tmp_path / "s.zarr", window=32, bands=BANDS, **words)
    assert store.num_chips == 54
    with tiny_networks():
        ended = train(store.path, tmp_path / "run", "EPOCHS=1", "CROP_SHARE=1", "TEST_BATCH=8", "BATCH=8")
        assert ended.returncode == 0, ended.stderr
        shutil.rmtree(store.local_path)
        out = tmp_path / "p.csv"
        assert predict.predict(tmp_path / "run", tmp_path / "in", out, bands=None, gpu="cpu", tta=False) == 0
    scores, run = pd.read_csv(out, index_col="image_name"), load_run(tmp_path / "run")
    assert scores.index.tolist() == names("x", places) + names("y", places)
    assert np.array_equal(scores.loc[run.names.tolist()].to_numpy(), run.probabilities)
