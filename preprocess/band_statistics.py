"""Sums per band of each chip, and from them the mean and std of any set of chips without reading a pixel again.

In: a (bands, height, width) chip; later the store's arrays band_sum and band_sumsq. Out: sums; mean and std.

Integers: exact sums of the values and of their squares. float32: squares of large values with a small spread cancel
(1e6 +- 1 loses every digit of its std), so band_sumsq holds the squared deviations from the chip's own band mean.
Both are float64, added in an order that this file fixes: a store has the same bytes on any CPU and for any JOBS.
Leaves storing them to `shard_writer`.
"""

import math
import threading

import numpy as np
import threadpoolctl

from preprocess.layout import Layout


def band_sums(chip: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """(band_sum, band_sumsq) of a (bands, height, width) chip, each (bands,) in `layout.sum_dtypes`.

    If a value is not finite, its sum is not finite either. Call it inside `one_blas_thread`: BLAS's own threads, beside
    the worker processes, made a conversion ten times slower.
    """
    total, squares = (np.zeros(len(layout.bands), dtype) for dtype in layout.sum_dtypes)
    if total.dtype.kind == "f":
        for band, values in enumerate(chip.reshape(len(layout.bands), -1)):
            total[band], squares[band] = _float_sums(values)
        return total, squares
    # In float64, one chunk at a time: 65535**2 times the values of a chunk stays below 2**53, so every partial sum is
    # an exact integer in any order of addition. float64 adds several times faster than integers.
    chunks = chip.reshape(len(layout.bands), layout.chunks_per_band, -1)
    assert 65535**2 * chunks.shape[-1] < 2**53
    values, ones, _ = _working_memory(chunks.shape[-1])
    total_type, square_type = total.dtype.type, squares.dtype.type
    for band, of_band in enumerate(chunks):
        for chunk in of_band:
            np.copyto(values, chunk)
            total[band] += total_type(values @ ones)
            squares[band] += square_type(values @ values)
    return total, squares


def _float_sums(values: np.ndarray) -> tuple[float, float]:
    """(sum, sum of squared deviations from the mean) of (N,) float32."""
    blocks = [values[first : first + _BLOCK] for first in range(0, len(values), _BLOCK)]
    wide, _, half = _working_memory(len(blocks[0]))
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


def _working_memory(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """This thread's float64 arrays, reused for each chip: `count` values to overwrite, `count` ones, and half as many
    values to overwrite."""
    if getattr(_memory, "count", None) != count:
        _memory.count, _memory.arrays = count, (np.empty(count), np.ones(count), np.empty((count + 1) // 2))
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray] = _memory.arrays
    return arrays


def one_blas_thread() -> threadpoolctl.threadpool_limits:
    """A context in which numpy's dot products start no threads."""
    return threadpoolctl.threadpool_limits(limits=1, user_api="blas")


def band_statistics(
    layout: Layout, band_sum: np.ndarray, band_sumsq: np.ndarray, chips: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(mean, population std) float64 per band over all pixels of `chips` (indices), from (chips, bands) sums.

    Integers: from exact totals. float32: from the deviations within each chip and those of the chips' means, added
    exactly.
    """
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
    count, summed, squared = pixels * len(chips), _exact_sum(total, chips), _exact_sum(squares, chips)
    return summed / count, float((count * squared - summed * summed) ** 0.5 / count)


def _exact_sum(values: np.ndarray, chips: np.ndarray) -> int:
    """The sum of (chips,) int64 or uint64 over `chips`, as Python's integer: for a large set it exceeds 64 bits."""
    summed = 0
    for first in range(0, len(chips), 4096):  # in blocks, so that memory does not grow
        block = values[chips[first : first + 4096]]
        low, high = (block & block.dtype.type(2**32 - 1)).sum(), (block >> block.dtype.type(32)).sum()
        summed += int(low) + (int(high) << 32)
    return summed
