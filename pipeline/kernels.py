"""Chunks -> chips, or straight to a batch's images, without the GIL: compiled loops over many chips, on numba.

The same steps as `preprocess.shard.decode_chip`, which stays the readable reference and makes the error messages:
check the crc32c, inflate LZ4, join the bytes. In Python these are a dozen calls a chunk that take and drop the GIL,
and two threads were slower than one (2,590 against 2,760 chips/s of 256 x 256 x 4 uint16). `augment` goes on to the
crop, the flips and the scaling while a chunk's values are still in the inner caches: docs/log.md has the rates.

Chunks come as addresses, so that one call handles many chips from many files. LZ4 and crc32c are the C functions
inside numcodecs' and google-crc32c's own extension modules: both packages are pinned, and `_symbol` says in one line
if a build hides them. All loops that are to be vectorised index with unsigned integers: numba otherwise handles
negative indices, and the loop stays scalar, five times slower.

All compiled functions are in this file, because numba's cache notices changes in the function's own file only.
"""

import ctypes
from types import ModuleType
from typing import Any

import google_crc32c._crc32c
import llvmlite.binding
import numba
import numcodecs.lz4
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from preprocess.codecs import (
    LZ4_FLOAT32,
    LZ4_HEADER_BYTES,
    LZ4_UINT8,
    LZ4_UINT16,
    NONE_FLOAT32,
    NONE_INT16,
    NONE_UINT8,
    NONE_UINT16,
)
from preprocess.shard import CRC_BYTES

BLOCK = 4  # lines that are transposed at once
LAST_LZ4 = LZ4_FLOAT32  # the kernel kinds up to this one are LZ4


def _symbol(library: str | None, name: str) -> str:
    """Make a C function known to the compiler, under a name of ours: an address would keep code from being cached."""
    try:
        address = ctypes.cast(getattr(ctypes.CDLL(library), name), ctypes.c_void_p).value
    except AttributeError as error:
        raise ImportError(f"{library}: this build does not export {name}; install the pinned version") from error
    llvmlite.binding.add_symbol(f"canopy_{name}", address)
    return f"canopy_{name}"


def _file(module: ModuleType) -> str:
    return str(module.__file__)


_address = types.uintp
# int LZ4_decompress_safe(const char* src, char* dst, int compressedSize, int dstCapacity)
_lz4: Any = types.ExternalFunction(
    _symbol(_file(numcodecs.lz4), "LZ4_decompress_safe"), types.int32(_address, _address, types.int32, types.int32)
)
# uint32_t crc32c_extend(uint32_t crc, const uint8_t* data, size_t count)
_crc32c: Any = types.ExternalFunction(
    _symbol(_file(google_crc32c._crc32c), "crc32c_extend"), types.uint32(types.uint32, _address, _address)
)
# void* memcpy(void* dst, const void* src, size_t count)
_memcpy: Any = types.ExternalFunction(_symbol(None, "memcpy"), _address(_address, _address, _address))


def _as_pointer(context: Any, address: Any) -> Any:
    """An address as the pointer that `numba.carray` takes."""
    del context

    def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), code


def _as_float(context: Any, bits: Any) -> Any:
    """The float32 that has the bits of a uint32."""
    del context, bits

    def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.uint32), code


_pointer: Any = intrinsic(_as_pointer)
_float: Any = intrinsic(_as_float)
_array: Any = numba.carray  # type: ignore[attr-defined]  # (pointer, count, dtype)


_compiled = numba.njit(nogil=True, cache=True)


@_compiled
def _uint32(address: int) -> int:
    data = _array(_pointer(address), 4, np.uint8)
    return int(data[0] | data[1] << 8 | data[2] << 16 | data[3] << 24)


@_compiled
def _payload(address: int, size: int, chunk_bytes: int, kind: int, scratch: int) -> int:
    """Check a chunk and inflate it into `scratch`, if it is LZ4. Returns where its decoded bytes lie, 0 if damaged.

    A size of 0 stands for bytes that were checked and decoded before (`resident`).
    """
    if size == 0:
        return address
    payload = size - CRC_BYTES
    if payload < LZ4_HEADER_BYTES:
        return 0
    if _crc32c(np.uint32(0), np.uintp(address), np.uintp(payload)) != _uint32(address + payload):
        return 0
    if kind > LAST_LZ4:
        return address if payload == chunk_bytes else 0
    if _uint32(address) != chunk_bytes:
        return 0
    block, count = address + LZ4_HEADER_BYTES, payload - LZ4_HEADER_BYTES
    if _lz4(np.uintp(block), np.uintp(scratch), np.int32(count), np.int32(chunk_bytes)) != chunk_bytes:
        return 0
    return scratch


@_compiled
def _bytes(address: int, count: Any) -> np.ndarray:
    data: np.ndarray = _array(_pointer(address), count, np.uint8)
    return data


@_compiled
def _join(byte_0: int, byte_1: int, byte_2: int, byte_3: int) -> int:
    """The uint32 of four bytes, the lowest first."""
    low = np.uint32(byte_0) | (np.uint32(byte_1) << np.uint32(8))
    return low | (np.uint32(byte_2) << np.uint32(16)) | (np.uint32(byte_3) << np.uint32(24))  # type: ignore[return-value]


@_compiled
def decode(
    addresses: np.ndarray, sizes: np.ndarray, out: np.ndarray, scratch: np.ndarray, kind: int, flip_rows: np.ndarray
) -> int:
    """Decode chips.

    Args:
        addresses, sizes: (N, bands, chunks) int64: encoded chunks in memory.
        out: (N, bands, chunks, rows, width) unsigned integers of the values' size, C-contiguous.
        scratch: (chunk bytes,) uint8.
        kind: of the chunks, see `codecs.Codec.kernel_kinds`.
        flip_rows: (N,) bool: write the last row of each band first.

    Returns:
        The first chip that is damaged, or -1. Chips from that one on are not to be used.
    """
    chips, bands, chunks, rows, width = out.shape
    values, line = rows * width, np.uintp(width)
    chunk_bytes = rows * width * out.itemsize
    buffer = int(np.int64(scratch.ctypes.data))  # ctypes.data is unsigned: numba would make floats of sums with it
    for chip in range(chips):
        for band in range(bands):
            for chunk in range(chunks):
                source = _payload(addresses[chip, band, chunk], sizes[chip, band, chunk], chunk_bytes, kind, buffer)
                if source == 0:
                    return chip
                block = out[chip, band, chunks - 1 - chunk if flip_rows[chip] else chunk]
                for row in range(rows):
                    target = block[rows - 1 - row if flip_rows[chip] else row]
                    if kind <= LAST_LZ4 and out.itemsize == 2:
                        low = _array(_pointer(source + row * width), line, np.uint8)
                        high = _array(_pointer(source + values + row * width), line, np.uint8)
                        for index in range(line):
                            target[index] = np.uint16(low[index]) | (np.uint16(high[index]) << np.uint16(8))
                    elif kind <= LAST_LZ4 and out.itemsize == 4:
                        at = source + row * width
                        byte_0, byte_1 = _bytes(at, line), _bytes(at + values, line)
                        byte_2, byte_3 = _bytes(at + 2 * values, line), _bytes(at + 3 * values, line)
                        for index in range(line):
                            target[index] = _join(byte_0[index], byte_1[index], byte_2[index], byte_3[index])
                    else:
                        count = np.uintp(width * out.itemsize)
                        _memcpy(np.uintp(target.ctypes.data), np.uintp(source) + np.uintp(row) * count, count)
    return -1


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
def _scale_other(
    source: int, values: int, at: int, num: Any, kind: int, mean: float, scale: float, mirror: bool, out: np.ndarray,
    first: Any, last: Any,
) -> None:  # fmt: skip
    """`_scale_line` of the kinds of int16 and float32."""
    if kind == NONE_INT16:
        _scale(_array(_pointer(source + 2 * at), num, np.int16), mean, scale, mirror, out, first, last)
    elif kind == NONE_FLOAT32:
        _scale(_array(_pointer(source + 4 * at), num, np.float32), mean, scale, mirror, out, first, last)
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
        low = _array(_pointer(source + at), num, np.uint8)
        high = _array(_pointer(source + values + at), num, np.uint8)
        if mirror:
            for index in range(num):
                value = np.uint16(low[index]) | (np.uint16(high[index]) << np.uint16(8))
                out[last - index] = (np.float32(value) - mean) * scale
        else:
            for index in range(num):
                value = np.uint16(low[index]) | (np.uint16(high[index]) << np.uint16(8))
                out[first + index] = (np.float32(value) - mean) * scale
    elif kind == NONE_UINT16:
        wide = _array(_pointer(source + 2 * at), num, np.uint16)
        if mirror:
            for index in range(num):
                out[last - index] = (np.float32(wide[index]) - mean) * scale
        else:
            for index in range(num):
                out[first + index] = (np.float32(wide[index]) - mean) * scale
    elif kind in (NONE_UINT8, LZ4_UINT8):
        narrow = _array(_pointer(source + at), num, np.uint8)
        if mirror:
            for index in range(num):
                out[last - index] = (np.float32(narrow[index]) - mean) * scale
        else:
            for index in range(num):
                out[first + index] = (np.float32(narrow[index]) - mean) * scale
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
    """Decode chips and write what a model is fed: rows flipped, transposed, cropped, mirrored, scaled, bands last.

    Args:
        addresses, sizes: (N, bands, chunks) int64: encoded chunks in memory.
        out: (N, crop height, crop width, bands) float32, C-contiguous.
        scratch: (bands, chunk bytes) uint8.
        lines: (BLOCK * bands * longer side of the crop,) float32.
        shape: (height, width, rows of a chunk) of the chips.
        kind: of the chunks, see `codecs.Codec.kernel_kinds`.
        flip_rows, transpose, crop_y, crop_x, mirror: (N,), as in `order.Augmentation`.
        mean, scale: (bands,) float32; what leaves is (value - mean) * scale.

    Returns:
        The first chip that is damaged, or -1.
    """
    chips, crop_height, crop_width, bands = out.shape
    height, width, rows = shape
    flat = out.reshape(out.size)
    chunk_bytes, buffer = scratch.shape[1], np.int64(scratch.ctypes.data)
    sources = np.zeros(bands, np.int64)
    for chip in range(chips):
        # The window in the chip before transposing; what was cropped as (y, x) lies at (x, y) there.
        if transpose[chip]:
            top, left, down, across = crop_x[chip], crop_y[chip], crop_width, crop_height
        else:
            top, left, down, across = crop_y[chip], crop_x[chip], crop_height, crop_width
        first = height - top - down if flip_rows[chip] else top  # row of the stored chip
        start = chip * crop_height * crop_width * bands
        for chunk in range(first // rows, (first + down - 1) // rows + 1):
            for band in range(bands):
                sources[band] = _payload(
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
                            sources[band], rows * width, (row + line - chunk * rows) * width + left, across, kind,
                            mean[band], scale[band], mirror[chip] and not transpose[chip], lines,
                            (line * bands + band) * across,
                        )  # fmt: skip
                # Where the first of these lines goes, counted along the window as it leaves.
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
def copy_encoded(
    addresses: np.ndarray, sizes: np.ndarray, out: np.ndarray, offsets: np.ndarray, blocks: np.ndarray,
    used: np.ndarray, chunk_bytes: int,
) -> int:  # fmt: skip
    """Check every LZ4 chunk and copy, a chip, the span that holds them; say where the LZ4 blocks lie in it.

    Args:
        addresses, sizes: (N, chunks) int64, of all bands. A chip's chunks lie in one span.
        out: (N, at least the longest span) uint8.
        offsets, blocks: (N, chunks) int32, written: without numcodecs' length and without the crc32c.
        used: (N,) int64, written: bytes of each span.
        chunk_bytes: of a decoded chunk.

    Returns:
        The first chip that is damaged, or -1.
    """
    for chip in range(len(addresses)):
        start, end = addresses[chip, 0], addresses[chip, 0]
        for index in range(addresses.shape[1]):
            address, payload = addresses[chip, index], sizes[chip, index] - CRC_BYTES
            if payload < LZ4_HEADER_BYTES or _uint32(address) != chunk_bytes:
                return chip
            if _crc32c(np.uint32(0), np.uintp(address), np.uintp(payload)) != _uint32(address + payload):
                return chip
            start, end = min(start, address), max(end, address + payload)
        for index in range(addresses.shape[1]):
            offsets[chip, index] = addresses[chip, index] - start + LZ4_HEADER_BYTES
            blocks[chip, index] = sizes[chip, index] - LZ4_HEADER_BYTES - CRC_BYTES
        used[chip] = end - start
        _memcpy(np.uintp(out[chip].ctypes.data), np.uintp(start), np.uintp(end - start))
    return -1


def view(address: int, count: int) -> np.ndarray:
    """`count` bytes of memory at `address` as a uint8 array; the caller keeps the owner alive."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(address))
