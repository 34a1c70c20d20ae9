"""Copy values from (rows, columns, bands) to (bands, rows, columns), compiled by numba.

In: decoded pixels, all bands of a pixel side by side, as TIFFs, PNGs and JPEGs have them. Out: one plane per band. For
3 and 4 bands the loops are vectorised: 256 x 256 pixels take 3 to 8 us (uint8, uint16) in place of the 48 to 65 us of
numpy. For other numbers of bands they take two thirds of numpy's time, and a third for 12 bands of 4 bytes.

numba compiles it when this module is imported; later imports read numba's cache. Forked workers inherit the compiled
code. Importing numba takes 0.3 s, so other modules import this one where they use it.
"""

from typing import Any

import numba
import numpy as np
from numba import types

_PIXELS = 64  # of all bands, that are copied band by band: they stay in the inner cache


def _copy(values: np.ndarray, planes: np.ndarray, first: int, step: int) -> None:
    """Write (rows, columns, bands) values to planes (bands, pixels). Row r begins at pixel `first` + r * `step`."""
    rows, columns, bands = values.shape
    num = np.uintp(columns)
    for row in range(rows):
        line, at = values[row].reshape(columns * bands), first + row * step
        if bands == 3:
            red, green, blue = planes[0, at:], planes[1, at:], planes[2, at:]
            for index in range(num):
                pixel = np.uintp(3) * index
                red[index] = line[pixel]
                green[index] = line[pixel + np.uintp(1)]
                blue[index] = line[pixel + np.uintp(2)]
        elif bands == 4:
            red, green, blue, last = planes[0, at:], planes[1, at:], planes[2, at:], planes[3, at:]
            for index in range(num):
                pixel = np.uintp(4) * index
                red[index] = line[pixel]
                green[index] = line[pixel + np.uintp(1)]
                blue[index] = line[pixel + np.uintp(2)]
                last[index] = line[pixel + np.uintp(3)]
        else:
            for start in range(np.uintp(0), num, np.uintp(_PIXELS)):
                for band in range(np.uintp(bands)):
                    plane = planes[band, at:]
                    for index in range(start, min(start + np.uintp(_PIXELS), num)):
                        plane[index] = line[index * np.uintp(bands) + band]


_copy_bits: Any = numba.njit(
    [
        types.void(types.Array(dtype, 3, "C", readonly=True), types.Array(dtype, 2, "C"), types.int64, types.int64)
        for dtype in (types.uint8, types.uint16, types.uint32)
    ],
    nogil=True, cache=True,
)(_copy)  # fmt: skip


def copy_to_planes(values: np.ndarray, planes: np.ndarray, top: int = 0, left: int = 0) -> None:
    """Copy pixels into a chip.

    Args:
        values: (rows, columns, bands) of 1, 2 or 4 bytes per value. It may pass the lower and the right edge of the
            chip: what lies outside is not copied.
        planes: (bands, height, width) of the same dtype, C-contiguous. Written.
        top, left: where the first pixel of `values` lies in the chip.
    """
    height, width = planes.shape[1:]
    inside = np.ascontiguousarray(values[: height - top, : width - left])
    bits = np.dtype(f"u{planes.itemsize}")
    _copy_bits(inside.view(bits), planes.view(bits).reshape(len(planes), -1), top * width + left, width)
