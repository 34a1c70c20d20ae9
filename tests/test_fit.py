"""SIZE and FIT: chips of any size get one size, as numpy, torchvision and torch do it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import zarr
from helpers.chips import DTYPES, conversion, smooth, to_store, write_csv
from helpers.chips import Chips as MadeChips
from torchvision.transforms.v2.functional import center_crop, pad

from preprocess.fit import Fit, Fitter
from preprocess.info import info
from preprocess.zarr_store import Store, open_store


def chip(height: int, width: int, dtype: str = "uint16", seed: int = 0) -> np.ndarray:
    return smooth(np.random.default_rng(seed), (2, height, width), dtype)


def fitted(values: np.ndarray, way: str, height: int = 32, width: int = 32) -> np.ndarray:
    return Fitter(fit=Fit(height=height, width=width, way=way)).apply(values, "a.tif")


@pytest.mark.parametrize("dtype", DTYPES)
def test_crop_is_torchvisions_center_crop_of_even_rests(dtype: str) -> None:
    values = chip(36, 40, dtype)
    expected = center_crop(torch.from_numpy(values.astype(np.float64)), [32, 32]).numpy()
    assert np.array_equal(fitted(values, "crop"), expected.astype(dtype))


def test_an_odd_rest_loses_one_more_row_at_the_bottom_and_column_at_the_right() -> None:
    values = chip(33, 35)
    assert np.array_equal(fitted(values, "crop"), values[:, :32, 1:33])


@pytest.mark.parametrize("dtype", DTYPES)
def test_pad_reflects_as_torchvision_does(dtype: str) -> None:
    values = chip(29, 28, dtype)
    expected = pad(torch.from_numpy(values.astype(np.float64)), [2, 1, 2, 2], padding_mode="reflect").numpy()
    assert np.array_equal(fitted(values, "pad"), expected.astype(dtype))


@pytest.mark.parametrize(("dtype", "nodata", "value"), [("uint16", "65535", 65535), ("float32", "nan", np.nan)])
def test_with_nodata_pad_adds_nodata(dtype: str, nodata: str, value: float) -> None:
    values = chip(29, 28, dtype)
    padded = Fitter(fit=Fit(height=32, width=32, way="pad", nodata=nodata)).apply(values, "a.tif")
    assert padded.dtype == np.dtype(dtype)
    expected = np.pad(values, ((0, 0), (1, 2), (2, 2)), constant_values=value)
    assert np.array_equal(padded, expected, equal_nan=dtype == "float32")


def test_padded_nodata_is_left_out_of_the_statistics(tmp_path: Path) -> None:
    store = convert_to(tiffs_of(tmp_path / "tif", SIZES), tmp_path / "s.zarr", size=32, fit="pad", nodata="7")
    pixels = zarr.open_group(store.path)["tiles"][...].astype(np.float64)
    pixels[pixels == 7] = np.nan
    assert np.isnan(pixels[2, 0]).sum() == 32  # a chip of 31 x 32
    mean, std = store.band_statistics(np.arange(5))
    assert np.allclose(mean, np.nanmean(pixels, axis=(0, 2, 3)), rtol=1e-12)
    assert np.allclose(std, np.nanstd(pixels, axis=(0, 2, 3)), rtol=1e-12)


def test_pad_crops_the_longer_side() -> None:
    values = chip(30, 34)
    assert np.array_equal(fitted(values, "pad"), np.pad(values[:, :, 1:33], ((0, 0), (1, 1), (0, 0)), mode="reflect"))


@pytest.mark.parametrize(("height", "width"), [(1, 2), (1, 40), (3, 31)])
def test_chips_much_smaller_than_the_size_are_reflected_again_and_again(height: int, width: int) -> None:
    values = fitted(chip(height, width), "pad")
    assert values.shape == (2, 32, 32)
    assert set(np.unique(values)) <= set(np.unique(chip(height, width)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_whole_multiple_is_the_mean_of_blocks(dtype: str, factor: int) -> None:
    values = chip(32 * factor, 32 * factor, dtype)
    means = values.reshape(2, 32, factor, 32, factor).astype(np.float64).mean(axis=(2, 4))
    resized = fitted(values, "resize")
    assert resized.dtype == np.dtype(dtype)
    if dtype == "float32":
        assert np.allclose(resized, means, rtol=1e-6, atol=1e-7)
        return
    # Pillow computes in float32: a mean next to .5 can be rounded the other way.
    clear = np.abs(means % 1 - 0.5) > 0.01
    assert clear.mean() > 0.4
    assert np.array_equal(resized[clear], np.rint(means).astype(dtype)[clear])
    assert np.abs(resized - means).max() <= 0.51


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("height", "width"), [(16, 16), (33, 31), (40, 50), (10, 100), (31, 64)])
def test_other_sizes_are_torchs_antialiased_cubic(dtype: str, height: int, width: int) -> None:
    values = chip(height, width, dtype)
    wide = torch.from_numpy(values.astype(np.float64))[None]
    exact = torch.nn.functional.interpolate(wide, (32, 32), mode="bicubic", antialias=True)[0].numpy()
    resized = fitted(values, "resize")
    assert resized.dtype == np.dtype(dtype)
    if dtype == "float32":
        assert np.abs(resized - exact).max() < 1e-5 * np.abs(values).max()
        return
    limits = np.iinfo(dtype)
    assert np.abs(resized - exact.clip(limits.min, limits.max)).max() <= 0.52


def test_values_beyond_the_dtype_are_clipped() -> None:
    values = np.zeros((1, 8, 8), np.uint16)
    values[:, :, 4:] = 65535
    resized = fitted(values, "resize", 16, 16)
    assert (int(resized.min()), int(resized.max())) == (0, 65535)
    assert np.array_equal(resized[0, 0, [0, -1]], [0, 65535])


def test_a_chip_of_the_size_is_unchanged_and_not_counted() -> None:
    values = chip(32, 32)
    for way in ("crop", "pad", "resize"):
        fitter = Fitter(fit=Fit(height=32, width=32, way=way))
        assert fitter.apply(values, "a.tif") is values
        assert not fitter.counts.as_array().any()


def tiffs_of(folder: Path, sizes: list[tuple[int, int]], dtype: str = "uint16") -> MadeChips:
    folder.mkdir()
    for index, (height, width) in enumerate(sizes):
        values = np.moveaxis(chip(height, width, dtype, index), 0, -1)
        tifffile.imwrite(folder / f"t_{index}.tif", values, photometric="minisblack", planarconfig="contig")
    write_csv(folder / "tags.csv", [(f"t_{index}", "x") for index in range(len(sizes))])
    return MadeChips(folder, folder / "tags.csv", np.zeros((0, 0)), [])


SIZES = [(32, 32), (33, 32), (31, 32), (30, 34), (32, 32)]


def convert_to(chips: MadeChips, path: Path, **settings: object) -> Store:
    return to_store(chips, path, bands=("red", "green"), **settings)


@pytest.mark.parametrize(
    ("way", "line"), [("pad", "2 cropped and 2 padded"), ("resize", "3 resized")],
)  # fmt: skip
def test_the_conversion_counts_what_it_did_and_the_store_keeps_it(
    tmp_path: Path, way: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = convert_to(tiffs_of(tmp_path / "tif", SIZES), tmp_path / "s.zarr", size=32, fit=way)
    pixels = zarr.open_group(store.path)["tiles"][...]
    for index, size in enumerate(SIZES):
        assert np.array_equal(pixels[index], fitted(chip(*size, seed=index), way))
    assert f"{store.path}: FIT={way} to 32 x 32: of 5 chips {line}." in capsys.readouterr().out.splitlines()
    assert (store.source["size"], store.source["fit"]) == ("32x32", way)
    info(store.path, "course")
    assert f"fit          {way} to 32x32" in capsys.readouterr().out.splitlines()


def test_the_first_chip_need_not_have_the_size(tmp_path: Path) -> None:
    store = convert_to(tiffs_of(tmp_path / "tif", [(40, 50), (32, 32)]), tmp_path / "s.zarr", size=32, fit="crop")
    assert (store.layout.height, store.layout.width) == (32, 32)


def test_chips_smaller_than_size_are_refused_with_crop(tmp_path: Path, refused: Callable) -> None:
    chips = tiffs_of(tmp_path / "tif", [(32, 32), (40, 31)])
    text = refused(lambda: convert_to(chips, tmp_path / "s.zarr", size=32, fit="crop"))
    assert "t_1.tif: expected at least 32 x 32 pixels, as FIT=crop needs them, found 40 x 31. FIT=pad pads" in text


def test_without_size_other_sizes_are_refused_and_the_line_names_it(tmp_path: Path, refused: Callable) -> None:
    chips = tiffs_of(tmp_path / "tif", SIZES)
    text = refused(lambda: convert_to(chips, tmp_path / "s.zarr"))
    assert "t_1.tif: expected (2, 32, 32) uint16 (bands, height, width) as in" in text
    assert "SIZE=256 FIT=resize (or crop, pad) changes all to one." in text


def test_another_number_of_bands_or_dtype_is_refused_with_size_too(tmp_path: Path, refused: Callable) -> None:
    chips = tiffs_of(tmp_path / "tif", SIZES)
    tifffile.imwrite(chips.folder / "t_2.tif", chip(9, 9)[0], photometric="minisblack")
    text = refused(lambda: convert_to(chips, tmp_path / "s.zarr", size=32, fit="pad"))
    assert "t_2.tif: expected 2 bands, found 1." in text
    tifffile.imwrite(chips.folder / "t_2.tif", chip(9, 9, "uint8"), photometric="minisblack", planarconfig="separate")
    text = refused(lambda: convert_to(chips, tmp_path / "s.zarr", size=32, fit="pad"))
    assert "t_2.tif: expected uint16 as in" in text


def test_jobs_do_not_change_a_byte(tmp_path: Path) -> None:
    chips = tiffs_of(tmp_path / "tif", SIZES * 60)
    one, two = (convert_to(chips, tmp_path / f"{n}.zarr", size=32, fit="resize", jobs=n) for n in (1, 2))
    assert one.fingerprint == two.fingerprint


def test_size_and_fit_must_be_equal_to_resume(tmp_path: Path, refused: Callable) -> None:
    chips = tiffs_of(tmp_path / "tif", [(32, 32)] * 3)
    store = convert_to(chips, tmp_path / "s.zarr", size=32, fit="pad")
    assert "FIT: pad, now crop" in refused(lambda: convert_to(chips, store.path, size=32, fit="crop"))
    assert "FIT: pad, now not set" in refused(lambda: convert_to(chips, store.path))
    plain = convert_to(chips, tmp_path / "plain.zarr")
    assert "FIT: not set, now pad" in refused(lambda: convert_to(chips, plain.path, size=32, fit="pad"))
    assert open_store(store.path).fingerprint == plain.fingerprint


def test_size_needs_fit_and_fit_needs_size(tmp_path: Path, refused: Callable) -> None:
    assert "SIZE=32: FIT is not set. Add FIT=crop, FIT=pad or FIT=resize." in refused(
        lambda: conversion(data=tmp_path, size=32)
    )
    for files in (None, "{name}.tif"):
        assert "FIT=pad: SIZE is not set." in refused(
            lambda files=files: conversion(data=tmp_path, fit="pad", files=files)
        )
    conversion(data=tmp_path, fit="resize", files="{name}_{band}.tif")


def test_a_resumed_conversion_counts_all_chips(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chips = tiffs_of(tmp_path / "tif", SIZES * 60)
    bad = chips.folder / "t_280.tif"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:100])
    with pytest.raises(Exception, match=r"t_280\.tif"):
        convert_to(chips, tmp_path / "s.zarr", size=32, fit="pad")
    bad.write_bytes(whole)
    convert_to(chips, tmp_path / "s.zarr", size=32, fit="pad")
    output = capsys.readouterr().out
    assert "resuming: 256 of 300 chips are done." in output
    assert "of 300 chips 120 cropped and 120 padded." in output
