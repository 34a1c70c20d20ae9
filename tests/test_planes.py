"""Pixels with all bands side by side become planes: `planes.copy_to_planes`, against numpy."""

import numpy as np
import pytest

from preprocess.planes import copy_to_planes

DTYPES = ("uint8", "uint16", "int16", "float32")


def pixels(rows: int, columns: int, bands: int, dtype: str) -> np.ndarray:
    """Random bits, NaN with any payload included."""
    size = np.dtype(dtype).itemsize
    return np.random.default_rng(bands).integers(0, 256, (rows, columns, bands * size), np.uint8).view(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 13])
def test_each_band_becomes_a_plane(dtype: str, bands: int) -> None:
    values = pixels(7, 131, bands, dtype)
    planes = np.empty((bands, 7, 131), dtype)
    copy_to_planes(values, planes)
    assert planes.tobytes() == np.ascontiguousarray(np.moveaxis(values, -1, 0)).tobytes()


@pytest.mark.parametrize("bands", [1, 3, 4, 6])
def test_tiles_that_pass_the_edges_fill_the_chip_and_nothing_else(bands: int) -> None:
    whole = pixels(32, 48, bands, "uint16")
    planes = np.full((bands, 20, 40), 7, np.uint16)
    for top in (0, 16):
        for left in (0, 16, 32):
            copy_to_planes(whole[top : top + 16, left : left + 16], planes, top, left)
    assert (planes == np.moveaxis(whole[:20, :40], -1, 0)).all()


def test_values_that_cannot_be_written_are_copied() -> None:
    values = pixels(4, 5, 3, "uint8")
    values.flags.writeable = False
    planes = np.empty((3, 4, 5), np.uint8)
    copy_to_planes(values, planes)
    assert (planes == np.moveaxis(values, -1, 0)).all()
