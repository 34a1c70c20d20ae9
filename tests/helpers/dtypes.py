"""Chips of any dtype for the tests of dtypes."""

from pathlib import Path

import numpy as np
import tifffile
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from helpers.chips import write_csv
from preprocess.layout import Layout


def layout_of(
    values: np.ndarray, codec: str = "lz4", chunk_rows: int | None = None, nodata: str | None = None
) -> Layout:  # fmt: skip
    bands, height, width = values.shape
    return Layout(
        bands=tuple(f"band{index + 1}" for index in range(bands)), height=height, width=width, dtype=values.dtype.name,
        codec=codec, chunk_rows=chunk_rows or height, shard_tiles=4, nodata=nodata,
    )  # fmt: skip


def any_bits(dtype: str) -> st.SearchStrategy[np.ndarray]:
    """Chips of any bits; for float32 this includes every kind of NaN."""
    bits = st_numpy.arrays(f"u{np.dtype(dtype).itemsize}", st.tuples(*(st.integers(1, 9) for _ in range(3))))
    return bits.map(lambda array: array.view(dtype))


def write_one(folder: Path, values: np.ndarray, **how: object) -> Path:
    """A folder of one chip, `c.tif`, with its CSV."""
    folder.mkdir()
    tifffile.imwrite(folder / "c.tif", values, photometric="minisblack", **how)  # type: ignore[arg-type]
    write_csv(folder / "tags.csv", [("c", "a")])
    return folder
