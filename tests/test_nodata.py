"""NODATA: what a store keeps of nodata pixels, and statistics without them, compared with numpy's nan-functions.

`test_nodata_refusals` has what is refused, `test_nodata_batches` the batches, `test_nodata_runs` whole runs.
"""

import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr
from helpers.chips import Chips, conversion, to_store, write_chips
from helpers.dtypes import any_bits, layout_of
from helpers.nodata import EMPTY, KINDS, NO_BAND, as_nan, missing, write_nodata
from hypothesis import given
from hypothesis import strategies as st

from preprocess import verify
from preprocess.band_statistics import band_statistics, band_sums
from preprocess.convert import convert
from preprocess.info import info
from preprocess.nodata import nodata_text, valid_counts
from preprocess.zarr_store import open_store

ALL = pytest.mark.parametrize(("dtype", "nodata"), KINDS)


@pytest.mark.parametrize("codec", ["lz4", "none"])
@ALL
def test_a_store_keeps_the_values_and_counts_those_that_are_valid(
    tmp_path: Path, dtype: str, nodata: str, codec: str
) -> None:
    chips = write_nodata(tmp_path / "tif", dtype, nodata, height=30, width=20)
    store = to_store(chips, tmp_path / "s.zarr", codec=codec, nodata=nodata)
    group = zarr.open_group(store.path, mode="r")
    assert np.asarray(group["tiles"][...]).tobytes() == chips.values.tobytes()
    assert (store.version, store.layout.nodata) == (3, nodata)
    valid = ~missing(chips.values, nodata)
    assert np.array_equal(group["valid_count"][...], valid.sum(axis=(2, 3)))
    assert np.array_equal(store.valid_count, valid.sum(axis=(2, 3)))
    assert verify.verify(store.local_path, jobs=1) == 0


@ALL
def test_statistics_equal_numpys_nan_functions(tmp_path: Path, dtype: str, nodata: str) -> None:
    chips = write_nodata(tmp_path / "tif", dtype, nodata, height=30, width=20)
    store = to_store(chips, tmp_path / "s.zarr", nodata=nodata)
    wide = as_nan(chips.values, nodata)
    if dtype != "float32":
        whole = np.where(np.isnan(wide), 0, wide).astype(object)
        assert store.band_sum.tolist() == whole.sum(axis=(2, 3)).tolist()
        assert store.band_sumsq.tolist() == (whole**2).sum(axis=(2, 3)).tolist()
    for some in (np.arange(12), np.array([EMPTY, NO_BAND, 7])):
        mean, std = store.band_statistics(some)
        assert np.allclose(mean, np.nanmean(wide[some], axis=(0, 2, 3)), rtol=1e-14, atol=0)
        assert np.allclose(std, np.nanstd(wide[some], axis=(0, 2, 3)), rtol=1e-12, atol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mean, std = store.band_statistics(np.array([EMPTY]))
    assert np.isnan(mean).all()
    assert np.isnan(std).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
@given(data=st.data())
def test_integer_sums_of_valid_values_are_exact(dtype: str, data: st.DataObject) -> None:
    values = data.draw(any_bits(dtype))
    nodata = str(data.draw(st.sampled_from([*values.ravel().tolist(), 0, 7])))
    layout = layout_of(values, nodata=nodata)
    total, squares = band_sums(values, layout)
    whole = np.where(values == int(nodata), 0, values.astype(object))
    assert total.tolist() == whole.sum(axis=(1, 2)).tolist()
    assert squares.tolist() == (whole**2).sum(axis=(1, 2)).tolist()
    assert valid_counts(values, nodata).tolist() == (values != int(nodata)).sum(axis=(1, 2)).tolist()


@pytest.mark.parametrize("offset", [0.0, 1e6, -1e9])
def test_float_statistics_without_nan_equal_two_passes_in_float64(offset: float) -> None:
    values = np.random.default_rng(0).normal(offset, 1, (20, 2, 48, 40)).astype(np.float32)
    values[np.random.default_rng(1).random(values.shape) < 0.3] = np.nan
    values[4, 1] = np.nan
    layout = layout_of(values[0], nodata="nan")
    total, squares = (np.array(sums) for sums in zip(*(band_sums(chip, layout) for chip in values), strict=True))
    valid = np.array([valid_counts(chip, "nan") for chip in values])
    chips = np.array([4, 7, 11, 0])
    mean, std = band_statistics(layout, total, squares, chips, valid)
    wide = values[chips].astype(np.float64)
    assert np.allclose(mean, np.nanmean(wide, axis=(0, 2, 3)), rtol=1e-14, atol=0)
    assert np.allclose(std, np.nanstd(wide, axis=(0, 2, 3)), rtol=1e-12, atol=0)


def test_sums_of_a_large_chip_leave_nan_out_in_every_block() -> None:
    values = np.random.default_rng(0).normal(1e6, 1, (1, 700, 800)).astype(np.float32)
    values[0, ::3] = np.nan
    total, squares = band_sums(values, layout_of(values, nodata="nan"))
    wide = values.astype(np.float64)
    assert np.isclose(total[0], np.nansum(wide), rtol=1e-15, atol=0)
    assert np.isclose(squares[0], np.nansum((wide - np.nanmean(wide)) ** 2), rtol=1e-12, atol=0)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(1, 20), st.data())
def test_a_constant_float_band_with_nan_has_std_zero(value: float, side: int, data: st.DataObject) -> None:
    values = np.full((3, 1, side, side), value, np.float32)
    values[:, 0].flat[data.draw(st.lists(st.integers(0, 3 * side * side - 2)))] = np.nan
    layout = layout_of(values[0], nodata="nan")
    total, squares = (np.array(sums) for sums in zip(*(band_sums(chip, layout) for chip in values), strict=True))
    valid = np.array([valid_counts(chip, "nan") for chip in values])
    mean, std = band_statistics(layout, total, squares, np.arange(3), valid)
    assert (mean[0], std[0]) == (np.float64(np.float32(value)), 0.0)


def test_negative_zero_is_nodata_where_zero_is() -> None:
    values = np.array([[[0.0, -0.0, 1.0]]], np.float32)
    assert nodata_text("-0", "float32") == "0"
    assert valid_counts(values, "0").tolist() == [1]


@pytest.mark.parametrize("nodata", ["nan", "-9999"])
def test_jobs_do_not_change_the_store(tmp_path: Path, nodata: str) -> None:
    chips = write_nodata(tmp_path / "tif", "float32", nodata, height=31, width=17)
    one, two = (
        to_store(chips, tmp_path / f"{jobs}.zarr", jobs=jobs, nodata=nodata).local_path for jobs in (1, 2)
    )  # fmt: skip
    for path in sorted(path for path in one.rglob("*") if path.is_file()):
        assert path.read_bytes() == (two / path.relative_to(one)).read_bytes()


def test_nodata_is_part_of_the_fingerprint_and_absent_without_the_setting(tmp_path: Path) -> None:
    chips = write_nodata(tmp_path / "tif", "uint16", "0", empty=False)
    plain, zero, other = (
        to_store(chips, tmp_path / f"{name}.zarr", **settings)
        for name, settings in (("plain", {}), ("zero", {"nodata": "0"}), ("other", {"nodata": "65535"}))
    )
    assert len({plain.fingerprint, zero.fingerprint, other.fingerprint}) == 3
    assert (plain.version, plain.layout.nodata) == (2, None)
    attributes = dict(zarr.open_group(plain.path, mode="r").attrs)
    assert "nodata" not in attributes["layout"]
    assert not (plain.local_path / "valid_count").exists()
    assert plain.valid_count.tolist() == [[256] * 4] * 12
    assert plain.read("checksum").tolist() == zero.read("checksum").tolist()


@pytest.mark.parametrize(
    ("tag", "dtype", "nodata"),
    [("0", "uint8", "0"), ("-9999.0", "int16", "-9999"), ("nan", "float32", "nan"), ("65535 ", "uint16", "65535"),
     ("-3.40282346638528898e+38", "float32", "-3.4028235e+38")],
)  # fmt: skip
def test_tag_takes_the_value_of_gdal_nodata(tmp_path: Path, tag: str, dtype: str, nodata: str) -> None:
    chips = write_nodata(tmp_path / "tif", dtype, nodata, tag=tag)
    store = to_store(chips, tmp_path / "s.zarr", nodata="tag")
    assert store.layout.nodata == nodata
    assert np.array_equal(store.valid_count, (~missing(chips.values, nodata)).sum(axis=(2, 3)))
    assert to_store(chips, tmp_path / "t.zarr", nodata=nodata).fingerprint == store.fingerprint


def test_the_conversion_and_info_count_nodata_and_name_chips_without_a_valid_pixel(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chips = write_nodata(tmp_path / "tif", "int16", "-9999", tag="-9999")
    store = to_store(chips, tmp_path / "s.zarr", nodata="tag")
    mask = missing(chips.values, "-9999")
    counts = f"-9999: {100 * mask.mean():.3g} % of the values, in 12 of 12 chips"
    printed = capsys.readouterr().out.splitlines()
    assert f"{store.path}: nodata {counts}." in printed
    assert f"{store.path}: 1 chip holds nothing but nodata: t_{EMPTY}." in printed
    assert not [line for line in printed if "It counts as a value" in line]
    info(store.local_path, "course")
    printed = capsys.readouterr().out.splitlines()
    assert f"nodata       {counts}; left out of mean and std" in printed
    assert f"             1 chip holds nothing but nodata: t_{EMPTY}" in printed
    mean, std = (function(as_nan(chips.values, "-9999"), axis=(0, 2, 3)) for function in (np.nanmean, np.nanstd))
    for band, name in enumerate(store.layout.bands):
        row = f"{name:<20}{mean[band]:>12.3f}{std[band]:>12.3f}{100 * mask[:, band].mean():>10.2f} %"
        assert row in printed


def test_verify_finds_an_altered_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = to_store(write_nodata(tmp_path / "tif", "uint8", "0"), tmp_path / "s.zarr", nodata="0").local_path
    array = zarr.open_group(store, mode="r+")["valid_count"]
    array[2, 1] = array[2, 1] + 1
    assert verify.verify(store, jobs=1) > 0
    assert "valid_count" in capsys.readouterr().out


def test_verify_finds_a_flipped_bit_beside_nan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chips = write_nodata(tmp_path / "tif", "float32", "nan")
    store = to_store(chips, tmp_path / "s.zarr", nodata="nan").local_path
    pixels = zarr.open_group(store, mode="r+")["tiles"]
    pixels[4, 2, 3, 4] = np.float32(np.nan) if np.isfinite(chips.values[4, 2, 3, 4]) else np.float32(1)
    assert verify.verify(store, jobs=1) > 0
    assert "chip t_4 (number 4)" in capsys.readouterr().out


def test_a_stopped_conversion_resumes_with_the_same_nodata_only(tmp_path: Path, refused: object) -> None:
    chips = write_nodata(tmp_path / "tif", "uint16", "0")
    settings = {"data": chips.folder, "labels": chips.csv, "store": tmp_path / "s.zarr"}
    convert(conversion(**settings, nodata="0"))
    convert(conversion(**settings, nodata="0.0"))  # the same value: the store is complete
    for other, now in (("7", "7"), (None, "not set")):
        line = refused(lambda other=other: convert(conversion(**settings, nodata=other)))  # type: ignore[operator]
        assert f"NODATA: 0, now {now}" in line


def test_chips_without_a_nodata_pixel_may_have_the_setting(tmp_path: Path) -> None:
    chips = write_chips(tmp_path / "tif", dtype="float32")
    store = to_store(Chips(chips.folder, chips.csv, chips.values, chips.tags), tmp_path / "s.zarr", nodata="nan")
    plain = to_store(chips, tmp_path / "p.zarr")
    assert np.array_equal(store.band_sum, plain.band_sum)
    assert np.array_equal(store.band_sumsq, plain.band_sumsq)
    assert open_store(store.path).valid_count.tolist() == [[256] * 4] * 12
