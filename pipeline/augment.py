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
from pipeline.pixels import MOST_BANDS, PIXELS, as_float, fetch_line, write_pixels
from preprocess.codecs import (
    LZ4_INT16,
    LZ4_UINT8,
    LZ4_UINT16,
    NONE_FLOAT32,
    NONE_INT16,
    NONE_UINT8,
    NONE_UINT16,
)

BLOCK_VALUES = 16_384  # written at once: 64 KiB
# A block of this size or larger is written to a buffer and copied by memcpy, which does not read the memory that it
# overwrites: writing line by line took 15 to 25 % longer. A small block fits into the cache, as does its batch: there
# memcpy took longer.
LARGE_BYTES = 16_384
# Uncompressed chunks of 64 x 64 uint16 have 8,196 bytes: fetched ahead, 13 of them took 19.8 us of CPU, before 23.6.
CACHE_LINE, FETCHED_BYTES = 64, 16_384
_compiled = numba.njit(nogil=True, cache=True)


@_compiled
def _byte(address: int) -> int:
    return int(array(pointer(address), 1, np.uint8)[0])


@_compiled
def _value(source: int, plane: int, at: int, kind: int) -> Any:
    """One value of a decoded chunk, for lines of fewer than `PIXELS` values."""
    if kind == NONE_UINT8:
        return np.float32(_byte(source + at))
    if kind == NONE_UINT16:
        return np.float32(array(pointer(source + 2 * at), 1, np.uint16)[0])
    if kind == NONE_INT16:
        return np.float32(array(pointer(source + 2 * at), 1, np.int16)[0])
    if kind == NONE_FLOAT32:
        return array(pointer(source + 4 * at), 1, np.float32)[0]
    low = np.uint32(_byte(source + at)) | (np.uint32(_byte(source + plane + at)) << np.uint32(8))
    if kind == LZ4_UINT16:
        return np.float32(low)
    if kind == LZ4_INT16:
        return np.float32(np.int16(low))
    high = np.uint32(_byte(source + 2 * plane + at)) | (np.uint32(_byte(source + 3 * plane + at)) << np.uint32(8))
    return as_float(low | (high << np.uint32(16)))


@_compiled
def _write(
    sources: np.ndarray, first: int, plane: int, kind: int, mean: np.ndarray, scale: np.ndarray,
    rows: tuple[int, int, int], columns: tuple[int, int], target: Any, columns_first: bool,
) -> None:  # fmt: skip
    """Write a rectangle of all bands.

    Args:
        sources: (bands,) addresses of decoded chunks. first: place of the rectangle's first value in each.
        plane, kind, mean, scale: as in `write_pixels`.
        rows: how many, values from one to the next in the source, bytes from one to the next in the target.
        columns: how many, bytes from one to the next in the target.
        target: address of the pixel of the first value. columns_first: write all rows of eight columns, then the next.
    """
    bands = len(sources)
    count, width, row_step = rows
    across, step = columns
    if across < PIXELS:
        for row in range(count):
            for column in range(across):
                pixel = array(pointer(target + row * row_step + column * step), bands, np.float32)
                for band in range(bands):
                    value = _value(sources[band], plane, first + row * width + column, kind)
                    pixel[band] = (value - mean[band]) * scale[band]
        return
    lines = (count, 1, count - 1, width, row_step)
    pixels = ((across + PIXELS - 1) // PIXELS, PIXELS, across - PIXELS, 1, step)
    for group in range(0, bands, MOST_BANDS):
        band = max(0, min(group, bands - MOST_BANDS))  # the last four bands overlap the ones before
        write_pixels(
            kind, min(bands, MOST_BANDS), np.int64(sources[band:].ctypes.data), first, plane,
            np.int64(mean[band:].ctypes.data), np.int64(scale[band:].ctypes.data), target + 4 * band, step,
            pixels if columns_first else lines, lines if columns_first else pixels,
        )  # fmt: skip


@_compiled
def _write_lines(
    sources: np.ndarray, first: int, plane: int, kind: int, mean: np.ndarray, scale: np.ndarray,
    rows: tuple[int, int], across: int, target: int, flip_rows: bool, mirror: bool, block: np.ndarray,
) -> None:  # fmt: skip
    """`_write` of lines that stay lines. target: address of the line that comes first in the output."""
    count, width = rows
    pixel = 4 * len(sources)
    line = pixel * across
    large, buffer = count * line >= LARGE_BYTES, np.int64(block.ctypes.data)
    at = buffer if large else target
    if flip_rows:
        at += (count - 1) * line
    if mirror:
        at += line - pixel
    _write(
        sources, first, plane, kind, mean, scale, (count, width, -line if flip_rows else line),
        (across, -pixel if mirror else pixel), at, False,
    )  # fmt: skip
    if large:
        memcpy(np.uintp(target), np.uintp(buffer), np.uintp(count * line))


@_compiled
def _fetch(addresses: np.ndarray, sizes: np.ndarray, chip: int, band: int, chunk: int) -> None:
    """Fetch a chunk from memory into the cache, if it is a small one."""
    if chip < len(addresses) and sizes[chip, band, chunk] <= FETCHED_BYTES:
        address = addresses[chip, band, chunk]
        for at in range(address, address + sizes[chip, band, chunk], CACHE_LINE):
            fetch_line(at)


@_compiled
def augment(
    addresses: np.ndarray, sizes: np.ndarray, out: np.ndarray, scratch: np.ndarray, block: np.ndarray,
    shape: tuple[int, int, int], kind: int, flip_rows: np.ndarray, transpose: np.ndarray,
    crop_y: np.ndarray, crop_x: np.ndarray, mirror: np.ndarray, mean: np.ndarray, scale: np.ndarray,
) -> int:  # fmt: skip
    """Decode chips and write a model's input: rows flipped, transposed, cropped, mirrored, scaled, bands last.

    Args:
        addresses, sizes: (N, bands, chunks) int64: encoded chunks in memory.
        out: (N, crop height, crop width, bands) float32, C-contiguous.
        scratch: (bands, chunk bytes) uint8.
        block: (at least bands * crop width,) float32: lines of the output. The longer, the faster.
        shape: (height, width, rows of a chunk) of the chips.
        kind: of the chunks, see `codecs.Codec.kernel_kinds`.
        flip_rows, transpose, crop_y, crop_x, mirror: (N,), as in `order.Augmentation`.
        mean, scale: (bands,) float32; `out` is (value - mean) * scale.

    Returns:
        The first chip that is damaged, or -1.
    """
    chips, crop_height, crop_width, bands = out.shape
    height, width, rows = shape
    pixel, line = 4 * bands, 4 * bands * crop_width  # bytes
    chunk_bytes, buffer, target = scratch.shape[1], np.int64(scratch.ctypes.data), np.int64(out.ctypes.data)
    sources, most = np.zeros(bands, np.int64), max(1, block.size // (bands * crop_width))
    line_kind = NONE_UINT8 if kind == LZ4_UINT8 else kind  # one byte per value: a single plane
    for chip in range(chips):
        # The crop in the chip as stored, before transposing: there (y, x) of the crop is (x, y).
        if transpose[chip]:
            top, left, down, across = crop_x[chip], crop_y[chip], crop_width, crop_height
        else:
            top, left, down, across = crop_y[chip], crop_x[chip], crop_height, crop_width
        first = height - top - down if flip_rows[chip] else top  # row of the stored chip
        start = target + chip * crop_height * line
        for chunk in range(first // rows, (first + down - 1) // rows + 1):
            for band in range(bands):
                sources[band] = payload(
                    addresses[chip, band, chunk], sizes[chip, band, chunk], chunk_bytes, kind,
                    buffer + band * chunk_bytes,
                )  # fmt: skip
                if sources[band] == 0:
                    return chip
                _fetch(addresses, sizes, chip + 1, band, chunk)
            row, end = max(first, chunk * rows), min(first + down, (chunk + 1) * rows)
            while row < end:
                count = min(most, end - row)
                # Of these lines: the first value in the chunk, and the first line's place in the crop.
                source, to = (row - chunk * rows) * width + left, row - first
                if transpose[chip]:
                    backward = flip_rows[chip] != mirror[chip]
                    column = crop_width - 1 - to if backward else to
                    _write(
                        sources, source, rows * width, line_kind, mean, scale,
                        (count, width, -pixel if backward else pixel), (across, line), start + column * pixel, True,
                    )  # fmt: skip
                else:
                    _write_lines(
                        sources, source, rows * width, line_kind, mean, scale, (count, width), across,
                        start + (down - to - count if flip_rows[chip] else to) * line, flip_rows[chip], mirror[chip],
                        block,
                    )  # fmt: skip
                row += count
    return -1


@_compiled
def augment_valid(
    addresses: np.ndarray, sizes: np.ndarray, out: np.ndarray, scratch: np.ndarray, block: np.ndarray,
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
            addresses[one], sizes[one], out[one], scratch, block, shape, kind, flip_rows[one], transpose[one],
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
