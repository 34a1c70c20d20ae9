"""Read and check a TIFF's header before any pixel is decoded.

In: an open `tifffile.TiffFile`. Out: a `Header`: shape, dtype, and the position of each strip or tile, consistent with
each other and with the file's length. Leaves decoding to `tiff_segments`, and the meaning of the bands to
`tiff_metadata`.

tifffile reads what it can: it shortens tables that are too long, fills gaps, follows descriptions that count more
images than the file has, and logs the rest. This file refuses each of these. It reads only pages in the file's own
chain: no other files that a description names, and no sub-images.
"""

import logging
import math
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import tifffile

from preprocess import tiff_segments
from preprocess.tiff_page import STRIPS, TILES, check_page
from preprocess.tiff_page import ChipError as ChipError

MAX_CHIP_BYTES = 128 * 1024 * 1024  # decoded: 4 bands of 4096 x 4096 uint16; with it a conversion stays below 600 MB
MAX_PAGES = MAX_BANDS = 4096
MAX_SIDE = 65536
# Of a raster from which windows are cut. A conversion holds one decoded block at a time, and a table of all blocks.
MAX_RASTER_SIDE, MAX_BLOCKS, MAX_BLOCK_BYTES = 1 << 20, 1 << 20, 64 * 1024 * 1024

# NewSubfileType: a smaller copy or a mask of another page. Neither is a band.
_NO_BAND = 1 | 4


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One strip or tile: `index` in its page, `count` bytes at `offset` in the file.

    Its values belong to `page` (or plane), from row `y` and column `x` on; `shape` is (rows, columns, samples) as
    stored.
    """

    page: int
    plane: int
    index: int
    offset: int
    count: int
    y: int
    x: int
    shape: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Header:
    """A checked header. `axes` names the dimensions of `shape`: YX, YXS (chunky), SYX (planar) or PYX (one page per
    band).

    `block`: offset of the values if they are one contiguous, uncompressed block, else None.
    """

    pages: tuple[tifffile.TiffPage, ...]
    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype
    segments: tuple[Segment, ...]
    block: int | None


class _Complaints(logging.Handler):
    """Collects log lines of tifffile and imagecodecs while this thread reads a header or decodes; other threads are not
    affected. imagecodecs logs libpng's warnings; only those about pixels (IDAT) count."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.of_thread = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        lines = getattr(self.of_thread, "lines", None)
        text = record.getMessage()
        is_harmless = any(each in text for each in _HARMLESS) if record.name == "tifffile" else "IDAT" not in text
        if lines is not None and not is_harmless:
            lines.append(text)


# About metadata without effect on pixels: a nodata value outside the dtype, text in an old encoding, an unknown
# orientation or unit of resolution.
_HARMLESS = ("GDAL_NODATA", "coercing invalid ASCII", "TiffTag 274 ", "TiffTag 296 ")
_complaints = _Complaints()
for _library in ("tifffile", "imagecodecs"):
    logging.getLogger(_library).addHandler(_complaints)


@contextmanager
def complaints_are_errors() -> Iterator[None]:
    """Raise the first warning or error that tifffile or imagecodecs logs in this block, as ValueError at its end."""
    lines = _complaints.of_thread.lines = []
    try:
        yield
    finally:
        _complaints.of_thread.lines = None
    if lines:
        raise ValueError(lines[0])


def read_header(tif: tifffile.TiffFile, path: str | Path, *, is_raster: bool = False) -> Header:
    """Read and check the header. `is_raster`: the file may be larger than a chip; its blocks may not.

    Raises:
        ChipError: the dtype, size or layout is not supported.
        ValueError, struct.error, tifffile.TiffFileError: the file is damaged; the text says how.
    """
    with complaints_are_errors():
        chain = _page_offsets(tif)
        pages = [tif.pages.first]
        for index, offset in enumerate(chain[1:], start=1):
            tif.filehandle.seek(offset)
            pages.append(tifffile.TiffPage(tif, index))
    images = [page for page in pages if not int(page.subfiletype) & _NO_BAND] or pages
    for page in images:
        check_page(page, path)
    axes, shape = _stack(images, path)
    dtype = np.dtype(images[0].dtype)
    (_check_raster if is_raster else _check_chip)(images, shape, dtype, path)
    most = MAX_BLOCK_BYTES if is_raster else MAX_CHIP_BYTES
    segments = tuple(
        segment for number, page in enumerate(images) for segment in _segments(page, number, most, is_raster=is_raster)
    )
    _check_places(tif, pages, segments)
    return Header(
        pages=tuple(images), axes=axes, shape=shape, dtype=dtype, segments=segments, block=_block(images, segments)
    )


def _check_chip(images: list[tifffile.TiffPage], shape: tuple[int, ...], dtype: np.dtype, path: str | Path) -> None:
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes > MAX_CHIP_BYTES or max(shape) > MAX_SIDE or images[0].samplesperpixel > MAX_BANDS:
        raise ChipError(
            path,
            f"a chip of at most {MAX_CHIP_BYTES // 2**20} MiB decoded, sides of {MAX_SIDE} pixels, {MAX_BANDS} bands",
            f"{num_bytes / 2**20:.0f} MiB ({shape} {dtype.name})",
            "WINDOW=256 cuts it into chips. Or fetch it again if it should be smaller.",
        )  # fmt: skip


def _check_raster(images: list[tifffile.TiffPage], shape: tuple[int, ...], dtype: np.dtype, path: str | Path) -> None:
    if max(shape) > MAX_RASTER_SIDE or max(images[0].samplesperpixel, len(images)) > MAX_BANDS:
        expected = f"a raster with sides of at most {MAX_RASTER_SIDE} pixels and {MAX_BANDS} bands"
        raise ChipError(path, expected, f"{shape} {dtype.name}", "Cut it into smaller rasters.")
    page = images[0]
    height, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    decoded = min(height, page.imagelength) * width * samples * dtype.itemsize
    if page.compression != tiff_segments.NONE and decoded > MAX_BLOCK_BYTES:
        kind = "tiles" if page.is_tiled else "strips"
        raise ChipError(
            path, f"compressed {kind} of at most {MAX_BLOCK_BYTES // 2**20} MiB decoded", f"{decoded / 2**20:.0f} MiB",
            "Rewrite it: gdal_translate -co TILED=YES -co COMPRESS=DEFLATE -co BIGTIFF=IF_SAFER in.tif out.tif",
        )  # fmt: skip


def _page_offsets(tif: tifffile.TiffFile) -> list[int]:
    """Offsets of the pages in the file's chain. The chain must end."""
    layout, file = tif.tiff, tif.filehandle
    file.seek(8 if tif.is_bigtiff else 4)
    offsets: dict[int, None] = {}
    while offset := struct.unpack(layout.offsetformat, file.read(layout.offsetsize))[0]:
        if offset in offsets or len(offsets) >= MAX_PAGES:
            raise ValueError(f"a chain of pages that does not end within {MAX_PAGES}")
        if offset + layout.tagnosize > file.size:
            raise ValueError(f"page {len(offsets)} at byte {offset} of {file.size}")
        file.seek(offset)
        count = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))[0]
        file.seek(min(offset + layout.tagnosize + count * layout.tagsize, file.size))
        offsets[offset] = None
    if not offsets:
        raise ValueError("no page")
    return list(offsets)


def _stack(images: list[tifffile.TiffPage], path: str | Path) -> tuple[str, tuple[int, ...]]:
    """Axes and shape of all pages combined."""
    first = images[0]
    if 0 in first.shape or not first.shape:
        raise ValueError(f"an empty image ({first.shape})")
    kinds = {(page.axes, page.shape, page.dtype) for page in images}
    if len(kinds) > 1:
        other = next(
            page for page in images if (page.axes, page.shape, page.dtype) != (first.axes, first.shape, first.dtype)
        )
        pages = f"pages of {first.shape} {first.dtype} and {other.shape} {other.dtype}"
        raise ChipError(path, "one image with one or more bands", pages, _ONE_IMAGE)
    if len(images) == 1:
        return first.axes, first.shape
    if first.axes in ("YXS", "SYX") and first.samplesperpixel > 1:
        pages = f"{len(images)} pages of shape {first.shape} ({first.axes})"
        raise ChipError(path, "one image with one or more bands", pages, _ONE_IMAGE)
    return "PYX", (len(images), first.imagelength, first.imagewidth)


_ONE_IMAGE = "Write each image to its own file."


def _segments(page: tifffile.TiffPage, number: int, most: int, *, is_raster: bool) -> Iterator[Segment]:
    """Position of every segment of a page. Each must exist, be inside the file, and have a supported size."""
    tiled = 322 in page.tags
    codes, others = (TILES, STRIPS) if tiled else (STRIPS, TILES)
    if any(code not in page.tags for code in codes) or any(code in page.tags for code in others):
        raise ValueError(
            f"{'tiles' if tiled else 'strips'} without their tags {codes[0]} and {codes[1]}, or with both kinds"
        )
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    full_rows, columns = (page.tilelength, page.tilewidth) if tiled else (page.rowsperstrip, page.imagewidth)
    if min(full_rows, columns, samples) < 1:
        raise ValueError(f"segments of {full_rows} x {columns} pixels")
    down, across = -(-page.imagelength // full_rows), -(-page.imagewidth // columns)
    num_segments = planes * down * across
    if is_raster and num_segments > MAX_BLOCKS:
        raise ValueError(f"{num_segments} blocks, more than {MAX_BLOCKS}")
    offsets, counts = (_integers(page, code, num_segments) for code in codes)
    row_bytes = -(-columns * samples * page.bitspersample // 8)
    # Rows of a raster without compression are read one by one.
    if (row_bytes if is_raster and page.compression == tiff_segments.NONE else full_rows * row_bytes) > most:
        raise ValueError(f"segments of {full_rows} x {columns} pixels and {full_rows * row_bytes} bytes")
    size = page.parent.filehandle.size
    for index, (offset, count) in enumerate(zip(offsets, counts, strict=True)):
        y, x = index // across % down * full_rows, index % across * columns
        rows = full_rows if tiled else min(full_rows, page.imagelength - y)
        if offset == 0 or count == 0:
            raise ValueError(f"segment {index} of {num_segments} is missing ({count} bytes at byte {offset})")
        if offset < 8 or count < 1 or offset + count > size:
            raise ValueError(f"segment {index} of {count} bytes at byte {offset}, in a file of {size} bytes")
        if page.compression == tiff_segments.NONE and count != rows * row_bytes:
            raise ValueError(f"segment {index} of {count} bytes, expected {rows * row_bytes}")
        yield Segment(
            page=number, plane=index // (down * across), index=index, offset=offset, count=count, y=y, x=x,
            shape=(rows, columns, samples),
        )  # fmt: skip


def _integers(page: tifffile.TiffPage, code: int, num_segments: int) -> list[int]:
    tag = page.tags[code]
    if tag.count != num_segments:
        raise ValueError(f"tag {code} lists {tag.count} segments, expected {num_segments}")
    value = tag.value
    return [int(each) for each in (value if isinstance(value, tuple | np.ndarray) else (value,))]


def _check_places(tif: tifffile.TiffFile, pages: list[tifffile.TiffPage], segments: tuple[Segment, ...]) -> None:
    """Raise ValueError if a byte of the file belongs to two segments, or to a segment and the header."""
    layout = tif.tiff
    used = [(0, 16 if tif.is_bigtiff else 8, "the header")]
    for page in pages:
        entries = sum(1 for _ in page.tags)
        used.append(
            (page.offset, page.offset + layout.tagnosize + entries * layout.tagsize + layout.offsetsize, "the header")
        )
        used += [
            (tag.valueoffset, tag.valueoffset + tag.valuebytecount, f"tag {tag.code}")
            for tag in page.tags
            if tag.valuebytecount > layout.tagoffsetthreshold
        ]
    places = sorted(
        used + [(segment.offset, segment.offset + segment.count, f"segment {segment.index}") for segment in segments]
    )
    end, owner = 0, ""
    for start, stop, name in places:
        if start < end and (name.startswith("segment") or owner.startswith("segment")):
            raise ValueError(f"{owner} and {name} overlap at byte {start}")
        if stop > end:
            end, owner = stop, name


def _block(images: list[tifffile.TiffPage], segments: tuple[Segment, ...]) -> int | None:
    """Offset of the values if they are contiguous and stored as in memory, else None."""
    if not all(_is_plain(page) for page in images):
        return None
    exact = all(one.count == math.prod(one.shape) * np.dtype(images[0].dtype).itemsize for one in segments)
    contiguous = all(one.offset + one.count == two.offset for one, two in pairwise(segments))
    return segments[0].offset if exact and contiguous else None


def _is_plain(page: tifffile.TiffPage) -> bool:
    itembits = 8 * np.dtype(page.dtype).itemsize
    plain = (page.compression, page.predictor, page.fillorder, page.bitspersample) == (
        tiff_segments.NONE,
        1,
        1,
        itembits,
    )
    return plain and (
        322 not in page.tags or (page.tilewidth == page.imagewidth and page.imagelength % page.tilelength == 0)
    )
