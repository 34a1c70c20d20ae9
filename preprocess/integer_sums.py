"""Exact sums of integer chips, compiled by numba.

In: a chip. Out: the sum and the sum of squares of each band. One pass over the values takes a
twelfth of the time of two dot products in float64, which need a copy first. Leaves nodata and floats to
`band_statistics`.

numba compiles it when this module is imported; later imports read numba's cache. Forked workers inherit the compiled
code.
"""

from typing import Any

import numba
import numpy as np
from numba import types


def _sums(chip: np.ndarray, total: np.ndarray, squares: np.ndarray) -> None:
    """Write the sums of (bands, pixels) values into `total` int64 and `squares` uint64, (bands,) each.

    Neither overflows: a chip has at most 2**30 values, and the largest square is less than 2**32."""
    for band in range(len(chip)):
        values = chip[band]
        added, squared = np.int64(0), np.int64(0)
        for index in range(np.uintp(len(values))):
            value = np.int64(values[index])
            added += value
            squared += value * value
        total[band], squares[band] = added, np.uint64(squared)


_dtypes = (types.uint8, types.uint16, types.int16)
sums: Any = numba.njit(
    [
        types.void(
            types.Array(dtype, 2, "C", readonly=True), types.Array(types.int64, 1, "C"),
            types.Array(types.uint64, 1, "C"),
        )
        for dtype in _dtypes
    ],
    nogil=True, cache=True,
)(_sums)  # fmt: skip
