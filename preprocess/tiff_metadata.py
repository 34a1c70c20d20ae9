"""Metadata of a TIFF: which dimension holds the bands, colours, band names, nodata.

In: a `tiff_header.Header`. Out: `Facts`, and the order of the stored dimensions. Leaves printing to `plan`.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from preprocess.tiff_header import ChipError, Header
from preprocess.tiff_segments import JPEG

AXES = ("YXS", "SYX")  # order of the stored dimensions: Y rows, X columns, S samples (bands)
_THIN = 16  # chips are wider than this; shorter rows in many pages hold bands
_GDAL_METADATA, _GDAL_NODATA, _IMAGEJ = 42112, 42113, 50839
_ADVICE = "Fetch it again, or write it again without its description."


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Metadata of one file.

    is_rgb: the file declares three samples as red, green and blue. is_other_than_rgb: it declares something else; it
    may declare neither. zero_is_white: it declares 0 as white. descriptions: one per band, or none. nodata: as written
    in the file; None without one, or if the dtype cannot hold it. nodata_tag: the text of GDAL_NODATA, None without
    one. order: how the stored dimensions were read, YXS or
    SYX. axes: the same if it was set or guessed, else None. guess: a sentence about the guess, or "".
    """

    is_rgb: bool
    is_other_than_rgb: bool
    zero_is_white: bool
    descriptions: tuple[str, ...]
    nodata: str | None
    nodata_tag: str | None = None
    order: str
    axes: str | None
    guess: str


def order(
    header: Header, path: str | Path, *, axes: str | None, shape: tuple[int, ...] | None, num_bands: int | None
) -> tuple[str, str]:
    """Order of the stored dimensions: ("YXS" or "SYX", a sentence if it was guessed, else "").

    The planar configuration decides. Pages do not: tifffile writes an array (height, width, bands) as one page per row,
    and an array (bands, height, width) as one page per band. For pages, these decide in turn: AXES, the axes in the
    file's description, the expected shape or number of bands, a side too short for a chip.

    Raises:
        ChipError: both orders are possible.
    """
    if header.axes == "YX":
        return "SYX", ""
    declared = "YXS" if header.axes == "YXS" else "SYX"
    if axes is not None:
        return axes, ""
    if header.axes != "PYX":
        return declared, ""
    pages, height, width = header.shape
    chosen = _described_axes(header) or _order_of_pages(header.shape, shape, num_bands)
    if chosen is None:
        raise ChipError(
            path, "an unambiguous order of its dimensions", f"{pages} pages of {height} x {width}",
            f"AXES=SYX reads {pages} bands of {height} x {width}, AXES=YXS reads {width} bands of {pages} x {height}.",
        )  # fmt: skip
    if chosen == "SYX" or shape is not None:
        return chosen, ""
    return "YXS", (
        f"{path}: {pages} pages of {height} x {width} are read as rows of {width} bands of {pages} x {height}. "
        f"AXES=SYX reads {pages} bands of {height} x {width}."
    )


def _order_of_pages(
    stored: tuple[int, ...], shape: tuple[int, ...] | None, num_bands: int | None
) -> str | None:  # fmt: skip
    """ "YXS" or "SYX" of an array stored in pages; None if both are possible."""
    pages, height, width = stored
    if pages == height == width and shape in (None, stored):
        return None
    if shape is not None:
        return "YXS" if tuple(shape) == (width, pages, height) else "SYX"
    if num_bands in (pages, width):
        return None if pages == width else "SYX" if num_bands == pages else "YXS"
    if width >= min(pages, height):
        return "SYX"
    return "YXS" if pages == height or width <= _THIN else None


def check_description(header: Header, path: str | Path) -> None:
    """Raise ChipError if the file's description counts more pages of this size than the file has."""
    page = header.pages[0]
    num_images, claimed = len(header.pages), None
    if (described := _shaped(page)) is not None:
        shape = [int(side) for side in described["shape"]]
        stored = [side for side in page.shape if side > 1]
        sides = [side for side in shape if side > 1]
        if (
            sides[len(sides) - len(stored) :] == stored
        ):  # otherwise it describes a larger image from which this one was cut
            claimed = int(np.prod(sides[: len(sides) - len(stored)], dtype=object))
    elif (text := page.imagej_description) is not None:
        count = re.search(r"^images=(\d{1,9})\s*$", text, re.MULTILINE)
        claimed = int(count[1]) if count else None
    elif page.is_ome:
        pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", page.description)
        sizes = dict(re.findall(r"\bSize([CZT])=[\"'](\d{1,9})[\"']", pixels[0])) if pixels else {}
        claimed = int(np.prod([int(size) for size in sizes.values()], dtype=object)) if sizes else None
        num_images *= page.samplesperpixel
    if claimed is not None and claimed > num_images:
        raise ChipError(path, f"{claimed} images, as its description says", f"{num_images}", _ADVICE)


def facts(header: Header, count: int, *, order: str, axes: str | None, guess: str) -> Facts:
    """Metadata of the file; `count` is its number of bands."""
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
        nodata_tag=_nodata_tag(page),
        order=order,
        axes=order if guess else axes,
        guess=guess,
    )


_RGB_WORDS = (["red", "green", "blue"], ["r", "g", "b"])


def _shaped(page: tifffile.TiffPage) -> dict[str, Any] | None:
    """The description that tifffile writes, with the shape of the array."""
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
    """Names of the bands written by GDAL or ImageJ; () unless every band has one."""
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


def _nodata_tag(page: tifffile.TiffPage) -> str | None:
    text = page.tags.valueof(_GDAL_NODATA)
    return text.strip() if isinstance(text, str) else None


def _nodata(page: tifffile.TiffPage, dtype: np.dtype) -> str | None:
    text = _nodata_tag(page)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    if dtype.kind == "f":
        return f"{value:g}" if np.isfinite(value) else None
    limits = np.iinfo(dtype)
    return f"{int(value)}" if value.is_integer() and limits.min <= value <= limits.max else None
