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

from pipeline.c_functions import array, memcpy, pointer
from pipeline.kernels import payload
from pipeline.vectors import as_float, transpose_4x4
from preprocess.codecs import (
    LZ4_INT16,
    LZ4_UINT8,
    LZ4_UINT16,
    NONE_FLOAT32,
    NONE_INT16,
    NONE_UINT8,
    NONE_UINT16,
)

BLOCK_VALUES = 16_384  # scaled at once, of all bands: 64 KiB, and as much again for the same pixels bands last
LARGE_VALUES = 4096  # 16 KiB
_compiled = numba.njit(nogil=True, cache=True)


@_compiled
def _bytes(address: int, count: Any) -> np.ndarray:
    data: np.ndarray = array(pointer(address), count, np.uint8)
    return data


@_compiled
def _join(byte_0: int, byte_1: int, byte_2: int, byte_3: int) -> int:
    """The uint32 of four bytes, the lowest first."""
    low = np.uint32(byte_0) | (np.uint32(byte_1) << np.uint32(8))
    return low | (np.uint32(byte_2) << np.uint32(16)) | (np.uint32(byte_3) << np.uint32(24))  # type: ignore[return-value]


@_compiled
def _scale(values: np.ndarray, mean: float, scale: float, mirror: bool, out: np.ndarray, first: Any, last: Any) -> None:
    """out[first ... last] = (value - mean) * scale, in reverse if `mirror`; compiled for each dtype of `values`."""
    if mirror:
        for index in range(np.uintp(len(values))):
            out[last - index] = (np.float32(values[index]) - mean) * scale
    else:
        for index in range(np.uintp(len(values))):
            out[first + index] = (np.float32(values[index]) - mean) * scale


@_compiled
def _scale_two(
    low_bytes: int, high_bytes: int, num: Any, kind: int, mean: float, scale: float, mirror: bool, out: np.ndarray,
    first: Any, last: Any,
) -> None:  # fmt: skip
    """`_scale_block` of 16-bit values in two planes of bytes."""
    low, high = _bytes(low_bytes, num), _bytes(high_bytes, num)
    if kind == LZ4_UINT16:
        if mirror:
            for index in range(num):
                value = np.uint16(low[index]) | (np.uint16(high[index]) << np.uint16(8))
                out[last - index] = (np.float32(np.uint16(value)) - mean) * scale
        else:
            for index in range(num):
                value = np.uint16(low[index]) | (np.uint16(high[index]) << np.uint16(8))
                out[first + index] = (np.float32(np.uint16(value)) - mean) * scale
    elif mirror:
        for index in range(num):
            value = np.uint16(low[index]) | (np.uint16(high[index]) << np.uint16(8))
            out[last - index] = (np.float32(np.int16(value)) - mean) * scale
    else:
        for index in range(num):
            value = np.uint16(low[index]) | (np.uint16(high[index]) << np.uint16(8))
            out[first + index] = (np.float32(np.int16(value)) - mean) * scale


@_compiled
def _scale_block(
    source: int, values: int, at: int, count: int, kind: int, mean: float, scale: float, mirror: bool, out: np.ndarray,
    start: int,
) -> None:  # fmt: skip
    """out[start : start + count] = (value - mean) * scale of the values from `at` on of a decoded chunk, in reverse if
    `mirror`. A call costs 16 to 30 ns, as much as 400 values: so it should get the values of several lines."""
    num, first, last = np.uintp(count), np.uintp(start), np.uintp(start + count - 1)
    if kind in (LZ4_UINT16, LZ4_INT16):
        _scale_two(source + at, source + values + at, num, kind, mean, scale, mirror, out, first, last)
    elif kind == NONE_UINT16:
        _scale(array(pointer(source + 2 * at), num, np.uint16), mean, scale, mirror, out, first, last)
    elif kind == NONE_UINT8:
        _scale(array(pointer(source + at), num, np.uint8), mean, scale, mirror, out, first, last)
    elif kind == NONE_INT16:
        _scale(array(pointer(source + 2 * at), num, np.int16), mean, scale, mirror, out, first, last)
    elif kind == NONE_FLOAT32:
        _scale(array(pointer(source + 4 * at), num, np.float32), mean, scale, mirror, out, first, last)
    else:
        byte_0, byte_1 = _bytes(source + at, num), _bytes(source + values + at, num)
        byte_2, byte_3 = _bytes(source + 2 * values + at, num), _bytes(source + 3 * values + at, num)
        if mirror:
            for index in range(num):
                bits = _join(byte_0[index], byte_1[index], byte_2[index], byte_3[index])
                out[last - index] = (as_float(bits) - mean) * scale
        else:
            for index in range(num):
                bits = _join(byte_0[index], byte_1[index], byte_2[index], byte_3[index])
                out[first + index] = (as_float(bits) - mean) * scale


@_compiled
def _weave(lines: np.ndarray, first: int, step: int, count: int, bands: int, out: np.ndarray, start: int) -> None:
    """Pixel i of all bands, lines[first + band * step + i], to out[start + i * bands ...]. 3 and 4 bands are
    vectorised by the compiler."""
    num, at = np.uintp(count), np.uintp(start)
    red = np.uintp(first)
    green, blue, nir = np.uintp(first + step), np.uintp(first + 2 * step), np.uintp(first + 3 * step)
    if bands == 4:
        for index in range(num):
            pixel = at + np.uintp(4) * index
            out[pixel] = lines[red + index]
            out[pixel + np.uintp(1)] = lines[green + index]
            out[pixel + np.uintp(2)] = lines[blue + index]
            out[pixel + np.uintp(3)] = lines[nir + index]
    elif bands == 3:
        for index in range(num):
            pixel = at + np.uintp(3) * index
            out[pixel] = lines[red + index]
            out[pixel + np.uintp(1)] = lines[green + index]
            out[pixel + np.uintp(2)] = lines[blue + index]
    else:
        _weave_columns(lines, first, step, 0, 1, count, bands, out, start, bands, False)


@_compiled
def _weave_columns(
    lines: np.ndarray, first: int, step: int, width: int, rows: int, count: int, bands: int, out: np.ndarray,
    start: int, out_step: int, reverse: bool,
) -> None:  # fmt: skip
    """The same for `rows` lines that become columns: lines[first + band * step + row * width + i] to
    out[start + i * out_step + row * bands + band], the rows in the opposite order if `reverse`.

    4 x 4 values at a time, which is twice as fast as one at a time. The last four pixels or bands overlap the ones
    before if the number is no multiple of 4.
    """
    source, target = int(np.int64(lines.ctypes.data)) + 4 * first, int(np.int64(out.ctypes.data)) + 4 * start
    if bands < 4 or count < 4:
        for index in range(count):
            for row in range(rows):
                line = first + width * (rows - 1 - row if reverse else row) + index
                pixel = start + index * out_step + row * bands
                for band in range(bands):
                    out[np.uintp(pixel + band)] = lines[np.uintp(line + band * step)]
        return
    for block in range(0, count, 4):
        index = min(block, count - 4)
        for row in range(rows):
            line = source + 4 * (width * (rows - 1 - row if reverse else row) + index)
            pixel = target + 4 * (index * out_step + row * bands)
            for group in range(0, bands, 4):
                band = min(group, bands - 4)
                transpose_4x4(line + 4 * step * band, 4 * step, pixel + 4 * band, 4 * out_step)


@_compiled
def _weave_lines(
    lines: np.ndarray, step: int, width: int, rows: int, count: int, bands: int, flip_rows: bool, mirror: bool,
    out: np.ndarray,
) -> None:  # fmt: skip
    """Write `rows` lines of pixels, lines[0, band * step + row * width + i], to the start of `out`. With `mirror` the
    lines lie in reverse.

    A large block is written by memcpy, which does not read the memory that it overwrites: writing line by line took 15
    to 25 % longer. A small block fits into the cache, as does its batch: there memcpy took longer.
    """
    size = rows * count * bands
    woven = lines[1] if size >= LARGE_VALUES else out
    for row in range(rows):
        first = (rows - 1 - row if mirror else row) * width
        place = (rows - 1 - row if flip_rows else row) * count * bands
        _weave(lines[0], first, step, count, bands, woven, place)
    if size >= LARGE_VALUES:
        memcpy(np.uintp(out.ctypes.data), np.uintp(woven.ctypes.data), np.uintp(4 * size))


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
        lines: (2, at least bands * width) float32: scaled values, bands first and bands last. The longer, the faster.
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
    sources, most = np.zeros(bands, np.int64), lines.shape[1] // (bands * width)
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
                # Several lines at once, with the values between the end of one crop line and the start of the next.
                count = min(most, end - row)
                span = (count - 1) * width + across
                reverse = mirror[chip] and not transpose[chip]
                for band in range(bands):
                    _scale_block(
                        sources[band], rows * width, (row - chunk * rows) * width + left, span, line_kind, mean[band],
                        scale[band], reverse, lines[0], band * span,
                    )  # fmt: skip
                # The position of the first of these lines in the output.
                to = first + down - row - count if flip_rows[chip] else row - first
                if transpose[chip]:
                    column = crop_width - to - count if mirror[chip] else to
                    _weave_columns(
                        lines[0], 0, span, width, count, across, bands, flat, start + column * bands,
                        crop_width * bands, flip_rows[chip] != mirror[chip],
                    )  # fmt: skip
                else:
                    _weave_lines(
                        lines, span, width, count, across, bands, flip_rows[chip], mirror[chip],
                        flat[start + to * crop_width * bands :],
                    )  # fmt: skip
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
