"""The store keeps where GeoTIFFs lie, by hand-made numbers from the GeoTIFF specification."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from helpers.chips import Chips, smooth, to_store, write_chips, write_csv
from helpers.places import (
    ANGULAR_UNIT,
    CITATION,
    GEOGRAPHIC,
    LINEAR_UNIT,
    MODEL,
    PROJECTED,
    RASTER,
    UTM_33N,
    WGS_84,
    geo_chips,
    geo_tags,
    write_geo,
)

from preprocess import tiff
from preprocess.chip_reader import ChipFiles, ChipReader
from preprocess.expected import Expected
from preprocess.fit import Fit, Fitter
from preprocess.georeference import bounds
from preprocess.info import info
from preprocess.verify import verify
from preprocess.zarr_store import open_store

CHIP = smooth(np.random.default_rng(0), (2, 16, 20), "uint16")


def place_of(path: Path, tags: list[Any], values: np.ndarray = CHIP, **options: Any) -> Any:
    write_geo(path, values, tags, **options)
    reader = tiff.Reader()
    assert np.array_equal(reader.read(path), values)
    return reader.place


@pytest.mark.parametrize(
    ("keys", "options", "transform"),
    [
        # A tie point is a corner, unless pixels are points: then it is a centre.
        (UTM_33N, {"corner": (500_000, 5_400_000), "side": (10, 10)}, (10, 0, 500_000, 0, -10, 5_400_000)),
        (UTM_33N | {RASTER: 2}, {"corner": (500_000, 5_400_000), "side": (10, 20)},
         (10, 0, 499_995, 0, -20, 5_400_010)),
        (UTM_33N, {"corner": (500_000, 5_400_000), "side": (10, 20), "pixel": (4, 3)},
         (10, 0, 499_960, 0, -20, 5_400_060)),
        # A rotated grid: x = 8 column + 6 row + 100, y = 6 column - 8 row + 200.
        (UTM_33N, {"matrix": (8, 6, 0, 100, 6, -8, 0, 200, 0, 0, 0, 0, 0, 0, 0, 1)}, (8, 6, 100, 6, -8, 200)),
        (UTM_33N | {RASTER: 2}, {"matrix": (8, 6, 0, 100, 6, -8, 0, 200, 0, 0, 0, 0, 0, 0, 0, 1)},
         (8, 6, 93, 6, -8, 201)),
    ],
)  # fmt: skip
def test_the_transform_is_that_of_the_specification(
    tmp_path: Path, keys: dict[int, int], options: dict[str, Any], transform: tuple[float, ...]
) -> None:
    assert place_of(tmp_path / "a.tif", geo_tags(keys, **options)).transform == transform


@pytest.mark.parametrize(
    ("keys", "crs", "unit"),
    [
        (UTM_33N, "EPSG:32633", "metre"),
        (WGS_84, "EPSG:4326", "degree"),
        ({PROJECTED: 3857}, "EPSG:3857", "metre"),
        ({GEOGRAPHIC: 4326}, "EPSG:4326", "degree"),
        # A projected CRS also names its geographic one.
        (UTM_33N | {GEOGRAPHIC: 4326, ANGULAR_UNIT: 9102}, "EPSG:32633", "metre"),
        ({MODEL: 1, PROJECTED: 2225, LINEAR_UNIT: 9003}, "EPSG:2225", "US survey foot"),
        ({MODEL: 1, PROJECTED: 32767, CITATION: "My  grid", LINEAR_UNIT: 9002}, "My grid", "foot"),
        ({MODEL: 1, PROJECTED: 32767, LINEAR_UNIT: 9036}, "user-defined", ""),
        ({MODEL: 2, GEOGRAPHIC: 4807, ANGULAR_UNIT: 9105}, "EPSG:4807", ""),
        ({MODEL: 3, GEOGRAPHIC: 4978}, "EPSG:4978", ""),
    ],
)
def test_the_crs_is_an_epsg_code_or_the_words_of_the_file(
    tmp_path: Path, keys: dict[int, int | str], crs: str, unit: str
) -> None:
    place = place_of(tmp_path / "a.tif", geo_tags(keys))
    assert (place.crs, place.unit) == (crs, unit)


def test_the_transform_agrees_with_tifffile(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    place = place_of(path, geo_tags(UTM_33N, corner=(300_000, 4_900_020), side=(10, 10)), compression="deflate")
    with tifffile.TiffFile(path) as file:
        tags = file.pages.first.geotiff_tags
    assert tags is not None
    assert [place.transform[0], -place.transform[4]] == tags["ModelPixelScale"][:2]
    assert [place.transform[2], place.transform[5]] == tags["ModelTiepoint"][3:5]
    assert place.crs == f"EPSG:{int(tags['ProjectedCSTypeGeoKey'])}"


SCALE_0 = geo_tags(UTM_33N, side=(0, 0))
DAMAGED = {
    "no keys": geo_tags(UTM_33N)[1:],
    "no transform": geo_tags(UTM_33N)[:1],
    "a scale of 0": SCALE_0,
    "NaN": geo_tags(UTM_33N, corner=(np.nan, 0)),
    "a short tie point": [*geo_tags(UTM_33N)[:2], (33922, "d", 3, (0.0, 0.0, 0.0), True)],
    "a short matrix": [geo_tags(UTM_33N)[0], (34264, "d", 4, (1.0, 0.0, 0.0, 1.0), True)],
    "a matrix of 0": geo_tags(UTM_33N, matrix=(0.0,) * 16),
    "a cut directory": [(34735, "H", 3, (1, 1, 0), True), *geo_tags(UTM_33N)[1:]],
    "another version": [(34735, "H", 4, (9, 1, 0, 1), True), *geo_tags(UTM_33N)[1:]],
    "text that is missing": [(34735, "H", 8, (1, 1, 0, 1, 3072, 34737, 5, 9), True), *geo_tags(UTM_33N)[1:]],
}


@pytest.mark.parametrize("tags", DAMAGED.values(), ids=DAMAGED)
def test_tags_that_are_damaged_cost_the_place_and_no_pixel(tmp_path: Path, tags: list[Any]) -> None:
    place = place_of(tmp_path / "a.tif", tags)
    assert place is None or place.crs == "user-defined"


def test_a_reader_gives_each_file_its_own_place_although_it_remembers_headers(tmp_path: Path) -> None:
    """Two files in a row with equal headers, then one that lies elsewhere, then one that lies nowhere."""
    corners = [(0.0, 0.0), (0.0, 0.0), (160.0, 0.0), None, (160.0, 0.0)]
    reader = tiff.Reader()
    for index, corner in enumerate(corners):
        path = tmp_path / f"{index}.tif"
        write_geo(path, CHIP + np.uint16(index), geo_tags(UTM_33N, corner=corner) if corner else [])
        assert np.array_equal(reader.read(path), CHIP + np.uint16(index))
        assert (reader.place.transform[2] if reader.place else None) == (corner[0] if corner else None)


def test_bounds_are_those_of_the_corners() -> None:
    assert bounds((10, 0, 500, 0, -10, 900), 16, 20) == (500, 740, 700, 900)
    assert bounds((8, 6, 100, 6, -8, 200), 10, 20) == (100, 120, 320, 320)


def fitted_place(path: Path, values: np.ndarray, fit: Fit) -> Any:
    write_geo(path, values, geo_tags(UTM_33N, corner=(1000, 2000), side=(10, 10)))
    reader = ChipReader(ChipFiles(expected=(Expected(),), fit=fit))
    reader.read(str(path))
    return reader.place


@pytest.mark.parametrize(("height", "width"), [(16, 16), (13, 21), (21, 13), (7, 8), (40, 33)])
@pytest.mark.parametrize("way", ["crop", "pad"])
def test_crop_and_pad_move_the_corner_with_the_pixels(tmp_path: Path, way: str, height: int, width: int) -> None:
    """Each pixel holds its own number, so the fitted chip says which pixel of the file came first."""
    values = np.arange(1, height * width + 1, dtype=np.uint16).reshape(1, height, width)
    fit = Fit(height=12, width=12, way=way)
    if way == "crop" and min(height, width) < 12:
        return
    a, b, c, d, e, f = fitted_place(tmp_path / "a.tif", values, fit).transform
    fitted = Fitter(fit=fit).apply(values, "a.tif")
    rows, columns = np.nonzero(fitted[0] == values[0, height // 2, width // 2])
    # The pixel in the middle of the file lies inside; of its reflections take the one nearest to the middle.
    nearest = np.argmin(np.abs(rows - 6) + np.abs(columns - 6))
    assert a * columns[nearest] + b * rows[nearest] + c == 1000 + 10 * (width // 2)
    assert d * columns[nearest] + e * rows[nearest] + f == 2000 - 10 * (height // 2)


def test_resize_keeps_the_bounds(tmp_path: Path) -> None:
    place = fitted_place(tmp_path / "a.tif", CHIP, Fit(height=8, width=40, way="resize"))
    assert place.transform == (5, 0, 1000, 0, -20, 2000)
    assert bounds(place.transform, 8, 40) == bounds((10, 0, 1000, 0, -10, 2000), 16, 20)


PLACES = [geo_tags(UTM_33N, corner=(500_000 + 160 * n, 5_400_000), side=(10, 10)) for n in range(4)]


def test_a_store_keeps_transform_and_crs_and_zarr_reads_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wgs = geo_tags(WGS_84, corner=(15.0, 48.75), side=(0.0001, 0.0001))
    store = to_store(geo_chips(tmp_path / "tif", [*PLACES, wgs, []]), tmp_path / "s.zarr")
    counts = "5 of 6 (4 in EPSG:32633, 1 in EPSG:4326)"
    assert f"{store.path}: chips with coordinates: {counts}." in capsys.readouterr().out.splitlines()
    assert store.transform is not None
    assert store.crs is not None
    expected = [[10, 0, 500_000 + 160 * n, 0, -10, 5_400_000] for n in range(4)]
    assert store.transform[:4].tolist() == expected
    assert store.transform[4].tolist() == [0.0001, 0, 15.0, 0, -0.0001, 48.75]
    assert np.isnan(store.transform[5]).all()
    assert store.crs.tolist() == ["EPSG:32633"] * 4 + ["EPSG:4326", ""]
    assert store.source["crs_units"] == {"EPSG:32633": "metre", "EPSG:4326": "degree"}
    group = zarr.open_group(store.path, mode="r")
    assert np.array_equal(group["transform"][...], store.transform, equal_nan=True)
    assert group["crs"][...].tolist() == store.crs.tolist()
    assert not verify(store.local_path, jobs=1)
    info(store.local_path, "course")
    assert f"coordinates  {counts}" in capsys.readouterr().out.splitlines()


def test_coordinates_change_neither_version_nor_fingerprint_nor_any_other_array(tmp_path: Path) -> None:
    with_places = to_store(geo_chips(tmp_path / "a", PLACES), tmp_path / "a.zarr")
    plain = to_store(geo_chips(tmp_path / "b", [[]] * 4), tmp_path / "b.zarr")
    assert with_places.fingerprint == plain.fingerprint
    one, other = (json.loads((s.local_path / "zarr.json").read_text())["attributes"] for s in (with_places, plain))
    assert one["version"] == other["version"] == 2
    assert "crs_units" not in other["source"]
    assert (plain.transform, plain.crs) == (None, None)
    assert not (plain.local_path / "transform").exists()
    assert set(one["arrays"]) - set(other["arrays"]) == {"transform", "crs"}
    pixels = [path.relative_to(plain.local_path) for path in plain.local_path.rglob("tiles/c/**/0") if path.is_file()]
    assert pixels
    assert all(
        (with_places.local_path / path).read_bytes() == (plain.local_path / path).read_bytes() for path in pixels
    )


def test_files_without_coordinates_leave_no_word_of_them(tmp_path: Path) -> None:
    store = to_store(write_chips(tmp_path / "tif"), tmp_path / "s.zarr")
    text = (store.local_path / "zarr.json").read_text()
    assert not any(word in text for word in ("crs", "transform", "coordinate"))
    assert (store.transform, store.crs) == (None, None)


def test_a_damaged_transform_is_noticed(tmp_path: Path, refused: Any) -> None:
    store = to_store(geo_chips(tmp_path / "tif", PLACES), tmp_path / "s.zarr")
    chunk = store.local_path / "transform" / "c" / "0" / "0"
    data = bytearray(chunk.read_bytes())
    data[-10] ^= 1
    chunk.write_bytes(data)
    assert "transform/c/0/0: the array transform is damaged" in refused(lambda: open_store(store.path))


def test_jobs_and_resuming_do_not_change_the_places(tmp_path: Path) -> None:
    corners = [geo_tags(UTM_33N, corner=(160 * n, 0)) if n % 7 else [] for n in range(300)]
    chips = geo_chips(tmp_path / "tif", corners, bands=1)
    one, two = (to_store(chips, tmp_path / f"{jobs}.zarr", jobs=jobs) for jobs in (1, 2))
    assert one.transform is not None
    assert one.transform.tobytes() == two.transform.tobytes()  # type: ignore[union-attr]
    assert (tmp_path / "1.zarr" / "zarr.json").read_bytes() == (tmp_path / "2.zarr" / "zarr.json").read_bytes()
    bad = chips.folder / "t_290.tif"
    shutil.copy(bad, tmp_path / "whole.tif")
    bad.write_bytes(b"II*\0")
    with pytest.raises(Exception, match=r"t_290\.tif"):
        to_store(chips, tmp_path / "3.zarr")
    shutil.copy(tmp_path / "whole.tif", bad)
    resumed = to_store(chips, tmp_path / "3.zarr").transform
    assert resumed is not None
    assert resumed.tobytes() == one.transform.tobytes()


def test_files_per_band_lie_where_the_largest_band_lies(tmp_path: Path) -> None:
    """10 m and 60 m bands of one patch: the store's pixels are 10 m."""
    (tmp_path / "tif").mkdir()
    for band, side, metres in (("B01", 4, 60), ("B02", 24, 10)):
        values = smooth(np.random.default_rng(side), (1, side, side), "uint16")
        tags = geo_tags(UTM_33N, corner=(600_000, 5_000_000), side=(metres, metres))
        write_geo(tmp_path / "tif" / f"p_{band}.tif", values, tags)
    write_csv(tmp_path / "tags.csv", [("p", "x")])
    chips = Chips(tmp_path / "tif", tmp_path / "tags.csv", np.zeros((1, 2, 24, 24)), [])
    store = to_store(
        chips, tmp_path / "s.zarr", files="{name}_{band}.tif", bands=("B01", "B02"), fit="resize"
    )  # fmt: skip
    assert store.transform is not None
    assert store.transform.tolist() == [[10, 0, 600_000, 0, -10, 5_000_000]]
