"""Two operations that numba lacks, for the compiled kernels: bits as a float, and the transpose of 4 x 4 values.

Out: `as_float` and `transpose_4x4`, which become part of the code that calls them. numba's cache does not notice a
change here: give a changed one a new name. Leaves the loops to `augment`.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def _as_float(context: Any, bits: Any) -> Any:
    """The float32 that has the bits of a uint32."""
    del context, bits

    def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.uint32), code


def _transpose(context: Any, source: Any, source_step: Any, target: Any, target_step: Any) -> Any:
    """Copy 4 x 4 values of 4 bytes so that rows become columns.

    `source`, `target`: addresses, which need not be aligned. `source_step`, `target_step`: bytes from one row of four
    values to the next.
    """
    del context, source, source_step, target, target_step
    # As integers: moving a float may change the bits of a NaN.
    row_type = ir.VectorType(ir.IntType(32), 4)

    def code(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        source, source_step, target, target_step = arguments

        def pick(one: Any, other: Any, *places: int) -> Any:
            return builder.shuffle_vector(one, other, ir.Constant(row_type, places))

        rows = []
        for _ in range(4):
            row = builder.load(builder.inttoptr(source, ir.PointerType(row_type)))
            row.align = 4
            rows.append(row)
            source = builder.add(source, source_step)
        # The places count the values of both rows: 4 is the first of the second row.
        low = [pick(one, other, 0, 4, 1, 5) for one, other in (rows[:2], rows[2:])]
        high = [pick(one, other, 2, 6, 3, 7) for one, other in (rows[:2], rows[2:])]
        for half in (low, high):
            for places in ((0, 1, 4, 5), (2, 3, 6, 7)):
                column = builder.store(pick(*half, *places), builder.inttoptr(target, ir.PointerType(row_type)))
                column.align = 4
                target = builder.add(target, target_step)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), code


as_float: Any = intrinsic(_as_float)
transpose_4x4: Any = intrinsic(_transpose)
