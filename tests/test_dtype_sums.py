"""Sums and statistics per band: exact for integers, in one order on every machine for float32."""

import math
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from helpers.chips import to_store, write_chips
from helpers.dtypes import any_bits, layout_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from preprocess.band_statistics import band_statistics, band_sums, ordered_sum
from preprocess.layout import plan_layout


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
@given(data=st.data())
def test_integer_sums_are_exact(dtype: str, data: st.DataObject) -> None:
    values = data.draw(any_bits(dtype))
    total, squares = band_sums(values, layout_of(values))
    whole = values.astype(object)
    assert total.tolist() == whole.sum(axis=(1, 2)).tolist()
    assert squares.tolist() == (whole**2).sum(axis=(1, 2)).tolist()


def test_sums_of_the_smallest_int16_are_exact() -> None:
    values = np.full((1, 256, 256), -32768, np.int16)
    total, squares = band_sums(values, plan_layout(bands=("a",), height=256, width=256, dtype="int16", codec="lz4"))
    assert (int(total[0]), int(squares[0])) == (-32768 * 65536, 32768**2 * 65536)


def in_order(values: list[float]) -> float:
    """The documented order in plain Python: no vectors, no numpy."""
    while len(values) > 32:
        half = (len(values) + 1) // 2
        values = [values[k] + values[half + k] if half + k < len(values) else values[k] for k in range(half)]
    return math.fsum(values)


@given(st_numpy.arrays(np.float32, st.integers(1, 300), elements=st.floats(width=32, allow_infinity=False)))
def test_float_sums_are_added_in_one_order_on_every_machine(values: np.ndarray) -> None:
    total = ordered_sum(values.astype(np.float64), np.empty(len(values)))
    expected = in_order(values.astype(np.float64).tolist())
    assert total == expected or (math.isnan(total) and math.isnan(expected))


@pytest.mark.parametrize("offset", [0.0, 0.3, 1e6, -1e9])
@pytest.mark.parametrize("spread", [1e-3, 1.0, 1000.0])
def test_float_statistics_equal_two_passes_in_float64(offset: float, spread: float) -> None:
    """A variance computed from sums of squares is wrong by up to 39 % for values of 1e6 +- 1."""
    rng = np.random.default_rng(0)
    values = rng.normal(offset, spread, (40, 2, 48, 40)).astype(np.float32)
    values[7] += np.float32(spread)
    layout = layout_of(values[0])
    total, squares = (np.array(sums) for sums in zip(*(band_sums(chip, layout) for chip in values), strict=True))
    assert total.dtype == squares.dtype == np.float64
    chips = np.array([0, 7, 11, 39, 20])
    mean, std = band_statistics(layout, total, squares, chips)
    wide = values[chips].astype(np.float64)
    exact = [Fraction(0), Fraction(0)]
    for band in range(2):
        exact[band] = sum(map(Fraction, wide[:, band].ravel().tolist()), Fraction(0)) / wide[:, band].size
    assert np.allclose(mean, [float(value) for value in exact], rtol=1e-15, atol=0)
    two_pass = np.sqrt(((wide - np.array(exact, np.float64)[:, None, None]) ** 2).mean(axis=(0, 2, 3)))
    assert np.allclose(std, two_pass, rtol=1e-13, atol=0)


def test_sums_of_a_large_chip_are_added_in_blocks() -> None:
    values = np.random.default_rng(0).normal(1e6, 1, (1, 700, 800)).astype(np.float32)
    total, squares = band_sums(values, layout_of(values))
    wide = values.astype(np.float64)
    exact = sum(map(Fraction, wide.ravel().tolist()), Fraction(0))
    assert total[0] == float(exact)
    assert np.isclose(squares[0], ((wide - float(exact / wide.size)) ** 2).sum(), rtol=1e-13, atol=0)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(1, 50), st.integers(1, 50))
def test_a_constant_float_band_has_std_zero(value: float, chips: int, side: int) -> None:
    values = np.full((1, side, side), value, np.float32)
    layout = layout_of(values)
    total, squares = (np.repeat(sums[None], chips, axis=0) for sums in band_sums(values, layout))
    mean, std = band_statistics(layout, total, squares, np.arange(chips))
    assert (mean[0], std[0]) == (np.float64(np.float32(value)), 0.0)


def test_int16_statistics_of_negative_values(tmp_path: Path) -> None:
    chips = write_chips(tmp_path / "tif", count=9, dtype="int16")
    store = to_store(chips, tmp_path / "s.zarr")
    assert (store.band_sum.dtype, store.band_sumsq.dtype) == (np.int64, np.uint64)
    assert (store.band_sum < 0).any()
    wide = chips.values.astype(np.float64)
    mean, std = store.band_statistics(np.arange(9))
    assert np.allclose(mean, wide.mean(axis=(0, 2, 3)), rtol=1e-14)
    assert np.allclose(std, wide.std(axis=(0, 2, 3)), rtol=1e-12)


def test_threads_do_not_disturb_each_others_sums() -> None:
    chips = np.random.default_rng(0).integers(0, 65536, (2, 2, 64, 64)).astype(np.uint16)
    layout = layout_of(chips[0], chunk_rows=32)
    expected = [chip.sum(axis=(1, 2), dtype=np.uint64) for chip in chips]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(300):
            if not np.array_equal(band_sums(chips[index], layout)[0], expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
