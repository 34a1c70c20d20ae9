"""Chunks -> a batch's images in one compiled pass: decode, flip, transpose, crop, mirror, scale, bands last.

In: addresses of encoded chunks, and the augmentation of each chip. Out: images (N, height, width, bands) float32. Each
step works on a chunk's values while they are in the inner caches; docs/log.md has the rates. Leaves checking and
inflating a chunk to `kernels.payload`. The head of `kernels` says how to write fast loops, and why kernels call
functions of other files as C functions.

Chips with nodata have a kernel of their own, `augment_valid`: one more argument of `augment`, even None, made it 5 %
slower.
"""

from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

from pipeline.c_functions import array, pointer
from pipeline.kernels import payload
from preprocess.codecs import (
    LZ4_FLOAT32,
    LZ4_UINT8,
    LZ4_UINT16,
    NONE_FLOAT32,
    NONE_INT16,
    NONE_UINT8,
    NONE_UINT16,
)

BLOCK = 4  # lines that are transposed at once
_compiled = numba.njit(nogil=True, cache=True)
# Without it the compiler does not inline _scale: CODEC=none took 5 % longer (6.5 ms per 64 chips of 256 px, not 6.2).
_inlined = numba.njit(nogil=True, cache=True, forceinline=True)


def _as_float(context: Any, bits: Any) -> Any:
    """The float32 that has the bits of a uint32."""
    del context, bits

    def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.uint32), code


_float: Any = intrinsic(_as_float)


@_compiled
def _bytes(address: int, count: Any) -> np.ndarray:
    data: np.ndarray = array(pointer(address), count, np.uint8)
    return data


@_compiled
def _join(byte_0: int, byte_1: int, byte_2: int, byte_3: int) -> int:
    """The uint32 of four bytes, the lowest first."""
    low = np.uint32(byte_0) | (np.uint32(byte_1) << np.uint32(8))
    return low | (np.uint32(byte_2) << np.uint32(16)) | (np.uint32(byte_3) << np.uint32(24))  # type: ignore[return-value]


@_inlined
def _scale(values: np.ndarray, mean: float, scale: float, mirror: bool, out: np.ndarray, first: Any, last: Any) -> None:
    """out[first ... last] = (value - mean) * scale, in reverse if `mirror`; compiled for each dtype of `values`."""
    if mirror:
        for index in range(np.uintp(len(values))):
            out[last - index] = (np.float32(values[index]) - mean) * scale
    else:
        for index in range(np.uintp(len(values))):
            out[first + index] = (np.float32(values[index]) - mean) * scale


@_compiled
def _scale_other(
    source: int, values: int, at: int, num: Any, kind: int, mean: float, scale: float, mirror: bool, out: np.ndarray,
    first: Any, last: Any,
) -> None:  # fmt: skip
    """`_scale_line` of the kinds of int16 and float32."""
    if kind == NONE_INT16:
        _scale(array(pointer(source + 2 * at), num, np.int16), mean, scale, mirror, out, first, last)
    elif kind == NONE_FLOAT32:
        _scale(array(pointer(source + 4 * at), num, np.float32), mean, scale, mirror, out, first, last)
    elif kind == LZ4_FLOAT32:
        byte_0, byte_1 = _bytes(source + at, num), _bytes(source + values + at, num)
        byte_2, byte_3 = _bytes(source + 2 * values + at, num), _bytes(source + 3 * values + at, num)
        if mirror:
            for index in range(num):
                bits = _join(byte_0[index], byte_1[index], byte_2[index], byte_3[index])
                out[last - index] = (_float(bits) - mean) * scale
        else:
            for index in range(num):
                bits = _join(byte_0[index], byte_1[index], byte_2[index], byte_3[index])
                out[first + index] = (_float(bits) - mean) * scale
    else:
        low, high = _bytes(source + at, num), _bytes(source + values + at, num)
        if mirror:
            for index in range(num):
                value = np.uint16(low[index]) | (np.uint16(high[index]) << np.uint16(8))
                out[last - index] = (np.float32(np.int16(value)) - mean) * scale
        else:
            for index in range(num):
                value = np.uint16(low[index]) | (np.uint16(high[index]) << np.uint16(8))
                out[first + index] = (np.float32(np.int16(value)) - mean) * scale


@_compiled
def _scale_line(
    source: int, values: int, at: int, count: int, kind: int, mean: float, scale: float, mirror: bool, out: np.ndarray,
    start: int,
) -> None:  # fmt: skip
    """out[start : start + count] = (value - mean) * scale of the values from `at` on of a decoded chunk, in reverse if
    `mirror`. Small enough to be inlined: with `_scale_other` in it, CODEC=none took 3 % longer."""
    num, first, last = np.uintp(count), np.uintp(start), np.uintp(start + count - 1)
    if kind == LZ4_UINT16:
        low = array(pointer(source + at), num, np.uint8)
        high = array(pointer(source + values + at), num, np.uint8)
        if mirror:
            for index in range(num):
                value = np.uint16(low[index]) | (np.uint16(high[index]) << np.uint16(8))
                out[last - index] = (np.float32(value) - mean) * scale
        else:
            for index in range(num):
                value = np.uint16(low[index]) | (np.uint16(high[index]) << np.uint16(8))
                out[first + index] = (np.float32(value) - mean) * scale
    elif kind == NONE_UINT16:
        _scale(array(pointer(source + 2 * at), num, np.uint16), mean, scale, mirror, out, first, last)
    elif kind == NONE_UINT8:
        _scale(array(pointer(source + at), num, np.uint8), mean, scale, mirror, out, first, last)
    else:
        _scale_other(source, values, at, num, kind, mean, scale, mirror, out, first, last)


@_compiled
def _weave(lines: np.ndarray, count: int, bands: int, out: np.ndarray, start: int) -> None:
    """Pixel i of all bands, lines[band * count + i], to out[start + i * bands ...]. 3 and 4 bands are vectorised."""
    num, at = np.uintp(count), np.uintp(start)
    green, blue, nir = num, num + num, num + num + num
    if bands == 4:
        for index in range(num):
            pixel = at + np.uintp(4) * index
            out[pixel] = lines[index]
            out[pixel + np.uintp(1)] = lines[green + index]
            out[pixel + np.uintp(2)] = lines[blue + index]
            out[pixel + np.uintp(3)] = lines[nir + index]
    elif bands == 3:
        for index in range(num):
            pixel = at + np.uintp(3) * index
            out[pixel] = lines[index]
            out[pixel + np.uintp(1)] = lines[green + index]
            out[pixel + np.uintp(2)] = lines[blue + index]
    else:
        for index in range(num):
            pixel = at + np.uintp(bands) * index
            for band in range(np.uintp(bands)):
                out[pixel + band] = lines[band * num + index]


@_compiled
def _weave_columns(
    lines: np.ndarray, rows: int, count: int, bands: int, out: np.ndarray, start: int, step: int, reverse: bool
) -> None:
    """The same for `rows` lines that become columns: lines[(row * bands + band) * count + i] to
    out[start + i * step + row * bands ...].

    Four rows at once fill a cache line of 4 bands: one at a time took twice as long.
    """
    num = np.uintp(count)
    for index in range(num):
        pixel = np.uintp(start) + index * np.uintp(step)
        for row in range(np.uintp(rows)):
            line = (np.uintp(rows) - np.uintp(1) - row if reverse else row) * np.uintp(bands)
            for band in range(np.uintp(bands)):
                out[pixel] = lines[(line + band) * num + index]
                pixel += np.uintp(1)


@_compiled
def augment(
    addresses: np.ndarray, sizes: np.ndarray, out: np.ndarray, scratch: np.ndarray, lines: np.ndarray,
    shape: tuple[int, int, int], kind: int, flip_rows: np.ndarray, transpose: np.ndarray,
    crop_y: np.ndarray, crop_x: np.ndarray, mirror: np.ndarray, mean: np.ndarray, scale: np.ndarray,
) -> int:  # fmt: skip
    """Decode chips and write a model's input: rows flipped, transposed, cropped, mirrored, scaled, bands last.

    Args:
        addresses, sizes: (N, bands, chunks) int64: encoded chunks in memory.
        out: (N, crop height, crop width, bands) float32, C-contiguous.
        scratch: (bands, chunk bytes) uint8.
        lines: (BLOCK * bands * longer side of the crop,) float32.
        shape: (height, width, rows of a chunk) of the chips.
        kind: of the chunks, see `codecs.Codec.kernel_kinds`.
        flip_rows, transpose, crop_y, crop_x, mirror: (N,), as in `order.Augmentation`.
        mean, scale: (bands,) float32; `out` is (value - mean) * scale.

    Returns:
        The first chip that is damaged, or -1.
    """
    chips, crop_height, crop_width, bands = out.shape
    height, width, rows = shape
    flat = out.reshape(out.size)
    chunk_bytes, buffer = scratch.shape[1], np.int64(scratch.ctypes.data)
    sources = np.zeros(bands, np.int64)
    line_kind = NONE_UINT8 if kind == LZ4_UINT8 else kind  # one byte per value: a single plane
    for chip in range(chips):
        # The crop in the chip as stored, before transposing: there (y, x) of the crop is (x, y).
        if transpose[chip]:
            top, left, down, across = crop_x[chip], crop_y[chip], crop_width, crop_height
        else:
            top, left, down, across = crop_y[chip], crop_x[chip], crop_height, crop_width
        first = height - top - down if flip_rows[chip] else top  # row of the stored chip
        start = chip * crop_height * crop_width * bands
        for chunk in range(first // rows, (first + down - 1) // rows + 1):
            for band in range(bands):
                sources[band] = payload(
                    addresses[chip, band, chunk], sizes[chip, band, chunk], chunk_bytes, kind,
                    buffer + band * chunk_bytes,
                )  # fmt: skip
                if sources[band] == 0:
                    return chip
            row, end = max(first, chunk * rows), min(first + down, (chunk + 1) * rows)
            while row < end:
                count = min(BLOCK, end - row) if transpose[chip] else 1
                for line in range(count):
                    for band in range(bands):
                        _scale_line(
                            sources[band], rows * width, (row + line - chunk * rows) * width + left, across, line_kind,
                            mean[band], scale[band], mirror[chip] and not transpose[chip], lines,
                            (line * bands + band) * across,
                        )  # fmt: skip
                # The position of the first of these lines in the output.
                to = first + down - row - count if flip_rows[chip] else row - first
                if transpose[chip]:
                    reverse = flip_rows[chip] != mirror[chip]
                    column = crop_width - to - count if mirror[chip] else to
                    _weave_columns(
                        lines, count, across, bands, flat, start + column * bands, crop_width * bands, reverse
                    )
                else:
                    _weave(lines, across, bands, flat, start + to * crop_width * bands)
                row += count
    return -1


@_compiled
def augment_valid(
    addresses: np.ndarray, sizes: np.ndarray, out: np.ndarray, scratch: np.ndarray, lines: np.ndarray,
    shape: tuple[int, int, int], kind: int, flip_rows: np.ndarray, transpose: np.ndarray,
    crop_y: np.ndarray, crop_x: np.ndarray, mirror: np.ndarray, mean: np.ndarray, scale: np.ndarray, nodata: np.float32,
) -> int:  # fmt: skip
    """`augment`, with 0 where the stored value is `nodata` or NaN. A NaN is always nodata: the conversion refuses it
    otherwise. The values of a chip are scaled while they are in the cache."""
    bands, count = len(mean), out.shape[2] * len(mean)
    zeros, ones = np.zeros(bands, np.float32), np.ones(bands, np.float32)
    shifts, factors = np.empty(count, np.float32), np.empty(count, np.float32)
    for index in range(count):
        shifts[index], factors[index] = mean[index % bands], scale[index % bands]
    num, zero = np.uintp(count), np.float32(0)
    for chip in range(len(out)):
        one = slice(chip, chip + 1)
        damaged = augment(  # (value - 0) * 1 is the value itself
            addresses[one], sizes[one], out[one], scratch, lines, shape, kind, flip_rows[one], transpose[one],
            crop_y[one], crop_x[one], mirror[one], zeros, ones,
        )  # fmt: skip
        if damaged >= 0:
            return chip
        rows = out[chip].reshape(out.shape[1], count)
        for row in range(out.shape[1]):
            line = rows[row]
            for index in range(num):
                value = line[index]
                missing = (value == nodata) | (value != value)
                line[index] = zero if missing else (value - shifts[index]) * factors[index]
    return -1
