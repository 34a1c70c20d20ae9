"""Values of decoded chunks -> scaled pixels, bands last: the inner loops of `augment`, written as vector instructions.

In: addresses of the values of up to four bands, in a rectangle of lines. Out: for each pixel (value - mean) * scale of
these bands, float32, at any distance between lines and between pixels: so a transposed or mirrored rectangle is the
same loop with other distances. Eight values of a band are loaded, joined, converted and scaled at once, and go from the
registers to eight pixels; nothing is written in between. The last eight values of a line overlap the ones before if
the width is no multiple of eight. Leaves which rectangle to `augment`.

Loops of numba could not do this: the compiler vectorised each band's loop, and the change to bands last was a second
pass over memory. `as_float` is for the few values that are scaled one at a time. numba's cache does not notice a
change here: give a changed function a new name.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from preprocess.codecs import (
    LZ4_FLOAT32,
    LZ4_INT16,
    LZ4_UINT16,
    NONE_FLOAT32,
    NONE_INT16,
    NONE_UINT8,
    NONE_UINT16,
)

PIXELS = 8  # at once
MOST_BANDS = 4  # at once

_INT32, _INT64 = ir.IntType(32), ir.IntType(64)
_FLOATS = ir.VectorType(ir.FloatType(), PIXELS)
_INT32S = ir.VectorType(_INT32, PIXELS)
_INT16S = ir.VectorType(ir.IntType(16), PIXELS)
_BYTES = ir.VectorType(ir.IntType(8), PIXELS)


def _load(builder: Any, address: Any, kind: Any) -> Any:
    value = builder.load(builder.inttoptr(address, ir.PointerType(kind)))
    value.align = 1  # chunks lie at any byte
    return value


def _join(builder: Any, address: Any, plane: Any, kind: Any, count: int) -> Any:
    """Values of `count` planes of bytes, the lowest byte first, `plane` bytes from one to the next."""
    joined = None
    for byte in range(count):
        bits = builder.zext(_load(builder, address, _BYTES), kind)
        if joined is not None:
            bits = builder.or_(joined, builder.shl(bits, ir.Constant(kind, [8 * byte] * PIXELS)))
        joined, address = bits, builder.add(address, plane)
    return joined


def _from_integers(load: Callable[[Any, Any, Any], Any], *, signed: bool) -> Callable[[Any, Any, Any], Any]:
    def floats(builder: Any, address: Any, plane: Any) -> Any:
        values = load(builder, address, plane)
        wide = (builder.sext if signed else builder.zext)(values, _INT32S)
        return builder.sitofp(wide, _FLOATS)

    return floats


# Kernel kind -> (bytes from one value to the next, how to load eight of them as float32).
_LOADS: dict[int, tuple[int, Callable[[Any, Any, Any], Any]]] = {
    NONE_UINT8: (1, _from_integers(lambda builder, at, _: _load(builder, at, _BYTES), signed=False)),
    NONE_UINT16: (2, _from_integers(lambda builder, at, _: _load(builder, at, _INT16S), signed=False)),
    NONE_INT16: (2, _from_integers(lambda builder, at, _: _load(builder, at, _INT16S), signed=True)),
    NONE_FLOAT32: (4, lambda builder, at, _: _load(builder, at, _FLOATS)),
    LZ4_UINT16: (1, _from_integers(lambda builder, at, plane: _join(builder, at, plane, _INT16S, 2), signed=False)),
    LZ4_INT16: (1, _from_integers(lambda builder, at, plane: _join(builder, at, plane, _INT16S, 2), signed=True)),
    LZ4_FLOAT32: (1, lambda builder, at, plane: builder.bitcast(_join(builder, at, plane, _INT32S, 4), _FLOATS)),
}


def _shuffle(builder: Any, one: Any, other: Any, *places: int) -> Any:
    """Values of two vectors; the places count the values of both."""
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(_INT32, len(places)), places))


def _store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, ir.PointerType(value.type))).align = 4


def _store_pixels(builder: Any, bands: list[Any], target: Any, step: Any) -> None:
    """Value i of each of one to four bands to `target` + i * `step`, side by side."""
    if len(bands) == MOST_BANDS:
        _store_each(builder, bands, target, step)
        return
    # Pixels of these bands alone lie side by side: three stores of eight values, where 3 bands need sixteen of one or
    # two. The others are those of a mirrored line.
    size = 4 * len(bands)
    is_forward, is_backward = (builder.icmp_signed("==", step, ir.Constant(step.type, way * size)) for way in (1, -1))
    with builder.if_else(is_forward) as (forward, other):
        with forward:
            _store_line(builder, bands, target, range(PIXELS))
        with other, builder.if_else(is_backward) as (backward, separate):
            with backward:
                first = builder.sub(target, ir.Constant(target.type, (PIXELS - 1) * size))
                _store_line(builder, bands, first, range(PIXELS - 1, -1, -1))
            with separate:
                _store_each(builder, bands, target, step)


def _store_line(builder: Any, bands: list[Any], target: Any, order: range) -> None:
    """The eight pixels in this order, without a gap."""
    places = [(at, band) for at in order for band in range(len(bands))]
    for start in range(0, len(places), PIXELS):
        part = places[start : start + PIXELS]
        value = bands[0]
        for band in range(len(bands)):
            mask = [at + PIXELS if of == band else place for place, (at, of) in enumerate(part)]
            value = _shuffle(builder, value, bands[band], *mask)
        _store(builder, value, builder.add(target, ir.Constant(target.type, 4 * start)))


def _store_each(builder: Any, bands: list[Any], target: Any, step: Any) -> None:
    rows = [*bands, *bands[-1:] * (MOST_BANDS - len(bands))]
    # Lanes of four values stay where they are, as the instructions want it: 0 is beside 4.
    low = [_shuffle(builder, rows[at], rows[at + 1], 0, 8, 1, 9, 4, 12, 5, 13) for at in (0, 2)]
    high = [_shuffle(builder, rows[at], rows[at + 1], 2, 10, 3, 11, 6, 14, 7, 15) for at in (0, 2)]
    pairs = [
        _shuffle(builder, *half, *places)
        for half in (low, high)
        for places in ((0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15))
    ]
    for pixel in range(PIXELS):
        pair, first = pairs[pixel % 4], pixel // 4 * 4
        if len(bands) == 1:
            _store(builder, builder.extract_element(pair, ir.Constant(_INT32, first)), target)
        elif len(bands) == 4:
            _store(builder, _shuffle(builder, pair, pair, first, first + 1, first + 2, first + 3), target)
        else:
            _store(builder, _shuffle(builder, pair, pair, first, first + 1), target)
        if len(bands) == 3:
            third = builder.extract_element(pair, ir.Constant(_INT32, first + 2))
            _store(builder, third, builder.add(target, ir.Constant(target.type, 8)))
        target = builder.add(target, step)


def _splat(builder: Any, value: Any) -> Any:
    one = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, ir.Constant(_INT32, 0))
    return _shuffle(builder, one, one, *[0] * PIXELS)


def _loops(builder: Any, kind: int, num_bands: int, arguments: list[Any]) -> None:
    sources, first, plane, means, scales, target, step, outer, inner = arguments
    itemsize, load = _LOADS[kind]

    def each(address: Any, value_type: Any) -> list[Any]:
        """The first `num_bands` values at an address."""
        values = builder.inttoptr(address, ir.PointerType(value_type))
        return [builder.load(builder.gep(values, [ir.Constant(_INT32, band)])) for band in range(num_bands)]

    sources = each(sources, _INT64)
    means, scales = ([_splat(builder, value) for value in each(at, ir.FloatType())] for at in (means, scales))

    def turn(index: Any, loop: Any, source: Any, target: Any) -> tuple[Any, Any]:
        """Offset of the source in values, and the address of the target."""
        _, distance, last, source_step, target_step = (builder.extract_value(loop, at) for at in range(5))
        place = builder.mul(index, distance)
        place = builder.select(builder.icmp_signed("<", place, last), place, last)
        return builder.add(source, builder.mul(place, source_step)), builder.add(
            target, builder.mul(place, target_step)
        )

    with cgutils.for_range(builder, builder.extract_value(outer, 0)) as one:
        line, out = turn(one.index, outer, first, target)
        with cgutils.for_range(builder, builder.extract_value(inner, 0)) as other:
            value, pixel = turn(other.index, inner, line, out)
            offset = builder.mul(value, ir.Constant(_INT64, itemsize))
            bands = [
                builder.fmul(builder.fsub(load(builder, builder.add(source, offset), plane), mean), scale)
                for source, mean, scale in zip(sources, means, scales, strict=True)
            ]
            _store_pixels(builder, bands, pixel, step)


def _write_pixels(
    context: Any, kind: Any, num_bands: Any, sources: Any, first: Any, plane: Any, means: Any, scales: Any, target: Any,
    step: Any, outer: Any, inner: Any,
) -> Any:  # fmt: skip
    """Write a rectangle of pixels of 1 to 4 bands.

    Args:
        kind: of the values, see `codecs.Codec.kernel_kinds`; for LZ4_UINT8 give NONE_UINT8.
        num_bands: 1 to 4.
        sources: address of the addresses of each band's values.
        first: the rectangle's first value.
        plane: bytes from one plane of bytes to the next.
        means, scales: addresses of a float32 per band.
        target: address of the first pixel's first value.
        step: bytes from one pixel of a line to the next; negative if mirrored.
        outer, inner: the loops, one over lines and one over every eighth pixel of a line: (turns, places per turn, last
            place, values from place to place in the source, bytes from place to place in the target).
    """
    del context, kind, num_bands, sources, first, plane, means, scales, target, step, outer, inner

    def code(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        kind, num_bands, *arguments = values
        end = builder.append_basic_block("end")
        number = builder.add(builder.mul(kind, ir.Constant(_INT64, MOST_BANDS)), num_bands)
        choice = builder.switch(number, end)
        for loads in _LOADS:
            for bands in range(1, MOST_BANDS + 1):
                block = builder.append_basic_block(f"kind_{loads}_bands_{bands}")
                choice.add_case(ir.Constant(_INT64, loads * MOST_BANDS + bands), block)
                builder.position_at_end(block)
                _loops(builder, loads, bands, arguments)
                builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9, _LOOP, _LOOP), code


def _as_float(context: Any, bits: Any) -> Any:
    """The float32 that has the bits of a uint32."""
    del context, bits

    def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.uint32), code


def _fetch_line(context: Any, address: Any) -> Any:
    """Tell the CPU that the cache line at an address will be read. An address outside of any memory does no harm."""
    del context, address

    def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        pointer, number = ir.PointerType(ir.IntType(8)), ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [pointer], ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        )
        read, keep, data = (ir.Constant(number, value) for value in (0, 3, 1))
        builder.call(function, [builder.inttoptr(arguments[0], pointer), read, keep, data])
        return context.get_dummy_value()

    return types.void(types.int64), code


_LOOP = types.UniTuple(types.int64, 5)  # type: ignore[no-untyped-call]
write_pixels: Any = intrinsic(_write_pixels)
as_float: Any = intrinsic(_as_float)
fetch_line: Any = intrinsic(_fetch_line)
