"""What a file says of its values beyond the values: which dimension is the bands', colours, band names, nodata.

In: a `tiff_header.Header`. Out: `Facts`, and the order of the stored dimensions. Leaves saying it to `plan`.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from preprocess.tiff_header import ChipError, Header
from preprocess.tiff_segments import JPEG

AXES = ("YXS", "SYX")  # as the dimensions of the stored array are named: rows, columns, samples
_THIN = 16  # chips are wider than this; a shorter row of many pages holds bands
_GDAL_METADATA, _GDAL_NODATA, _IMAGEJ = 42112, 42113, 50839
_ADVICE = "Fetch it again, or write it anew without its description."


@dataclass(frozen=True, kw_only=True)
class Facts:
    """`is_rgb`: three samples that are red, green and blue by the file's own word. `is_other_than_rgb`: something else
    by its own word; a file may say neither. `zero_is_white`: by its own word, too.
    `descriptions`: one per band, or none. `nodata`: as the file spells it, None where it has none or one that the
    dtype cannot hold. `order`: how the stored dimensions were read, YXS or SYX. `axes`: the same where it was set or
    guessed, else None; `guess` says so in a sentence."""

    is_rgb: bool
    is_other_than_rgb: bool
    zero_is_white: bool
    descriptions: tuple[str, ...]
    nodata: str | None
    order: str
    axes: str | None
    guess: str


def order(
    header: Header, path: str | Path, *, axes: str | None, shape: tuple[int, ...] | None, num_bands: int | None
) -> tuple[str, str]:
    """How the dimensions of the stored array are named: ("YXS" or "SYX", a sentence where it was guessed or "").

    A planar configuration decides. Pages do not: tifffile writes an array (height, width, bands) as one page per row,
    and an array (bands, height, width) as one page per band. Then AXES decides, the shape or number of bands that is
    expected, the axes in the file's own description, or a side that no chip has.

    Raises:
        ChipError: either is possible.
    """
    if header.axes == "YX":
        return "SYX", ""
    own = "YXS" if header.axes == "YXS" else "SYX"
    if axes is not None:
        return axes, ""
    if header.axes != "PYX":
        return own, ""
    pages, height, width = header.shape
    as_rows = (width, pages, height)
    chosen: str | None
    if (described := _described_axes(header)) is not None:
        chosen = described
    elif pages == height == width and shape in (None, header.shape):
        chosen = None
    elif shape is not None:
        chosen = "YXS" if tuple(shape) == as_rows else "SYX"
    elif num_bands in (pages, width):
        chosen = None if pages == width else "SYX" if num_bands == pages else "YXS"
    elif width >= min(pages, height):
        chosen = "SYX"
    else:
        chosen = "YXS" if pages == height or width <= _THIN else None
    if chosen is None:
        raise ChipError(
            path, "one way to read its pages", f"{pages} pages of {height} x {width}",
            f"AXES=SYX reads {pages} bands of {height} x {width}, AXES=YXS reads {width} bands of {pages} x {height}.",
        )  # fmt: skip
    if chosen == "SYX" or shape is not None:
        return chosen, ""
    return "YXS", (
        f"{path}: {pages} pages of {height} x {width} are read as the rows of {width} bands of {pages} x {height}. "
        f"AXES=SYX reads {pages} bands of {height} x {width}."
    )


def check_description(header: Header, path: str | Path) -> None:
    """ChipError if a description counts more pages of this size than the file has."""
    page = header.pages[0]
    found, claimed = len(header.pages), None
    if (described := _shaped(page)) is not None:
        shape = [int(side) for side in described["shape"]]
        stored = [side for side in page.shape if side > 1]
        sides = [side for side in shape if side > 1]
        if sides[len(sides) - len(stored) :] == stored:  # else it is left from a picture that was cut out of another
            claimed = int(np.prod(sides[: len(sides) - len(stored)], dtype=object))
    elif (text := page.imagej_description) is not None:
        count = re.search(r"^images=(\d{1,9})\s*$", text, re.MULTILINE)
        claimed = int(count[1]) if count else None
    elif page.is_ome:
        pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", page.description)
        sizes = dict(re.findall(r"\bSize([CZT])=[\"'](\d{1,9})[\"']", pixels[0])) if pixels else {}
        claimed = int(np.prod([int(size) for size in sizes.values()], dtype=object)) if sizes else None
        found *= page.samplesperpixel
    if claimed is not None and claimed > found:
        raise ChipError(path, f"{claimed} images as its own description says", f"{found}", _ADVICE)


def facts(header: Header, count: int, *, order: str, axes: str | None, guess: str) -> Facts:
    """What the file says; `count` is its number of bands."""
    page = header.pages[0]
    descriptions = _descriptions(page, count)
    named = not descriptions or [text.strip().casefold() for text in descriptions] in _RGB_WORDS
    one_page = len(header.pages) == 1 and page.samplesperpixel == 3 and not page.extrasamples
    colours = page.photometric == tifffile.PHOTOMETRIC.RGB or (
        page.photometric == tifffile.PHOTOMETRIC.YCBCR and page.compression in JPEG  # decoded to RGB
    )
    grey = page.photometric in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.MINISWHITE)
    return Facts(
        is_rgb=one_page and colours and named,
        is_other_than_rgb=not (named and (colours or grey)),
        zero_is_white=page.photometric == tifffile.PHOTOMETRIC.MINISWHITE,
        descriptions=descriptions,
        nodata=_nodata(page, header.dtype),
        order=order,
        axes=order if guess else axes,
        guess=guess,
    )


_RGB_WORDS = (["red", "green", "blue"], ["r", "g", "b"])


def _shaped(page: tifffile.TiffPage) -> dict[str, Any] | None:
    """tifffile's own description of the array that was written."""
    if page.shaped_description is None:
        return None
    described = tifffile.tifffile.shaped_description_metadata(page.shaped_description)
    return described if isinstance(described, dict) and isinstance(described.get("shape"), list | tuple) else None


def _described_axes(header: Header) -> str | None:
    described = _shaped(header.pages[0]) or {}
    axes = str(described.get("axes", "")).upper()
    if list(described.get("shape", ())) != list(header.shape) or len(axes) != 3:
        return None
    return {"YX": "YXS", "XY": None}.get(axes[:2], "SYX" if axes[1:] == "YX" else None)


def _descriptions(page: tifffile.TiffPage, count: int) -> tuple[str, ...]:
    """Names of the bands that GDAL or ImageJ wrote; () unless every band has one."""
    xml = page.tags.valueof(_GDAL_METADATA)
    names: dict[int, str] = {}
    if isinstance(xml, str):
        for attributes, text in re.findall(r"<Item\b([^<>]*)>([^<>]*)</Item>", xml):
            sample = re.search(r"\bsample=\"(\d{1,6})\"", attributes)
            if sample and re.search(r"\b(?:role=\"description\"|name=\"DESCRIPTION\")", attributes):
                names[int(sample[1])] = _unescape(text).strip()
    else:
        metadata = page.tags.valueof(_IMAGEJ)
        labels = metadata.get("Labels") if isinstance(metadata, dict) else None
        names = {index: str(label).strip() for index, label in enumerate(labels if isinstance(labels, list) else ())}
    return tuple(names[index] for index in range(count)) if all(names.get(index) for index in range(count)) else ()


def _unescape(text: str) -> str:
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&amp;", "&")):
        text = text.replace(entity, character)
    return text


def _nodata(page: tifffile.TiffPage, dtype: np.dtype) -> str | None:
    text = page.tags.valueof(_GDAL_NODATA)
    if not isinstance(text, str):
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    if dtype.kind == "f":
        return f"{value:g}" if np.isfinite(value) else None
    limits = np.iinfo(dtype)
    return f"{int(value)}" if value.is_integer() and limits.min <= value <= limits.max else None
