"""A second opinion: rasterio (GDAL), in an environment of its own, reads the files of a store and finds the same
pixels, transforms, CRS and nodata.

`python -m bench.environments rasterio` makes the environment (CONTRIBUTING.md). Without it these tests are skipped.
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zarr
from helpers.cells import CELLS, Cell, make_cell
from helpers.chips import BANDS, DTYPES, Chips, conversion, smooth, to_store, write_csv
from helpers.commands import ROOT
from helpers.nodata import KINDS, write_nodata
from helpers.pictures import colours, encoded
from helpers.places import (
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

from bench import environments
from preprocess.convert import convert

pytestmark = pytest.mark.slow
Read = Callable[[list[Path]], SimpleNamespace]


@pytest.fixture
def rasterio(tmp_path: Path) -> Read:
    """Read files with rasterio: their pixels, and the facts of each."""
    python = ROOT / environments.ROOT / "rasterio" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no rasterio in {environments.ROOT} (`.venv/bin/python -m bench.environments rasterio`)")

    def read(paths: list[Path]) -> SimpleNamespace:
        script, out = ROOT / "tests" / "helpers" / "rasterio_reader.py", tmp_path / "read.npz"
        ended = subprocess.run([python, script, out, *paths], capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        with np.load(out) as archive:
            facts = json.loads(str(archive["facts"]))
            pixels = [archive[str(number)] for number in range(len(paths))]
        print(facts["versions"])
        return SimpleNamespace(pixels=pixels, facts=facts["files"], versions=facts["versions"])

    return read


def stored(path: Path) -> np.ndarray:
    return np.asarray(zarr.open_group(path, mode="r")["tiles"][...])


def assert_same(pixels: list[np.ndarray], values: np.ndarray) -> None:
    for read, chip in zip(pixels, values, strict=True):
        assert (read.dtype, read.shape) == (chip.dtype, chip.shape)
        assert read.tobytes() == np.ascontiguousarray(chip).tobytes()


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell.files != "jpeg"], ids=str)
def test_the_store_has_the_pixels_that_rasterio_reads(tmp_path: Path, rasterio: Read, cell: Cell) -> None:
    made = make_cell(tmp_path / "cell", cell, count=6)
    folder = made.folder / "chips"
    values = stored(made.store.local_path)
    if cell.files == "bands":
        paths = [folder / f"t_{index}" / f"t_{index}_{band}.tif" for index in range(6) for band in cell.bands]
        assert_same(rasterio(paths).pixels, values.reshape(-1, 1, *values.shape[2:]))
    else:
        paths = [next(folder.glob(f"t_{index}.*")) for index in range(6)]
        assert_same(rasterio(paths).pixels, values)


def test_jpegs_without_subsampled_colours_have_the_pixels_that_rasterio_reads(tmp_path: Path, rasterio: Read) -> None:
    """rasterio's wheels have the libjpeg of another project. It rounds some values differently, and it interpolates
    subsampled colours differently: on chips of noise by up to 60."""
    for index in range(4):
        for name, values in (("rgb", colours(index, 64, 48)), ("grey", colours(index, 64, 48, 1)[..., 0])):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"t_{index}.jpg").write_bytes(encoded(values, "jpeg", subsampling=0))
    write_csv(tmp_path / "tags.csv", [(f"t_{index}", "x") for index in range(4)])
    for name, limit in (("rgb", 1), ("grey", 0)):
        convert(conversion(data=tmp_path / name, labels=tmp_path / "tags.csv", store=tmp_path / f"{name}.zarr"))
        read = rasterio([tmp_path / name / f"t_{index}.jpg" for index in range(4)])
        different = np.abs(np.stack(read.pixels).astype(int) - stored(tmp_path / f"{name}.zarr"))
        assert different.max() <= limit
        assert (different > 0).mean() < 0.001


def test_planets_jpegs_have_the_pixels_that_rasterio_reads(tmp_path: Path, shared: Path, rasterio: Read) -> None:
    """GDAL turns their four components into red, green and blue itself."""
    paths = sorted((shared / "data" / "planet" / "jpg").glob("*.jpg"))[:20]
    write_csv(tmp_path / "tags.csv", [(path.stem, "x") for path in paths])
    convert(conversion(data=paths[0].parent, labels=tmp_path / "tags.csv", store=tmp_path / "s.zarr"))
    assert_same(rasterio(paths).pixels, stored(tmp_path / "s.zarr"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_way_to_write_a_tiff_is_read_as_rasterio_reads_it(tmp_path: Path, rasterio: Read, dtype: str) -> None:
    ways: list[dict[str, Any]] = [
        {"byteorder": ">"}, {"bigtiff": True}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True},
        {"compression": "lzw"}, {"compression": "zstd"}, {"compression": "lzma"}, {"tile": (16, 16)},
        {"rowsperstrip": 7}, {"tile": (16, 16), "compression": "lzw", "predictor": True, "byteorder": ">"},
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    (tmp_path / "tif").mkdir()
    paths = [tmp_path / "tif" / f"t_{index}.tif" for index in range(len(ways))]
    values = np.stack([smooth(rng, (4, 40, 33), dtype) for _ in ways])
    for path, chip, options in zip(paths, values, ways, strict=True):
        write_geo(path, chip, [], **options)
    write_csv(tmp_path / "tags.csv", [(path.stem, "x") for path in paths])
    store = to_store(Chips(tmp_path / "tif", tmp_path / "tags.csv", values, []), tmp_path / "s.zarr")
    assert_same(rasterio(paths).pixels, stored(store.local_path))


def test_transform_and_crs_are_those_that_rasterio_reads(tmp_path: Path, rasterio: Read) -> None:
    matrix = (8.0, 6.0, 0.0, 100.0, 6.0, -8.0, 0.0, 200.0, *(0.0,) * 7, 1.0)
    corner = {"corner": (500_000.0, 5_400_000.0), "side": (10.0, 20.0)}
    places = [
        geo_tags(UTM_33N, **corner), geo_tags(UTM_33N | {RASTER: 2}, **corner),
        geo_tags(UTM_33N, **corner, pixel=(4.0, 3.0)), geo_tags(UTM_33N, matrix=matrix),
        geo_tags(UTM_33N | {RASTER: 2}, matrix=matrix), geo_tags(WGS_84, corner=(13.0, 52.0), side=(1e-4, 2e-4)),
        geo_tags({MODEL: 1, PROJECTED: 2225, LINEAR_UNIT: 9003}, **corner),
        geo_tags({MODEL: 1, PROJECTED: 3857}, **corner), geo_tags({MODEL: 2, GEOGRAPHIC: 4258}, **corner), [],
    ]  # fmt: skip
    chips = geo_chips(tmp_path / "tif", places)
    store = to_store(chips, tmp_path / "s.zarr")
    read = rasterio([chips.folder / f"t_{index}.tif" for index in range(len(places))])
    assert_same(read.pixels, stored(store.local_path))
    for facts, transform, crs in zip(read.facts, store.transform.tolist(), store.crs.tolist(), strict=True):
        if facts["transform"] is None:
            assert (np.isnan(transform).all(), crs) == (True, "")
        else:
            assert (transform, crs) == (facts["transform"], facts["crs"])


@pytest.mark.parametrize(("dtype", "nodata"), KINDS)
def test_nodata_is_what_rasterio_reads(tmp_path: Path, rasterio: Read, dtype: str, nodata: str) -> None:
    chips = write_nodata(tmp_path / "tif", dtype, nodata, tag=nodata, count=6)
    store = to_store(chips, tmp_path / "s.zarr", nodata="tag")
    read = rasterio([chips.folder / f"t_{index}.tif" for index in range(6)])
    assert_same(read.pixels, stored(store.local_path))
    assert store.layout.nodata is not None
    value = np.dtype(dtype).type(store.layout.nodata)
    for facts in read.facts:
        assert np.array_equal(np.dtype(dtype).type(float(facts["nodata"])), value, equal_nan=dtype == "float32")


@pytest.mark.parametrize("name", ["landsat_masks/tiles", "planet/tif"])
def test_real_files_have_the_pixels_and_places_that_rasterio_reads(
    tmp_path: Path, shared: Path, rasterio: Read, name: str
) -> None:
    paths = sorted((shared / "data" / name).glob("*.tif"))[:40]
    write_csv(tmp_path / "tags.csv", [(path.stem, "x") for path in paths])
    chips = Chips(shared / "data" / name, tmp_path / "tags.csv", np.zeros((1, len(BANDS))), [])
    store = to_store(chips, tmp_path / "s.zarr", bands=None)
    read = rasterio(paths)
    assert_same(read.pixels, stored(store.local_path))
    if store.transform is None:
        assert {facts["transform"] is None for facts in read.facts} == {True}
    else:
        assert store.transform.tolist() == [facts["transform"] for facts in read.facts]
        assert store.crs.tolist() == [facts["crs"] for facts in read.facts]
