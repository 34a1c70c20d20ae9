"""WINDOW: chips are windows of large TIFFs. The oracle is tifffile.imread of the whole file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from helpers.chips import DTYPES
from helpers.rasters import corners, names, raster, windows_store, write_labels, write_raster

from preprocess.expected import ANY, Expected
from preprocess.raster import PIECE_BYTES, Raster
from preprocess.verify import verify
from preprocess.zarr_store import Store

CODINGS: dict[str, dict[str, Any]] = {
    "one strip": {},
    "strips": {"rowsperstrip": 7},
    "deflated strips": {"rowsperstrip": 7, "compression": "deflate"},
    "lzw strips": {"rowsperstrip": 16, "compression": "lzw", "predictor": True},
    "tiles": {"tile": (32, 16)},
    "zstd tiles": {"tile": (16, 32), "compression": "zstd", "predictor": True},
    "big-endian tiles": {"tile": (16, 16), "byteorder": ">"},
    "BigTIFF": {"tile": (16, 16), "bigtiff": True, "compression": "lzw"},
}


def pixels(store: Store) -> np.ndarray:
    return np.asarray(zarr.open_group(store.path)["tiles"][...])


def cut(path: Path, places: list[tuple[int, int]], window: int, *, planar: bool = False) -> np.ndarray:
    """The windows of a file, by tifffile and numpy: (windows, bands, window, window)."""
    whole = tifffile.imread(path)
    whole = whole[None] if whole.ndim == 2 else whole if planar else np.moveaxis(whole, -1, 0)
    return np.stack([whole[:, row : row + window, column : column + window] for row, column in places])


def read(path: Path, places: list[tuple[int, int]], window: int, expected: Expected = ANY) -> np.ndarray:
    one = Raster(str(path), None, expected)
    out = np.empty((len(places), one.shape[0], window, window), one.dtype)
    assert one.read(np.array(places), list(out)) == {}
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("coding", CODINGS)
def test_windows_have_the_values_of_the_raster(tmp_path: Path, coding: str, planar: bool, dtype: str) -> None:
    path, places = tmp_path / "scene.tif", corners(50, 70, 16, 9)
    write_raster(path, raster(0, 50, 70, dtype=dtype), planar=planar, **CODINGS[coding])
    assert np.array_equal(read(path, places, 16), cut(path, places, 16, planar=planar))


def test_rows_are_read_in_pieces_if_a_file_without_compression_is_one_strip(tmp_path: Path) -> None:
    path, places = tmp_path / "scene.tif", corners(1200, 1100, 300, 271)
    write_raster(path, raster(0, 1200, 1100))
    assert 7 * PIECE_BYTES < 1200 * 1100 * 3 * 2
    assert np.array_equal(read(path, places, 300), cut(path, places, 300))


@pytest.mark.parametrize("stride", [8, 24])
def test_a_store_of_windows_is_exact_and_verified(tmp_path: Path, stride: int) -> None:
    path, places = tmp_path / "in" / "scene.tif", corners(50, 70, 16, stride)
    write_raster(path, raster(0, 50, 70), tile=(32, 32), compression="deflate")
    write_labels(tmp_path / "in", names("scene", places))
    store = windows_store(tmp_path / "in", tmp_path / "s.zarr", window=16, stride=stride)
    assert np.array_equal(pixels(store), cut(path, places, 16))
    assert store.names.tolist() == names("scene", places)
    assert store.source["window"] == "16"
    assert store.source["stride"] == str(stride)
    assert not verify(store.local_path, jobs=1)


def test_a_raster_of_one_band_and_rasters_in_folders(tmp_path: Path) -> None:
    rows = []
    for index, name in enumerate(("a/one", "b/one", "two")):
        write_raster(tmp_path / "in" / f"{name}.tif", raster(index, 20, 33, bands=1), rowsperstrip=3)
        rows += names(name, corners(20, 33, 16, 16))
    write_labels(tmp_path / "in", rows[::-1])
    store = windows_store(tmp_path / "in", tmp_path / "s.zarr", window=16)
    expected = [cut(tmp_path / "in" / f"{name}.tif", [(0, 0), (0, 16)], 16) for name in ("a/one", "b/one", "two")]
    assert np.array_equal(pixels(store), np.concatenate(expected)[::-1])
