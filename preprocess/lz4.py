"""An LZ4 encoder whose blocks decode fast. Every LZ4 decoder reads them.

In: chunks. Out: LZ4 blocks. The time to decode a block depends on the number of its matches and hardly on their
lengths. The reference encoder takes every match of 4 bytes or more, and the high bytes of 16-bit pixels are full of
short ones. This encoder asks for 7 equal bytes, so its matches are fewer and longer: byte-shuffled Planet chips decode
3 times as fast and are 6 % smaller, at a higher encoding rate (docs/log.md has the numbers, and cases in which blocks
get larger). Leaves the byte shuffle to `shard_writer` and the length in front of a block to `codecs`.

The format: github.com/lz4/lz4/blob/dev/doc/lz4_Block_format.md. A block is a series of sequences. Each sequence is a
token (two lengths of 4 bits; 15 means that more bytes follow), literal bytes, and a match (a 2-byte distance, and its
length minus 4). The last 5 bytes are literals, and no match begins in the last 12 bytes.

numba compiles the encoder when this module is imported; later imports read numba's cache. Forked workers inherit the
compiled code.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.cpython.unsafe.numbers import leading_zeros, trailing_zeros
from numba.extending import intrinsic

_TABLE_SIZE = 4096  # positions by hash
_SMALL = 1 << 16  # bytes of a chunk whose positions need 2 bytes each: the table takes 8 KiB of the inner cache

UInt64 = Any  # np.uint64
_u64: Any = np.uint64  # all integers below are unsigned: for signed indices numba adds code for negative ones
_MAX_DISTANCE, _LAST_LITERALS, _LAST_MATCH = _u64(65535), _u64(5), _u64(12)
_MIN_MATCH, _WORD = _u64(7), _u64(8)
_OTHER_BITS = _u64(8)  # bits of a word behind its first 7 bytes
_MANY = _u64(64)  # literals: so many are copied by the C library
_HASH, _HASH_SHIFT = _u64(0x9E3779B185EBCA87), _u64(64 - 12)
_FEWER_TRIES = _u64(6)  # after 64 misses it tries every 2nd byte, after 128 every 3rd: noise costs little time


def _load(bits: int) -> Any:
    """A compiled function: the little-endian integer of so many bits at an address, which need not be aligned."""

    def load(context: Any, address: Any) -> Any:
        del context, address

        def code(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            value = builder.load(builder.inttoptr(arguments[0], ir.PointerType(ir.IntType(bits))))
            value.align = 1
            return builder.zext(value, ir.IntType(64)) if bits < _WORD_BITS else value

        return types.uint64(types.uint64), code

    return intrinsic(load)


def _store(bits: int) -> Any:
    """A compiled function: writes the lowest bits of a value to an address, which need not be aligned."""

    def store(context: Any, address: Any, value: Any) -> Any:
        del context, address, value

        def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            value = builder.trunc(arguments[1], ir.IntType(bits)) if bits < _WORD_BITS else arguments[1]
            builder.store(value, builder.inttoptr(arguments[0], ir.PointerType(ir.IntType(bits)))).align = 1
            return context.get_dummy_value()

        return types.void(types.uint64, types.uint64), code

    return intrinsic(store)


def _raw_copy(context: Any, target: Any, source: Any, count: Any) -> Any:
    """Copy bytes from one address to another."""
    del context, target, source, count

    def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        target, source = (builder.inttoptr(each, cgutils.voidptr_t) for each in arguments[:2])
        _raw_memcpy(builder, target, source, arguments[2], 1)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.uint64), code


_raw_memcpy: Any = cgutils.raw_memcpy
_WORD_BITS = 64
_word, _byte = _load(_WORD_BITS), _load(8)
_set_word, _set_pair, _set_byte = _store(_WORD_BITS), _store(16), _store(8)
_copy: Any = intrinsic(_raw_copy)
_leading_zeros: Any = leading_zeros
_trailing_zeros: Any = trailing_zeros
# Arguments are addresses and inlined: passing arrays to functions takes longer than most of them run.
_compiled = numba.njit(nogil=True, cache=True, forceinline=True)


@_compiled
def _length(out: UInt64, rest: UInt64) -> UInt64:
    """Write the rest of a length of 15 or more to the address `out`. Returns the next address, as the others do."""
    while rest >= _u64(255):
        _set_byte(out, _u64(255))
        out += _u64(1)
        rest -= _u64(255)
    _set_byte(out, rest)
    return out + _u64(1)


@_compiled
def _token(out: UInt64, literals: UInt64, match: UInt64) -> UInt64:
    """Write the token of a sequence and the rest of the number of its literals. `match`: its length minus 4, or 0."""
    more = _u64(15)
    _set_byte(out, min(literals, more) << _u64(4) | min(match, more))
    return _length(out + _u64(1), literals - more) if literals >= more else out + _u64(1)


@_compiled
def _copy_words(out: UInt64, data: UInt64, count: UInt64) -> UInt64:
    """Copy `count` literals in words, so up to 7 bytes more: few branches depend on their number, which is noise.

    The block overwrites these: after literals before a match come at least 8 bytes, 2 of the match, a token and the
    last 5 literals. They can be read, since no match begins in the last 12 bytes."""
    end = out + count
    if count > _MANY:
        _copy(out, data, count)
        return end
    while out < end:
        _set_word(out, _word(data))
        out += _WORD
        data += _WORD
    return end


@_compiled
def _last_literals(out: UInt64, data: UInt64, count: UInt64) -> UInt64:
    """Write the sequence that ends a block."""
    out = _token(out, count, _u64(0))
    _copy(out, data, count)
    return out + count


@_compiled
def _equal_bytes(one: UInt64, other: UInt64, end: UInt64) -> UInt64:
    """The number of bytes from `one` on, before `end`, that equal those from `other` on."""
    start = one
    while one + _WORD <= end:
        differs = _word(one) ^ _word(other)
        if differs:
            return one - start + (_u64(_trailing_zeros(differs)) >> _u64(3))
        one += _WORD
        other += _WORD
    while one < end and _byte(one) == _byte(other):
        one += _u64(1)
        other += _u64(1)
    return one - start


@_compiled
def _equal_before(one: UInt64, other: UInt64, most: UInt64, first: UInt64) -> UInt64:
    """The number of bytes before `one`, at most `most`, that equal those before `other`, which is less than `one`.
    Nothing in front of `first` is read."""
    count = _u64(0)
    if other >= first + _WORD:
        differs = _word(one - _WORD) ^ _word(other - _WORD)
        if differs:
            return min(_u64(_leading_zeros(differs)) >> _u64(3), most)
        count = min(_WORD, most)
    while count < most and _byte(one - count - _u64(1)) == _byte(other - count - _u64(1)):
        count += _u64(1)
    return count


@_compiled
def _block(data: UInt64, size: UInt64, out: UInt64, table: np.ndarray) -> UInt64:
    """Write one LZ4 block of the `size` bytes at the address `data`."""
    table[:] = 0
    here = done = misses = _u64(0)
    while here + _LAST_MATCH < size:
        word = _word(data + here)
        key = ((word << _OTHER_BITS) * _HASH) >> _HASH_SHIFT
        there = _u64(table[key])
        table[key] = here
        if there >= here or here - there > _MAX_DISTANCE or (_word(data + there) ^ word) << _OTHER_BITS:
            here += _u64(1) + (misses >> _FEWER_TRIES)
            misses += _u64(1)
            continue
        misses = _u64(0)
        after = here + _MIN_MATCH
        end = after + _equal_bytes(data + after, data + there + _MIN_MATCH, data + size - _LAST_LITERALS)
        before = _equal_before(data + here, data + there, min(here - done, there), data)
        distance = here - there
        here -= before
        beyond = end - here - _u64(4)
        out = _token(out, here - done, beyond)
        out = _copy_words(out, data + done, here - done)
        _set_pair(out, distance)
        out += _u64(2)
        if beyond >= _u64(15):
            out = _length(out, beyond - _u64(15))
        here = done = end
    return _last_literals(out, data + done, size - done)


def _encode_blocks(
    chunks: np.ndarray, out: np.ndarray, sizes: np.ndarray, table: np.ndarray, before: int, after: int
) -> None:
    """Write one block per chunk, one after another.

    Args:
        chunks: (N, nbytes) uint8.
        out: (at least N * (before + `codecs.lz4_block_limit` + after),) uint8.
        sizes: (N,) int64, written: bytes of each block.
        table: working memory, see `make_table`.
        before, after: bytes to leave free in front of each block and behind it.
    """
    data, size, at = _u64(chunks.ctypes.data), _u64(chunks.shape[1]), _u64(out.ctypes.data)
    for index in range(np.uintp(len(chunks))):
        start = at + _u64(before)
        at = _block(data + index * size, size, start, table)
        sizes[index] = at - start
        at += _u64(after)


encode_blocks: Any = numba.njit(
    [
        types.void(
            types.Array(types.uint8, 2, "C", readonly=True), types.Array(types.uint8, 1, "C"),
            types.Array(types.int64, 1, "C"), types.Array(position, 1, "C"), types.int64, types.int64,
        )
        for position in (types.uint16, types.uint32)
    ],
    nogil=True, cache=True,
)(_encode_blocks)  # fmt: skip


def make_table(chunk_bytes: int) -> np.ndarray:
    """Working memory of `encode_blocks` for chunks of this size: the last position of each hash."""
    return np.empty(_TABLE_SIZE, np.uint16 if chunk_bytes <= _SMALL else np.uint32)
