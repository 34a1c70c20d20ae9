"""Chips with nodata, and what numpy computes from them."""

from pathlib import Path

import numpy as np
import tifffile

from helpers.chips import Chips, write_chips

# A dtype and a value of it that marks nodata, as the setting has it.
KINDS = (
    ("uint8", "0"), ("uint16", "65535"), ("int16", "-32768"), ("float32", "nan"), ("float32", "-9999"),
    ("float32", "-3.4028235e+38"),
)  # fmt: skip
EMPTY = 3  # the chip that is all nodata in `write_nodata`
NO_BAND = 5  # the chip whose band 1 is all nodata


def write_nodata(
    folder: Path, dtype: str, nodata: str, *, share: float = 0.05, count: int = 12, bands: int = 4, height: int = 16,
    width: int = 16, empty: bool = True, tag: str | None = None,
) -> Chips:  # fmt: skip
    """Chips with random nodata. With `empty`, one chip and one band hold nothing else. `tag`: GDAL_NODATA of all."""
    chips = write_chips(folder, count=count, bands=bands, height=height, width=width, dtype=dtype)
    values = chips.values
    values[np.random.default_rng(1).random(values.shape) < share] = values.dtype.type(nodata)
    if empty:
        values[EMPTY] = values[NO_BAND, 1] = values.dtype.type(nodata)
    for index in range(count):
        write_chip(folder / f"t_{index}.tif", values[index], tag)
    return chips


def write_chip(path: Path, chip: np.ndarray, tag: str | None = None) -> None:
    extratags = [] if tag is None else [(42113, 2, 0, tag, True)]
    tifffile.imwrite(
        path, np.moveaxis(chip, 0, -1), photometric="rgb" if len(chip) == 3 else "minisblack",
        planarconfig=1 if len(chip) > 1 else None, extratags=extratags,
    )  # fmt: skip


def missing(values: np.ndarray, nodata: str) -> np.ndarray:
    """Which values are nodata."""
    value = values.dtype.type(nodata)
    return (values == value) | ((values != values) & (value != value))


def as_nan(values: np.ndarray, nodata: str) -> np.ndarray:
    """float64 with NaN in the place of nodata, for numpy's nan-functions."""
    return np.where(missing(values, nodata), np.nan, values.astype(np.float64))
