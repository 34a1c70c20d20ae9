"""Chunks -> chips, without the GIL: compiled loops over many chips, on numba.

In: addresses of encoded chunks, so that one call handles many chips from many files. Out: decoded chips (`decode`), or
copies of encoded ones (`copy_encoded`). Leaves finding the addresses to `chunks`, and the kernel that also augments to
`augment`.

`decode` does the same as `preprocess.shard.decode_chip`: check the crc32c, inflate LZ4, join the bytes. That function
is the readable reference, and it makes the error messages. In Python these steps are a dozen calls per chunk that take
and release the GIL, and two threads were slower than one (2,590 against 2,760 chips/s of 256 x 256 x 4 uint16).

Loops that the compiler should vectorise use unsigned indices. For signed ones numba adds code for negative indices, and
the loop stays scalar, five times slower.

numba's cache notices changes only in a kernel's own file. Therefore a kernel calls compiled functions of other files
only as C functions, by name. `payload` is such a C function.
"""

from typing import Any

import numba
import numpy as np
from numba import types

from pipeline.c_functions import array, crc32c, external, lz4_decompress, memcpy, pointer
from preprocess.codecs import LZ4_FLOAT32, LZ4_HEADER_BYTES
from preprocess.shard import CRC_BYTES

LAST_LZ4 = LZ4_FLOAT32  # the kernel kinds up to this one are LZ4
_compiled = numba.njit(nogil=True, cache=True)


@_compiled
def _uint32(address: int) -> int:
    data = array(pointer(address), 4, np.uint8)
    return int(data[0] | data[1] << 8 | data[2] << 16 | data[3] << 24)


def _payload(address: int, size: int, chunk_bytes: int, kind: int, scratch: int) -> int:
    """Check a chunk, and inflate it into `scratch` if it is LZ4.

    Args:
        address, size: the encoded chunk. A size of 0 stands for a chunk that was checked and decoded before (`cache`).
        chunk_bytes: of the decoded chunk.
        kind: see `codecs.Codec.kernel_kinds`.
        scratch: address of `chunk_bytes` bytes.

    Returns:
        The address of the decoded bytes, 0 if the chunk is damaged.
    """
    if size == 0:
        return address
    payload_bytes = size - CRC_BYTES
    if payload_bytes < LZ4_HEADER_BYTES:
        return 0
    if crc32c(np.uint32(0), np.uintp(address), np.uintp(payload_bytes)) != _uint32(address + payload_bytes):
        return 0
    if kind > LAST_LZ4:
        return address if payload_bytes == chunk_bytes else 0
    if _uint32(address) != chunk_bytes:
        return 0
    block, count = address + LZ4_HEADER_BYTES, payload_bytes - LZ4_HEADER_BYTES
    if lz4_decompress(np.uintp(block), np.uintp(scratch), np.int32(count), np.int32(chunk_bytes)) != chunk_bytes:
        return 0
    return scratch


_signature = types.int64(types.int64, types.int64, types.int64, types.int64, types.int64)
_as_c_function: Any = numba.cfunc(_signature, cache=True)(_payload)
payload: Any = external("canopy_payload", _as_c_function.address, _signature)


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
        flip_rows: (N,) bool: reverse the order of the rows.

    Returns:
        The first chip that is damaged, or -1. That chip and those behind it must not be used.
    """
    chips, bands, chunks, rows, width = out.shape
    values, line = rows * width, np.uintp(width)
    chunk_bytes = rows * width * out.itemsize
    buffer = int(np.int64(scratch.ctypes.data))  # ctypes.data is unsigned: with it numba would compute sums as floats
    for chip in range(chips):
        for band in range(bands):
            for chunk in range(chunks):
                source = payload(addresses[chip, band, chunk], sizes[chip, band, chunk], chunk_bytes, kind, buffer)
                if source == 0:
                    return chip
                block = out[chip, band, chunks - 1 - chunk if flip_rows[chip] else chunk]
                for row in range(rows):
                    target = block[rows - 1 - row if flip_rows[chip] else row]
                    if kind <= LAST_LZ4 and out.itemsize == 2:
                        low = array(pointer(source + row * width), line, np.uint8)
                        high = array(pointer(source + values + row * width), line, np.uint8)
                        for index in range(line):
                            target[index] = np.uint16(low[index]) | (np.uint16(high[index]) << np.uint16(8))
                    elif kind <= LAST_LZ4 and out.itemsize == 4:
                        at = source + row * width
                        byte_0 = array(pointer(at), line, np.uint8)
                        byte_1 = array(pointer(at + values), line, np.uint8)
                        byte_2 = array(pointer(at + 2 * values), line, np.uint8)
                        byte_3 = array(pointer(at + 3 * values), line, np.uint8)
                        for index in range(line):
                            low_bytes = np.uint32(byte_0[index]) | (np.uint32(byte_1[index]) << np.uint32(8))
                            high_bytes = np.uint32(byte_2[index]) | (np.uint32(byte_3[index]) << np.uint32(8))
                            target[index] = low_bytes | (high_bytes << np.uint32(16))
                    else:
                        count = np.uintp(width * out.itemsize)
                        memcpy(np.uintp(target.ctypes.data), np.uintp(source) + np.uintp(row) * count, count)
    return -1


@_compiled
def copy_encoded(
    addresses: np.ndarray, sizes: np.ndarray, out: np.ndarray, offsets: np.ndarray, blocks: np.ndarray,
    used: np.ndarray, chunk_bytes: int,
) -> int:  # fmt: skip
    """Check every LZ4 chunk, copy the span of memory that holds the chunks of a chip, and list its LZ4 blocks.

    Args:
        addresses, sizes: (N, chunks) int64, of all bands. The chunks of a chip lie in one span.
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
            address, count = addresses[chip, index], sizes[chip, index] - CRC_BYTES
            if count < LZ4_HEADER_BYTES or _uint32(address) != chunk_bytes:
                return chip
            if crc32c(np.uint32(0), np.uintp(address), np.uintp(count)) != _uint32(address + count):
                return chip
            start, end = min(start, address), max(end, address + count)
        for index in range(addresses.shape[1]):
            offsets[chip, index] = addresses[chip, index] - start + LZ4_HEADER_BYTES
            blocks[chip, index] = sizes[chip, index] - LZ4_HEADER_BYTES - CRC_BYTES
        used[chip] = end - start
        memcpy(np.uintp(out[chip].ctypes.data), np.uintp(start), np.uintp(end - start))
    return -1
