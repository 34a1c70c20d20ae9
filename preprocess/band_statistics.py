"""Sums per band of each chip, and from them the mean and std of any set of chips without reading a pixel again.

In: a (bands, height, width) chip; later the store's arrays band_sum, band_sumsq and valid_count. Out: sums; mean and
std. Pixels that are nodata are left out of all of them.

Integers: exact sums of the values and of their squares. float32: squares of large values with a small spread cancel
(1e6 +- 1 loses every digit of its std), so band_sumsq holds the squared deviations from the chip's own band mean.
Both are float64, added in an order that this file fixes: a store has the same bytes on any CPU and for any JOBS.
Leaves storing them to `shard_writer`.
"""

import math
import threading

import numpy as np

from preprocess.layout import Layout
from preprocess.nodata import nodata_mask, nodata_value, valid_counts


def band_sums(chip: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """(band_sum, band_sumsq) of a (bands, height, width) chip, each (bands,) in `layout.sum_dtypes`.

    If a valid value is not finite, its sum is not finite either.
    """
    total, squares = (np.zeros(len(layout.bands), dtype) for dtype in layout.sum_dtypes)
    if total.dtype.kind == "f":
        for band, values in enumerate(chip.reshape(len(layout.bands), -1)):
            total[band], squares[band] = _float_sums(values, layout.nodata)
        return total, squares
    from preprocess.integer_sums import sums  # here: it needs numba, which takes 0.3 s

    exact = np.empty(len(total), np.int64)
    sums(np.ascontiguousarray(chip).reshape(len(total), -1), exact, squares)
    total[:] = exact
    if layout.nodata is not None:
        value, missing = int(nodata_value(layout.nodata)), chip[0].size - valid_counts(chip, layout.nodata).astype(int)
        total -= (missing * value).astype(total.dtype)
        squares -= (missing * value**2).astype(squares.dtype)
    return total, squares


def _float_sums(values: np.ndarray, nodata: str | None) -> tuple[float, float]:
    """(sum, sum of squared deviations from the mean) of the valid values of (N,) float32. Nodata is added as 0."""
    if nodata is not None:
        with np.errstate(invalid="ignore"):  # a signalling NaN becomes float64
            return _valid_float_sums(values, nodata_mask(values, nodata))
    blocks = [values[first : first + _BLOCK] for first in range(0, len(values), _BLOCK)]
    wide, half = _working_memory(len(blocks[0]))
    totals, squares = [], []
    for block in blocks:
        np.copyto(wide[: len(block)], block)
        totals.append(ordered_sum(wide[: len(block)], half))
    total = math.fsum(totals)
    if not math.isfinite(total):
        return total, math.nan
    for block in blocks:
        deviations = wide[: len(block)]
        if len(blocks) > 1:  # a single block is still in place
            np.copyto(deviations, block)
        np.subtract(deviations, total / len(values), out=deviations)
        np.multiply(deviations, deviations, out=deviations)
        squares.append(ordered_sum(deviations, half))
    return total, math.fsum(squares)


def _valid_float_sums(values: np.ndarray, missing: np.ndarray) -> tuple[float, float]:
    """`_float_sums` of the values that are not `missing`. Each missing one keeps its place as 0, so that the order of
    the additions is that of a chip without nodata."""
    totals, squares = [], []
    wide, half = _working_memory(min(len(values), _BLOCK))
    places = [slice(first, min(first + _BLOCK, len(values))) for first in range(0, len(values), _BLOCK)]
    for place in places:
        block = wide[: place.stop - place.start]
        np.copyto(block, values[place])
        block[missing[place]] = 0
        totals.append(ordered_sum(block, half))
    total, count = math.fsum(totals), len(values) - int(missing.sum())
    if not math.isfinite(total):
        return total, math.nan
    for place in places:
        block = wide[: place.stop - place.start]
        np.subtract(values[place], total / max(count, 1), out=block, dtype=np.float64)
        np.multiply(block, block, out=block)
        block[missing[place]] = 0
        squares.append(ordered_sum(block, half))
    return total, math.fsum(squares)


def ordered_sum(values: np.ndarray, half: np.ndarray) -> float:
    """The sum of (N,) float64; NaN if a value is not finite. `half` (N / 2 rounded up,) float64 is overwritten.

    Adds the second half to the first until few values are left. Each addition adds one value to one other, so the order
    depends neither on the vector units of the CPU nor on numpy.
    """
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        while len(values) > _FEW:
            count = (len(values) + 1) // 2
            np.add(values[: len(values) - count], values[count:], out=half[: len(values) - count])
            if len(values) % 2:
                half[count - 1] = values[count - 1]
            values = half[:count]
    return math.fsum(values.tolist()) if np.isfinite(values).all() else math.nan


_FEW = 32  # for so few values Python's exact sum is faster than calls of numpy
_BLOCK = 1 << 18  # values in float64 at a time: a large chip takes 5 MB, not 20 bytes per value

_memory = threading.local()


def _working_memory(count: int) -> tuple[np.ndarray, np.ndarray]:
    """This thread's float64 arrays, reused for each chip: `count` values to overwrite, and half as many."""
    if getattr(_memory, "count", None) != count:
        _memory.count, _memory.arrays = count, (np.empty(count), np.empty((count + 1) // 2))
    arrays: tuple[np.ndarray, np.ndarray] = _memory.arrays
    return arrays


def band_statistics(
    layout: Layout, band_sum: np.ndarray, band_sumsq: np.ndarray, chips: np.ndarray, valid: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(mean, population std) float64 per band over all valid pixels of `chips` (indices), from (chips, bands) sums.

    Integers: from exact totals. float32: from the deviations within each chip and those of the chips' means, added
    exactly. `valid`: (chips, bands) pixels that are not nodata; None if all are valid. Without a valid pixel, mean and
    std are NaN.
    """
    if valid is not None:
        counted = _counted_float_statistics if band_sum.dtype.kind == "f" else _counted_integer_statistics
        rows = [
            counted(band_sum[:, band], band_sumsq[:, band], chips, valid[:, band]) if valid[chips, band].any()
            else (math.nan, math.nan)
            for band in range(band_sum.shape[1])
        ]  # fmt: skip
        return np.array([mean for mean, _ in rows]), np.array([std for _, std in rows])
    combine = _float_statistics if band_sum.dtype.kind == "f" else _integer_statistics
    columns = [
        combine(band_sum[:, band], band_sumsq[:, band], chips, layout.height * layout.width)
        for band in range(band_sum.shape[1])
    ]
    mean, std = zip(*columns, strict=True)
    return np.array(mean), np.array(std)


def _float_statistics(total: np.ndarray, deviations: np.ndarray, chips: np.ndarray, pixels: int) -> tuple[float, float]:
    # Relative to the first chip's sum: the difference of close numbers is exact, so the std of a constant band is 0.
    first = total[chips[0]]
    means = (total[chips] - first) / pixels
    mean = math.fsum(means) / len(chips)
    squares = math.fsum(deviations[chips]) + pixels * math.fsum((means - mean) ** 2)
    return float(first / pixels + mean), math.sqrt(squares / (pixels * len(chips)))


def _integer_statistics(total: np.ndarray, squares: np.ndarray, chips: np.ndarray, pixels: int) -> tuple[float, float]:
    return _mean_and_std(pixels * len(chips), _exact_sum(total, chips), _exact_sum(squares, chips))


def _counted_integer_statistics(
    total: np.ndarray, squares: np.ndarray, chips: np.ndarray, valid: np.ndarray
) -> tuple[float, float]:
    return _mean_and_std(int(valid[chips].sum(dtype=np.int64)), _exact_sum(total, chips), _exact_sum(squares, chips))


def _mean_and_std(count: int, summed: int, squared: int) -> tuple[float, float]:
    return summed / count, float((count * squared - summed * summed) ** 0.5 / count)


def _counted_float_statistics(
    total: np.ndarray, deviations: np.ndarray, chips: np.ndarray, valid: np.ndarray
) -> tuple[float, float]:
    """As `_float_statistics`, with a number of valid pixels per chip; at least one chip has some."""
    chips = chips[valid[chips] > 0]
    counts = valid[chips].astype(np.float64)
    means = total[chips] / counts
    first = means[0]  # relative to the first chip's mean, so the std of a constant band is 0
    mean = math.fsum(counts * (means - first)) / math.fsum(counts)
    squares = math.fsum(deviations[chips]) + math.fsum(counts * (means - first - mean) ** 2)
    return float(first + mean), math.sqrt(squares / math.fsum(counts))


def _exact_sum(values: np.ndarray, chips: np.ndarray) -> int:
    """The sum of (chips,) int64 or uint64 over `chips`, as Python's integer: for a large set it exceeds 64 bits."""
    summed = 0
    for first in range(0, len(chips), 4096):  # in blocks, so that memory does not grow
        block = values[chips[first : first + 4096]]
        low, high = (block & block.dtype.type(2**32 - 1)).sum(), (block >> block.dtype.type(32)).sum()
        summed += int(low) + (int(high) << 32)
    return summed
