"""What a TIFF's header says, checked against itself and the file's length before a pixel is decoded.

In: an open `tifffile.TiffFile`. Out: a `Header`: shape, dtype, and where each strip or block lies. Leaves decoding to
`tiff_segments`, and what the bands mean to `tiff_meaning`.

tifffile reads what it can: it shortens tables that are too long, fills what is missing, follows descriptions that count
more images than the file has, and logs the rest. Here each of these is a refusal. Only pages of the file's own chain
are read: never a description's other files, and no sub-images.
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
from preprocess.console import UserError
from preprocess.layout import DTYPES

MAX_CHIP_BYTES = 128 * 1024 * 1024  # decoded: 4 bands of 4096 x 4096 uint16; a conversion then stays below 600 MB
MAX_PAGES = MAX_BANDS = 4096
MAX_SIDE = 65536

# NewSubfileType: a smaller copy of another page, or a mask of one. Neither is a band.
_NO_BAND = 1 | 4
_WIDTH, _HEIGHT, _SAMPLES, _BITS, _FORMAT = 256, 257, 277, 258, 339
_STRIPS, _CHIPS = (273, 279), (324, 325)
# Tags that decide a pixel: one of each at most.
_DECISIVE = (_WIDTH, _HEIGHT, _BITS, 259, 262, 266, *_STRIPS, _SAMPLES, 278, 284, 317, 322, 323, *_CHIPS, 338, _FORMAT)


class ChipError(UserError):
    """A chip that cannot be used: names the file, what was expected and what was found."""

    def __init__(self, path: str | Path, expected: str, found: str, advice: str = "") -> None:
        super().__init__(f"{path}: expected {expected}, found {found}.{' ' + advice if advice else ''}")
        self._parts = (path, expected, found, advice)

    def __reduce__(self) -> tuple[type, tuple[str | Path, str, str, str]]:
        # Exceptions cross the process boundary by pickling their arguments.
        return type(self), self._parts


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One strip or block: `index` in its page, `count` bytes at `offset` of the file. Its values go to
    `page` (or plane) and from row `y`, column `x` on; `shape` is (rows, columns, samples) as stored."""

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
    """A whole file. `axes` names the dimensions of `shape`: YX, YXS (samples side by side), SYX (planes) or
    PYX (one page per band). `block` is the offset of the values where they lie in one piece, uncompressed."""

    pages: tuple[tifffile.TiffPage, ...]
    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype
    segments: tuple[Segment, ...]
    block: int | None


class _Complaints(logging.Handler):
    """Keeps what tifffile logs while this thread reads a header or decodes; other threads' and other uses' is not
    touched."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.of_thread = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        kept = getattr(self.of_thread, "lines", None)
        if kept is not None and not any(text in record.getMessage() for text in _HARMLESS):
            kept.append(record.getMessage())


# About metadata that decides no pixel: a nodata value outside the dtype, text in an old encoding, an unknown
# orientation or unit of resolution.
_HARMLESS = ("GDAL_NODATA", "coercing invalid ASCII", "TiffTag 274 ", "TiffTag 296 ")
_complaints = _Complaints()
logging.getLogger("tifffile").addHandler(_complaints)


@contextmanager
def complaints_are_errors() -> Iterator[None]:
    """What tifffile logs as a warning or an error in this block is raised, as ValueError, at its end."""
    lines = _complaints.of_thread.lines = []
    try:
        yield
    finally:
        _complaints.of_thread.lines = None
    if lines:
        raise ValueError(lines[0])


def read_header(tif: tifffile.TiffFile, path: str | Path) -> Header:
    """Check all that the header says.

    Raises:
        ChipError: a dtype, size or layout that is not read.
        ValueError, struct.error, tifffile.TiffFileError: damaged, as the text says.
    """
    with complaints_are_errors():
        chain = _page_offsets(tif)
        pages = [tif.pages.first]
        for index, offset in enumerate(chain[1:], start=1):
            tif.filehandle.seek(offset)
            pages.append(tifffile.TiffPage(tif, index))
    images = [page for page in pages if not int(page.subfiletype) & _NO_BAND] or pages
    for page in images:
        _check_page(page, path)
    axes, shape = _stack(images, path)
    dtype = np.dtype(images[0].dtype)
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes > MAX_CHIP_BYTES or max(shape) > MAX_SIDE or images[0].samplesperpixel > MAX_BANDS:
        raise ChipError(
            path,
            f"a chip of at most {MAX_CHIP_BYTES // 2**20} MiB decoded, sides of {MAX_SIDE} pixels, {MAX_BANDS} bands",
            f"{num_bytes / 2**20:.0f} MiB ({shape} {dtype.name})",
            "Cut it into chips (gdal_retile.py -ps 256 256), or fetch it again if it should be smaller.",
        )  # fmt: skip
    segments = tuple(part for number, page in enumerate(images) for part in _segments(page, number))
    _check_places(tif, pages, segments)
    return Header(
        pages=tuple(images), axes=axes, shape=shape, dtype=dtype, segments=segments, block=_block(images, segments)
    )


def _page_offsets(tif: tifffile.TiffFile) -> list[int]:
    """Offsets of the pages in the file's chain, which must end."""
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


# Colours of a photometric interpretation; extra samples come on top. (L*a*b* may be L* alone.)
_COLOURS = {2: ("RGB", 3), 5: ("SEPARATED", 4), 6: ("YCBCR", 3)}


def _check_page(page: tifffile.TiffPage, path: str | Path) -> None:
    twice = [code for code in _DECISIVE if len(page.tags.getall(code) or ()) > 1]
    missing = [code for code in (_WIDTH, _HEIGHT) if code not in page.tags]
    if twice or missing:
        raise ValueError(f"tag {(twice or missing)[0]} is {'there twice' if twice else 'missing'}")
    codes = [tag.code for tag in page.tags]
    if codes != sorted(codes):  # against the specification: one has another code than it was written with
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
    if page.dtype is None or page.dtype.name not in DTYPES:
        found = (
            page.dtype.name if page.dtype is not None else f"{page.bitspersample} bits of format {page.sampleformat}"
        )
        expected = f"{', '.join(DTYPES[:-1])} or {DTYPES[-1]} values"
        target = "Float32" if page.dtype is not None and page.dtype.kind == "f" else "UInt16"
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
            path, "values", "a palette: its values are places in a table of colours",
            "Expand it: gdal_translate -expand rgb in.tif out.tif",
        )  # fmt: skip
    colour_space, colours = _COLOURS.get(page.photometric, ("", 1))
    if page.samplesperpixel < colours:
        raise ValueError(f"{page.samplesperpixel} samples per pixel of {colours} colours ({colour_space})")
    if page.imagedepth != 1 or page.planarconfig not in (1, 2) or page.fillorder not in (1, 2):
        raise ValueError(
            f"depth {page.imagedepth}, planar configuration {page.planarconfig} or fill order {page.fillorder}"
        )
    known = (tiff_segments.NONE, *tiff_segments.BYTES, *tiff_segments.PICTURES, *tiff_segments.JPEG)
    if page.compression not in known:
        name = getattr(page.compression, "name", page.compression)
        raise ChipError(path, "a compression whose damage is noticed", f"{name}",
                        "Rewrite it: gdal_translate -co COMPRESS=DEFLATE in.tif out.tif")  # fmt: skip
    predictors = (1, 2, 3) if page.dtype.kind == "f" else (1, 2) if bits == itembits else (1,)
    if page.predictor not in predictors:
        raise ValueError(f"predictor {page.predictor} with {bits}-bit {page.dtype.name} values")
    if page.compression not in tiff_segments.JPEG and page.is_subsampled:
        raise ValueError("subsampled colours without JPEG")
    if page.compression in tiff_segments.JPEG and page.fillorder == 2:
        raise ValueError("fill order 2 with JPEG")


def _stack(images: list[tifffile.TiffPage], path: str | Path) -> tuple[str, tuple[int, ...]]:
    """Axes and shape of all pages together."""
    first = images[0]
    if 0 in first.shape or not first.shape:
        raise ValueError(f"an empty image ({first.shape})")
    kinds = {(page.axes, page.shape, page.dtype) for page in images}
    if len(kinds) > 1:
        other = next(
            page for page in images if (page.axes, page.shape, page.dtype) != (first.axes, first.shape, first.dtype)
        )
        found = f"pages of {first.shape} {first.dtype} and {other.shape} {other.dtype}"
        raise ChipError(path, "one image of one or more bands", found, _ONE_IMAGE)
    if len(images) == 1:
        return first.axes, first.shape
    if first.axes in ("YXS", "SYX") and first.samplesperpixel > 1:
        found = f"{len(images)} pages of shape {first.shape} ({first.axes})"
        raise ChipError(path, "one image of one or more bands", found, _ONE_IMAGE)
    return "PYX", (len(images), first.imagelength, first.imagewidth)


_ONE_IMAGE = "Write each image to a file of its own."


def _segments(page: tifffile.TiffPage, number: int) -> Iterator[Segment]:
    """Where every segment of a page lies; each must be there, within the file, and of a size that is read."""
    tiled = 322 in page.tags
    codes, others = (_CHIPS, _STRIPS) if tiled else (_STRIPS, _CHIPS)
    if any(code not in page.tags for code in codes) or any(code in page.tags for code in others):
        raise ValueError(
            f"{'blocks' if tiled else 'strips'} without their tags {codes[0]} and {codes[1]}, or with both kinds"
        )
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    full_rows, columns = (page.tilelength, page.tilewidth) if tiled else (page.rowsperstrip, page.imagewidth)
    if min(full_rows, columns, samples) < 1:
        raise ValueError(f"segments of {full_rows} x {columns} pixels")
    down, across = -(-page.imagelength // full_rows), -(-page.imagewidth // columns)
    wanted = planes * down * across
    offsets, counts = (_integers(page, code, wanted) for code in codes)
    row_bytes = -(-columns * samples * page.bitspersample // 8)
    if full_rows * row_bytes > MAX_CHIP_BYTES:
        raise ValueError(f"segments of {full_rows} x {columns} pixels and {full_rows * row_bytes} bytes")
    size = page.parent.filehandle.size
    for index, (offset, count) in enumerate(zip(offsets, counts, strict=True)):
        y, x = index // across % down * full_rows, index % across * columns
        rows = full_rows if tiled else min(full_rows, page.imagelength - y)
        if offset == 0 or count == 0:
            raise ValueError(f"segment {index} of {wanted} is missing ({count} bytes at byte {offset})")
        if offset < 8 or count < 1 or offset + count > size:
            raise ValueError(f"segment {index} of {count} bytes at byte {offset}, in a file of {size} bytes")
        if page.compression == tiff_segments.NONE and count != rows * row_bytes:
            raise ValueError(f"segment {index} of {count} bytes, expected {rows * row_bytes}")
        yield Segment(
            page=number, plane=index // (down * across), index=index, offset=offset, count=count, y=y, x=x,
            shape=(rows, columns, samples),
        )  # fmt: skip


def _integers(page: tifffile.TiffPage, code: int, wanted: int) -> list[int]:
    tag = page.tags[code]
    if tag.count != wanted:
        raise ValueError(f"tag {code} lists {tag.count} segments, expected {wanted}")
    value = tag.value
    return [int(each) for each in (value if isinstance(value, tuple | np.ndarray) else (value,))]


def _check_places(tif: tifffile.TiffFile, pages: list[tifffile.TiffPage], segments: tuple[Segment, ...]) -> None:
    """No byte of the file is used twice: by two segments, or by one and the header."""
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
    places = sorted(used + [(part.offset, part.offset + part.count, f"segment {part.index}") for part in segments])
    end, owner = 0, ""
    for start, stop, name in places:
        if start < end and (name.startswith("segment") or owner.startswith("segment")):
            raise ValueError(f"{owner} and {name} in the same place, at byte {start}")
        if stop > end:
            end, owner = stop, name


def _block(images: list[tifffile.TiffPage], segments: tuple[Segment, ...]) -> int | None:
    """Where all values begin, if they lie in one piece as in memory."""
    if not all(_is_plain(page) for page in images):
        return None
    exact = all(part.count == math.prod(part.shape) * np.dtype(images[0].dtype).itemsize for part in segments)
    together = all(one.offset + one.count == two.offset for one, two in pairwise(segments))
    return segments[0].offset if exact and together else None


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
