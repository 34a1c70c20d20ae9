"""Decode one strip or tile of a TIFF. Data that is too short or too long is refused, never filled.

In: the bytes and the page. Out: a (rows, columns, samples) array in native byte order. Leaves the header to
`tiff_header`, and joining segments to `tiff`.

tifffile's `TiffPage.asarray` fills missing segments with zeros or the nodata value, and drops data beyond a segment's
size. This file uses the same decoders (imagecodecs), but gives each the exact size that it may write, so that a few
bytes cannot claim gigabytes.
"""

import struct
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import tifffile

from preprocess import jpeg_stream, png_chunks

_deflate, _lzma = imagecodecs.deflate_decode, imagecodecs.lzma_decode
_zstd, _webp = imagecodecs.zstd_decode, imagecodecs.webp_decode
_jpegxl, _jpeg2k = imagecodecs.jpegxl_decode, imagecodecs.jpeg2k_decode

NONE = 1
# Value of the Compression tag -> decoder. Decoders of plain bytes ...
BYTES: dict[int, Callable[..., Any]] = {
    5: imagecodecs.lzw_decode, 8: _deflate, 32946: _deflate, 50013: _deflate, 32773: imagecodecs.packbits_decode,
    34925: _lzma, 50000: _zstd, 34926: _zstd,
}  # fmt: skip
# ... and of images with a size of their own. JPEG XR is missing: its decoder accepts incomplete data.
PICTURES: dict[int, Callable[..., Any]] = {
    34887: imagecodecs.lerc_decode, 34933: imagecodecs.png_decode, 50001: _webp, 34927: _webp, 50002: _jpegxl,
    52546: _jpegxl, 33003: _jpeg2k, 33004: _jpeg2k, 33005: _jpeg2k, 34712: _jpeg2k,
}  # fmt: skip
JPEG = (7, 33007, 34892)


def decode(page: tifffile.TiffPage, data: bytes, index: int, shape: tuple[int, int, int]) -> np.ndarray:
    """Decode segment number `index` of a page.

    Args:
        page: checked by `tiff_header.read_header`.
        data: the segment's bytes.
        index: its number in the page.
        shape: its (rows, columns, samples).

    Raises:
        ValueError or an error of the codec: the data is damaged, incomplete, or has another size.
    """
    if page.compression in JPEG:
        return _jpeg(page, data, index, shape)
    if page.compression in PICTURES:
        return _picture(page, data, shape)
    if page.fillorder == 2:
        data = bytes(imagecodecs.bitorder_decode(data))
    row_bytes = -(-shape[1] * shape[2] * page.bitspersample // 8)
    if page.compression != NONE:
        # One byte more than a segment may have, to notice longer ones.
        data = BYTES[page.compression](data, out=shape[0] * row_bytes + 1)
    if len(data) != shape[0] * row_bytes:
        raise ValueError(f"segment {index} has {len(data)} bytes, expected {shape[0] * row_bytes}")
    return _values(page, data, shape)


def _values(page: tifffile.TiffPage, data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    dtype = np.dtype(page.dtype)
    if page.bitspersample != 8 * dtype.itemsize:
        packed = imagecodecs.packints_decode(data, dtype, page.bitspersample, runlen=shape[1] * shape[2])
        return np.asarray(packed).reshape(shape)
    # The floating-point predictor has its own byte order.
    stored = dtype if page.predictor == 3 else dtype.newbyteorder(page.parent.byteorder)
    values = np.frombuffer(data, stored).reshape(shape)
    if page.predictor == 1:
        return values
    native = values.astype(dtype, copy=False)
    return np.asarray(tifffile.TIFF.UNPREDICTORS[page.predictor](native, axis=-2))


def _picture(page: tifffile.TiffPage, data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    if PICTURES[page.compression] is imagecodecs.png_decode:
        png_chunks.parse(data)
    if PICTURES[page.compression] is _jpeg2k:
        _check_jpeg2k(data, shape)
    out = np.empty(shape if shape[2] > 1 else shape[:2], page.dtype)
    options = {"hasalpha": shape[2] == 4} if PICTURES[page.compression] is _webp else {}
    decoded = PICTURES[page.compression](data, out=out, **options)  # refuses another size before decoding
    return np.asarray(decoded).reshape(shape)


def _check_jpeg2k(data: bytes, shape: tuple[int, int, int]) -> None:
    """Raise ValueError unless the stream has this size: OpenJPEG decodes before it compares the size."""
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0 or at + 24 > len(data):
        raise ValueError("JPEG 2000 data without a size")
    right, bottom, left, top = struct.unpack_from(">4I", data, at + 8)
    if (bottom - top, right - left) != shape[:2]:
        raise ValueError(f"JPEG 2000 data of {bottom - top} x {right - left} pixels, expected {shape[0]} x {shape[1]}")


def _jpeg(page: tifffile.TiffPage, data: bytes, index: int, shape: tuple[int, int, int]) -> np.ndarray:
    stream = jpeg_stream.parse(data)
    if (stream.height, stream.width) != shape[:2]:
        raise ValueError(f"JPEG data of {stream.height} x {stream.width} pixels, expected {shape[0]} x {shape[1]}")
    if stream.is_subsampled and page.photometric != tifffile.PHOTOMETRIC.YCBCR:
        raise ValueError("JPEG data with subsampled colours in a file that is not YCbCr")
    decoded, padded = (page.decode(each, index, jpegtables=page.jpegtables)[0] for each in (data, stream.padded))
    if decoded is None or padded is None or not np.array_equal(decoded, padded):
        raise ValueError("JPEG data that ends too early")
    return np.asarray(decoded).reshape(shape)
