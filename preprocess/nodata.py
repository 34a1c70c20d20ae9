"""NODATA: which pixels hold no measurement.

In: a value as a text (from the setting, or from GDAL_NODATA of a file), and chips. Out: the value's text as a store
keeps it, masks, counts of valid pixels. Nodata is decided per band: a pixel can be valid in one band and nodata in
another. Leaves what a reader does with such pixels to the readers.
"""

import math
from collections.abc import Sequence

import numpy as np

from preprocess.console import one_line

NAN = "nan"


def nodata_text(text: str, dtype: str) -> str | None:
    """The shortest text of the value that `text` has in `dtype`; None if it is no number or the dtype cannot hold it.

    Equal values have equal texts: "0.0" is "0" for uint16. float32 holds the nearest float32, and NaN.
    """
    try:
        value = float(text)
    except ValueError:
        return None
    if np.dtype(dtype).kind != "f":
        limits = np.iinfo(dtype)
        return f"{int(value)}" if value.is_integer() and limits.min <= value <= limits.max else None
    if math.isnan(value):
        return NAN if dtype == "float32" else None
    with np.errstate(over="ignore"):
        nearest = np.float32(value) + np.float32(0)  # -0 becomes 0, which it equals
    return str(nearest).removesuffix(".0") if np.isfinite(nearest) else None


def nodata_value(nodata: str) -> np.float32:
    """The value of a store's nodata. float32 holds the values of every dtype of chips exactly."""
    return np.float32(nodata)


def nodata_mask(values: np.ndarray, nodata: str) -> np.ndarray:
    """Which of `values` (any shape) are nodata."""
    return np.asarray(np.isnan(values) if nodata == NAN else values == values.dtype.type(nodata))


def valid_counts(chip: np.ndarray, nodata: str) -> np.ndarray:
    """(bands,) uint32: pixels of a (bands, height, width) chip that are not nodata."""
    missing = nodata_mask(chip, nodata).sum(axis=(1, 2))
    return np.asarray(chip[0].size - missing, np.uint32)


def nodata_lines(nodata: str, valid: np.ndarray, pixels: int, names: Sequence[str]) -> list[str]:
    """What to say about the nodata of chips.

    Args:
        nodata: the store's text.
        valid: (chips, bands) valid pixels, of `pixels` in each band.
        names: of the chips.
    """
    some, empty = (valid < pixels).any(axis=1), np.flatnonzero(~valid.any(axis=1)).tolist()
    share = 1 - valid.sum(dtype=np.float64) / (valid.size * pixels)
    lines = [f"{nodata}: {100 * share:.3g} % of the values, in {int(some.sum())} of {len(valid)} chips"]
    if len(empty):
        chips = "1 chip holds" if len(empty) == 1 else f"{len(empty)} chips hold"
        first = ", ".join(one_line(str(names[chip])) for chip in empty[:_SHOWN])
        rest = f" and {len(empty) - _SHOWN} more; `make audit` lists all" if len(empty) > _SHOWN else ""
        lines.append(f"{chips} nothing but nodata: {first}{rest}")
    return lines


_SHOWN = 10  # names of chips in a line
