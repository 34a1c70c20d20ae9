"""Check the tags of one TIFF page against each other.

In: a `tifffile.TiffPage`. Out: nothing, or an error. Leaves the positions of segments to `tiff_header`.
"""

from pathlib import Path

import numpy as np
import tifffile

from preprocess import tiff_segments
from preprocess.console import UserError
from preprocess.layout import DTYPES

_WIDTH, _HEIGHT, _SAMPLES, _BITS, _FORMAT = 256, 257, 277, 258, 339
_PACKBITS = 32773  # a compression
STRIPS, TILES = (273, 279), (324, 325)
# Tags that decide pixel values: at most one of each.
_DECISIVE = (_WIDTH, _HEIGHT, _BITS, 259, 262, 266, *STRIPS, _SAMPLES, 278, 284, 317, 322, 323, *TILES, 338, _FORMAT)


class ChipError(UserError):
    """A chip cannot be used. The text has the file, the expected and the found property, and advice."""

    def __init__(self, path: str | Path, expected: str, found: str, advice: str = "") -> None:
        super().__init__(f"{path}: expected {expected}, found {found}.{' ' + advice if advice else ''}")
        self._arguments = (path, expected, found, advice)

    def __reduce__(self) -> tuple[type, tuple[str | Path, str, str, str]]:
        # multiprocessing pickles an exception with its arguments.
        return type(self), self._arguments


# Number of colours per photometric interpretation, without extra samples. (L*a*b* may be L* alone.)
_COLOURS = {2: ("RGB", 3), 5: ("SEPARATED", 4), 6: ("YCBCR", 3)}


def check_page(page: tifffile.TiffPage, path: str | Path) -> None:
    """Check that the tags of a page are complete, consistent and supported.

    Raises:
        ChipError: the dtype, colours or compression are not supported.
        ValueError: the page is damaged; the text says how.
    """
    twice = [code for code in _DECISIVE if len(page.tags.getall(code) or ()) > 1]
    missing = [code for code in (_WIDTH, _HEIGHT) if code not in page.tags]
    if twice or missing:
        raise ValueError(f"tag {(twice or missing)[0]} is {'there twice' if twice else 'missing'}")
    codes = [tag.code for tag in page.tags]
    if codes != sorted(codes):  # against the specification: the code of one tag was changed
        raise ValueError("tags that are not in ascending order")
    sizes = (
        page.imagewidth,
        page.imagelength,
        page.samplesperpixel,
        page.rowsperstrip,
        page.tilewidth,
        page.tilelength,
    )
    if any(not isinstance(size, int) or size < 0 for size in sizes):
        raise ValueError(f"sizes {sizes}")
    _check_samples(page, path)
    _check_coding(page, path)


def _check_samples(page: tifffile.TiffPage, path: str | Path) -> None:
    """Dtype, bits and colours."""
    if page.dtype is None or page.dtype.name not in DTYPES:
        found = (
            page.dtype.name if page.dtype is not None else f"{page.bitspersample} bits of format {page.sampleformat}"
        )
        expected = f"{', '.join(DTYPES[:-1])} or {DTYPES[-1]} values"
        target = {"f": "Float32", "i": "Int16"}.get("" if page.dtype is None else page.dtype.kind, "UInt16")
        advice = f"Convert it, with -scale where values do not fit: gdal_translate -ot {target} in.tif out.tif"
        raise ChipError(path, expected, found, advice)
    bits, itembits = page.bitspersample, 8 * page.dtype.itemsize
    if not isinstance(bits, int) or (bits != itembits and page.dtype.kind != "u"):
        raise ValueError(f"bits per sample {bits}")
    for code in (_BITS, _FORMAT):
        if code in page.tags and page.tags[code].count not in (1, page.samplesperpixel):
            raise ValueError(f"tag {code} for {page.tags[code].count} samples of {page.samplesperpixel}")
    formats = page.tags.valueof(_FORMAT)
    if isinstance(formats, tuple) and len(set(formats)) > 1:
        raise ValueError(f"sample formats {formats}")
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        raise ChipError(
            path, "values", "a palette, whose values are indices into a table of colours",
            "Expand it: gdal_translate -expand rgb in.tif out.tif",
        )  # fmt: skip
    colour_space, colours = _COLOURS.get(page.photometric, ("", 1))
    if page.samplesperpixel < colours:
        raise ValueError(f"{page.samplesperpixel} samples per pixel of {colours} colours ({colour_space})")


def _check_coding(page: tifffile.TiffPage, path: str | Path) -> None:
    """Layout and compression."""
    dtype = np.dtype(page.dtype)
    bits, itembits = page.bitspersample, 8 * dtype.itemsize
    if page.imagedepth != 1 or page.planarconfig not in (1, 2) or page.fillorder not in (1, 2):
        raise ValueError(
            f"depth {page.imagedepth}, planar configuration {page.planarconfig} or fill order {page.fillorder}"
        )
    known = (tiff_segments.NONE, *tiff_segments.BYTES, *tiff_segments.PICTURES, *tiff_segments.JPEG)
    if page.compression not in known:
        name = getattr(page.compression, "name", page.compression)
        raise ChipError(path, "a compression in which damage is detected", f"{name}",
                        "Rewrite it: gdal_translate -co COMPRESS=DEFLATE in.tif out.tif")  # fmt: skip
    if page.predictor != 1 and page.compression in (tiff_segments.NONE, _PACKBITS):
        # libtiff and GDAL ignore the tag there, tifffile uses it.
        name = getattr(page.compression, "name", page.compression)
        raise ChipError(path, "a predictor only with LZW, deflate, LZMA or ZSTD compression", f"one with {name}",
                        "Readers differ on such files. Rewrite it: gdal_translate -co COMPRESS=DEFLATE in.tif "
                        "out.tif")  # fmt: skip
    predictors = (1, 2, 3) if dtype.kind == "f" else (1, 2) if bits == itembits else (1,)
    if page.predictor not in predictors:
        raise ValueError(f"predictor {page.predictor} with {bits}-bit {dtype.name} values")
    if page.compression not in tiff_segments.JPEG and page.is_subsampled:
        raise ValueError("subsampled colours without JPEG")
    if page.compression in tiff_segments.JPEG and page.fillorder == 2:
        raise ValueError("fill order 2 with JPEG")
