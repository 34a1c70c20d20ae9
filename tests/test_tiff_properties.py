"""Any TIFF that tifffile writes is read exactly, whatever the reader has read before."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocess import tiff

LOSSLESS = (None, "lzw", "deflate", "zstd", "packbits", "lzma")


@st.composite
def written(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, Any]]:
    """(bands, height, width) values, and how to write them. The planar configuration is always given."""
    count, height, width = draw(st.integers(1, 6)), draw(st.integers(2, 40)), draw(st.integers(2, 40))
    dtype = draw(st.sampled_from(("uint8", "uint16")))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    values = rng.integers(0, draw(st.sampled_from((2, 256))), (count, height, width)).cumsum(axis=-1).astype(dtype)
    options: dict[str, Any] = {
        "photometric": draw(st.sampled_from(("minisblack", "rgb"))) if count >= 3 else "minisblack",
        "compression": draw(st.sampled_from(LOSSLESS)),
        "byteorder": draw(st.sampled_from("<>")),
        "bigtiff": draw(st.booleans()),
    }
    if count > 1:
        options["planarconfig"] = draw(st.sampled_from(("contig", "separate")))
    if options["compression"] in ("lzw", "deflate", "zstd") and draw(st.booleans()):
        options["predictor"] = True
    if draw(st.booleans()):
        options["tile"] = (16 * draw(st.integers(1, 2)), 16 * draw(st.integers(1, 2)))
    else:
        options["rowsperstrip"] = draw(st.integers(1, height))
    return values, options


def write(path: Path, values: np.ndarray, options: dict[str, Any]) -> None:
    bands_last = options.get("planarconfig") == "contig"
    tifffile.imwrite(
        path, np.moveaxis(values, 0, -1) if bands_last else values if len(values) > 1 else values[0], **options
    )


@settings(max_examples=300)
@given(written(), written())
def test_every_layout_is_read_exactly(
    one: tuple[np.ndarray, dict[str, Any]], other: tuple[np.ndarray, dict[str, Any]]
) -> None:
    """One reader reads two files, then the first again. What it stores about one must not change another."""
    reader = tiff.Reader()
    with tempfile.TemporaryDirectory() as temporary:
        paths = [Path(temporary) / "one.tif", Path(temporary) / "other.tif"]
        for path, (values, options) in zip(paths, (one, other), strict=True):
            write(path, values, options)
        for path, (values, _) in ((paths[0], one), (paths[1], other), (paths[0], one)):
            found = reader.read(path)
            assert found.dtype == values.dtype
            assert found.flags.c_contiguous
            assert np.array_equal(found, values)
