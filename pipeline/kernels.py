"""Chunks -> tiles without the GIL: one compiled loop over a batch's chunks, on numba.

The same steps as `preprocess.shard.decode_tile`, which stays the readable reference and makes the error messages:
check the crc32c, inflate LZ4, join the bytes, write each value once, rows in either order. In Python these are a
dozen calls a chunk that take and drop the GIL, and two threads were slower than one (2,590 against 2,760 tiles/s of
256 x 256 x 4 uint16); compiled, one thread does 3,430 and two do 6,840. Worker processes were the other way; they
would need shared memory and their own tables for the same rate.

LZ4 and crc32c are the C functions inside numcodecs' and google-crc32c's own extension modules, called by address:
both packages are pinned, and `_function` says in one line if a build hides them.
"""

import ctypes
from types import ModuleType
from typing import Any

import google_crc32c._crc32c
import numba
import numcodecs.lz4
import numpy as np

from preprocess.shard import CRC_BYTES, LZ4_HEADER_BYTES


def _function(module: ModuleType, name: str, result: Any, *arguments: Any) -> Any:
    library = ctypes.CDLL(str(module.__file__))
    try:
        function = getattr(library, name)
    except AttributeError as error:
        raise ImportError(
            f"{module.__name__}: this build does not export {name}; install the pinned version"
        ) from error
    function.restype, function.argtypes = result, arguments
    return function


# int LZ4_decompress_safe(const char* src, char* dst, int compressedSize, int dstCapacity)
_lz4 = _function(
    numcodecs.lz4, "LZ4_decompress_safe", ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int
)
# uint32_t crc32c_extend(uint32_t crc, const uint8_t* data, size_t count)
_crc32c = _function(
    google_crc32c._crc32c, "crc32c_extend", ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p, ctypes.c_size_t
)
# void* memcpy(void* dst, const void* src, size_t count); numba's own slice assignment copies at a quarter of its speed.
_memcpy = ctypes.CDLL(None).memcpy
_memcpy.restype, _memcpy.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


@numba.njit(nogil=True)
def _join(low: np.ndarray, high: np.ndarray, out: np.ndarray) -> None:
    for index in range(out.size):
        out[index] = np.uint16(low[index]) | (np.uint16(high[index]) << np.uint16(8))


@numba.njit(nogil=True)
def _uint32(data: np.ndarray) -> int:
    return int(data[0] | data[1] << 8 | data[2] << 16 | data[3] << 24)


@numba.njit(nogil=True)
def _whole(data: np.ndarray, chunk_bytes: int, inflate: bool) -> bool:
    """Whether an encoded chunk has its crc32c and says that it decodes to `chunk_bytes`."""
    payload = data.size - CRC_BYTES
    if payload < LZ4_HEADER_BYTES or _crc32c(np.uint32(0), data.ctypes.data, payload) != _uint32(data[payload:]):
        return False
    return (_uint32(data) if inflate else payload) == chunk_bytes


@numba.njit(nogil=True)
def decode_uint16(
    data: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, out: np.ndarray, scratch: np.ndarray, inflate: bool,
    flip_rows: bool,
) -> bool:  # fmt: skip
    """Decode one tile.

    Args:
        data: (nbytes,) uint8, the shard's file.
        offsets, sizes: (bands, chunks) int64.
        out: (bands, chunks, rows, width) uint16, C-contiguous.
        scratch: (chunk bytes,) uint8.
        inflate: LZ4 and byte shuffle, or neither.
        flip_rows: write the last row of each band first.

    Returns:
        False for damaged bytes; `out` is then not to be used.
    """
    bands, chunks, rows, width = out.shape
    values = rows * width
    for band in range(bands):
        for chunk in range(chunks):
            encoded = data[offsets[band, chunk] : offsets[band, chunk] + sizes[band, chunk]]
            if not _whole(encoded, 2 * values, inflate):
                return False
            planes = scratch
            if inflate:
                block = encoded[LZ4_HEADER_BYTES : encoded.size - CRC_BYTES]
                if _lz4(block.ctypes.data, scratch.ctypes.data, block.size, 2 * values) != 2 * values:
                    return False
            else:
                planes = encoded
            for row in range(rows):
                target = out[band, chunks - 1 - chunk, rows - 1 - row] if flip_rows else out[band, chunk, row]
                at = row * width
                if inflate:
                    _join(planes[at : at + width], planes[values + at : values + at + width], target)
                else:
                    _memcpy(target.ctypes.data, planes[2 * at :].ctypes.data, 2 * width)
    return True


@numba.njit(nogil=True)
def decode_uint8(
    data: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, out: np.ndarray, scratch: np.ndarray, inflate: bool,
    flip_rows: bool,
) -> bool:  # fmt: skip
    """`decode_uint16` for uint8, which is not shuffled."""
    bands, chunks, rows, width = out.shape
    values = rows * width
    for band in range(bands):
        for chunk in range(chunks):
            encoded = data[offsets[band, chunk] : offsets[band, chunk] + sizes[band, chunk]]
            if not _whole(encoded, values, inflate):
                return False
            plane = encoded
            if inflate:
                block = encoded[LZ4_HEADER_BYTES : encoded.size - CRC_BYTES]
                if _lz4(block.ctypes.data, scratch.ctypes.data, block.size, values) != values:
                    return False
                plane = scratch
            for row in range(rows):
                target = out[band, chunks - 1 - chunk, rows - 1 - row] if flip_rows else out[band, chunk, row]
                _memcpy(target.ctypes.data, plane[row * width :].ctypes.data, width)
    return True


@numba.njit(nogil=True)
def copy_encoded(data: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, out: np.ndarray, chunk_bytes: int) -> int:
    """Check every LZ4 chunk of one tile and copy the span that holds them.

    Args:
        data: (nbytes,) uint8, the shard's file.
        offsets, sizes: (chunks,) int64, of all bands.
        out: (at least the span,) uint8.
        chunk_bytes: of a decoded chunk.

    Returns:
        Bytes written, 0 for damaged ones.
    """
    start, end = offsets[0], offsets[0] + sizes[0]
    for index in range(offsets.size):
        if not _whole(data[offsets[index] : offsets[index] + sizes[index]], chunk_bytes, True):
            return 0
        start, end = min(start, offsets[index]), max(end, offsets[index] + sizes[index])
    _memcpy(out.ctypes.data, data[start:].ctypes.data, end - start)
    return int(end - start)
