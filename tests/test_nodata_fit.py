"""NODATA with FIT and with a file per band: nodata pixels get no weight, and each file is checked."""

from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
import zarr
from helpers.chips import conversion, to_store, write_chips, write_csv
from helpers.nodata import KINDS, as_nan, missing, write_chip
from hypothesis import given
from hypothesis import strategies as st

from preprocess.convert import convert
from preprocess.fit import resize
from preprocess.zarr_store import Store, open_store

ALL = pytest.mark.parametrize(("dtype", "nodata"), KINDS)


def band(dtype: str, nodata: str, height: int, width: int, share: float = 0.3) -> np.ndarray:
    """Values from 20 to 120, with random nodata."""
    rng = np.random.default_rng(0)
    values = (rng.random((height, width)) * 100 + 20).astype(dtype)
    values[rng.random((height, width)) < share] = values.dtype.type(nodata)
    return values


@ALL
def test_blocks_have_the_mean_of_their_valid_pixels(dtype: str, nodata: str) -> None:
    values = band(dtype, nodata, 96, 64)
    blocks = as_nan(values, nodata).reshape(32, 3, 16, 4).swapaxes(1, 2).reshape(32, 16, 12)
    valid = (~np.isnan(blocks)).sum(axis=2)
    resized = resize(values, 32, 16, nodata)
    assert resized.dtype == dtype
    assert np.array_equal(missing(resized, nodata), valid < 6)
    error = np.abs(resized - np.nanmean(blocks, axis=2))[valid >= 6]
    assert error.max() < (1e-4 if dtype == "float32" else 0.51)


@ALL
@pytest.mark.parametrize(("height", "width"), [(16, 16), (33, 31), (40, 50)])
def test_cubic_resampling_is_torchs_divided_by_the_weight_of_valid_pixels(
    dtype: str, nodata: str, height: int, width: int
) -> None:
    values = band(dtype, nodata, height, width, share=0.1)
    wide = as_nan(values, nodata)

    def cubic(plane: np.ndarray) -> np.ndarray:
        picture = torch.from_numpy(plane)[None, None]
        return torch.nn.functional.interpolate(picture, (32, 32), mode="bicubic", antialias=True)[0, 0].numpy()

    weight = cubic((~np.isnan(wide)).astype(np.float64))
    exact = cubic(np.nan_to_num(wide)) / np.where(weight < 0.5, np.nan, weight)
    resized = resize(values, 32, 32, nodata)
    clear = np.abs(weight - 0.5) > 1e-5
    assert np.array_equal(missing(resized, nodata)[clear], (weight < 0.5)[clear])
    both = clear & ~np.isnan(exact)
    tolerance = 1e-3 if dtype == "float32" else 0.52
    bounds = (-np.inf, np.inf) if dtype == "float32" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    assert np.abs(resized - exact.clip(*bounds))[both].max() < tolerance + (dtype != "float32")


@given(st.sampled_from(KINDS), st.integers(1, 20), st.integers(1, 20))
def test_a_band_without_nodata_has_none_afterwards(kind: tuple[str, str], height: int, width: int) -> None:
    dtype, nodata = kind
    values = np.random.default_rng(height).integers(0, 2, (height, width)).astype(dtype)
    values[missing(values, nodata)] = 1
    resized = resize(values, 8, 8, nodata)
    assert not missing(resized, nodata).any()
    plain = resize(values, 8, 8)
    assert np.array_equal(resized, np.where(missing(plain, nodata), 1, plain))


@ALL
def test_a_band_of_nodata_stays_one(dtype: str, nodata: str) -> None:
    values = np.full((9, 7), np.dtype(dtype).type(nodata))
    for size in ((8, 8), (3, 7), (16, 16)):
        assert missing(resize(values, *size, nodata), nodata).all()


def test_infinite_values_are_refused_after_a_resize_too(tmp_path: Path, refused: Callable[..., str]) -> None:
    chips = write_chips(tmp_path / "tif", dtype="float32")
    chips.values[4, 1, 8, 8], chips.values[4, 1, 2, 2] = np.inf, np.nan
    write_chip(chips.folder / "t_4.tif", chips.values[4])
    for size in (8, 12):
        store = tmp_path / f"{size}.zarr"
        line = refused(
            lambda store=store, size=size: to_store(chips, store, nodata="nan", size=size, fit="resize")
        )  # fmt: skip
        assert "t_4.tif: expected finite values, found 0 NaN and" in line


@pytest.mark.parametrize("way", ["crop", "pad", "resize"])
def test_a_store_of_fitted_chips_has_nodata_or_a_value_of_the_files(tmp_path: Path, way: str) -> None:
    """Chips of 100 with a corner of nodata: no pixel is a mixture."""
    chips = write_chips(tmp_path / "tif", dtype="int16")
    chips.values[:] = 100
    chips.values[:, :, :5, :7] = -9999
    for index, chip in enumerate(chips.values):
        write_chip(chips.folder / f"t_{index}.tif", chip)
    size = {"crop": 12, "pad": 20, "resize": 8}[way]
    store = to_store(chips, tmp_path / "s.zarr", nodata="-9999", size=size, fit=way)
    # crop cuts 2 pixels off each side, pad adds 2. resize halves: a block of 2 x 2 with 2 valid pixels is valid.
    expected = np.full((size, size), 100)
    if way == "pad":
        expected[:] = -9999
        expected[2:18, 2:18] = chips.values[0, 0]
    else:
        rows, columns = {"crop": (3, 5), "resize": (2, 3)}[way]
        expected[:rows, :columns] = -9999
    tiles = np.asarray(zarr.open_group(store.path, mode="r")["tiles"][...])
    assert np.array_equal(tiles, np.broadcast_to(expected, (12, 4, size, size)))
    assert store.valid_count.tolist() == [[int((expected == 100).sum())] * 4] * 12


def per_band(folder: Path, tags: tuple[str | None, str | None]) -> None:
    """Two chips of a 16 x 16 band `a` and an 8 x 8 band `b`, each with a row of nodata."""
    folder.mkdir()
    for name in ("x", "y"):
        for letter, side, tag in zip("ab", (16, 8), tags, strict=True):
            values = np.full((side, side), 7, np.uint16)
            values[0] = 0
            extratags = [] if tag is None else [(42113, 2, 0, tag, True)]
            path = folder / f"{name}_{letter}.tif"
            tifffile.imwrite(path, values, photometric="minisblack", extratags=extratags)
    write_csv(folder / "tags.csv", [("x", "t"), ("y", "t")])


def convert_bands(folder: Path, **settings: object) -> Store:
    store = folder.with_suffix(".zarr")
    convert(conversion(data=folder, labels=folder / "tags.csv", store=store, files="{name}_{band}.tif",
                       bands=("a", "b"), fit="resize", **settings))  # fmt: skip
    return open_store(store)


def test_bands_in_files_of_their_own_keep_their_nodata(tmp_path: Path, refused: Callable[..., str]) -> None:
    per_band(tmp_path / "tif", ("0", "0"))
    assert convert_bands(tmp_path / "tif", nodata="tag").valid_count[:, 0].tolist() == [16 * 15] * 2
    per_band(tmp_path / "other", ("0", "9"))
    line = refused(lambda: convert_bands(tmp_path / "other", nodata="tag"))
    assert "x_b.tif: expected GDAL_NODATA 0 as in" in line
    store = convert_bands(tmp_path / "other", nodata="0")
    assert store.valid_count[:, 0].tolist() == [16 * 15] * 2
    assert (store.valid_count[:, 1] < 256).all()


def test_pictures_have_nodata_by_value_and_no_tag(tmp_path: Path, refused: Callable[..., str]) -> None:
    values = np.random.default_rng(0).integers(0, 4, (2, 16, 16, 3)).astype(np.uint8)
    for index, name in enumerate(("x", "y")):
        (tmp_path / f"{name}.png").write_bytes(imagecodecs.png_encode(values[index]))
    write_csv(tmp_path / "tags.csv", [("x", "t"), ("y", "t")])
    settings = {"data": tmp_path, "labels": tmp_path / "tags.csv", "store": tmp_path / "s.zarr"}
    assert "x.png has no GDAL_NODATA" in refused(lambda: convert(conversion(**settings, nodata="tag")))
    convert(conversion(**settings, nodata="0"))
    assert np.array_equal(open_store(tmp_path / "s.zarr").valid_count, (values != 0).sum(axis=(1, 2)))
