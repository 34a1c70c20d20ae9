"""Draws chips in rows of panels with texts, as one PNG in which a pixel of a chip is a whole square of pixels.

In: `ShownChip`s and the lines of a head. Out: a PIL image. Knows neither stores nor networks. PIL instead of
matplotlib: panels stay sharp, and 48 panels take milliseconds instead of seconds.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from analysis.figure_fonts import font_file
from preprocess.console import one_line

SMALLEST, LARGEST = 96, 256  # sides of a panel in pixels
PAGE_WIDTH = 1560  # of a picture with several blocks in a row
BLOCK_WIDTH, HEAD_WIDTH = 240, 600  # at least, for texts
GAP, MARGIN = 4, 16
SIZE, SMALL = 13, 11  # of texts, in pixels
INK, FAINT, PAPER = (27, 31, 36), (93, 101, 112), (255, 255, 255)
TAG_LINES = 3


@dataclass(frozen=True, kw_only=True)
class Row:
    """Panels side by side: (height, width, 3) uint8 each. `captions`: a text above each panel, or none at all."""

    title: str
    panels: list[np.ndarray]
    captions: tuple[str, ...] = ()

    @property
    def texts_height(self) -> int:
        """Of the title and the captions, in pixels."""
        return (SMALL + 4) * (1 + bool(self.captions))


@dataclass(frozen=True, kw_only=True)
class ShownChip:
    """A chip: two texts and rows of panels."""

    name: str
    tags: str
    rows: tuple[Row, ...]


def draw(chips: list[ShownChip], head: list[str]) -> Image.Image:
    """The picture: the lines of the head, then a block per chip, as many side by side as fit."""
    scaled = [_scaled(chip) for chip in chips]
    panels = scaled[0].rows[0].panels
    width = max(BLOCK_WIDTH, len(panels) * (panels[0].shape[1] + GAP) - GAP)
    columns = max(1, min(len(chips), (PAGE_WIDTH - MARGIN) // (width + MARGIN)))
    page = max(HEAD_WIDTH, MARGIN + columns * (width + MARGIN))
    blocks = [_block(chip, width) for chip in scaled]
    lines = [line for text in head for line in wrapped(text, page - 2 * MARGIN, SIZE)]
    top = MARGIN + len(lines) * (SIZE + 6) + MARGIN
    rows = [blocks[first : first + columns] for first in range(0, len(blocks), columns)]
    heights = [max(block.height for block in row) + MARGIN for row in rows]
    image = Image.new("RGB", (page, top + sum(heights)), PAPER)
    pen = ImageDraw.Draw(image)
    for index, line in enumerate(lines):
        _text(pen, MARGIN, MARGIN + index * (SIZE + 6), line, SIZE, FAINT if index else INK)
    for number, row in enumerate(rows):
        for column, block in enumerate(row):
            image.paste(block, (MARGIN + column * (width + MARGIN), top + sum(heights[:number])))
    return image


def _block(chip: ShownChip, width: int) -> Image.Image:
    """A chip: its name, its tags, and the rows of panels."""
    tags = wrapped(chip.tags, width, SIZE, most=TAG_LINES)
    texts = (SIZE + 4) * (1 + len(tags)) + 4
    heights = [max(panel.shape[0] for panel in row.panels) + row.texts_height + 4 for row in chip.rows]
    image = Image.new("RGB", (width, texts + sum(heights)), PAPER)
    pen = ImageDraw.Draw(image)
    for index, line in enumerate([*wrapped(chip.name, width, SIZE, most=1), *tags]):
        _text(pen, 0, index * (SIZE + 4), line, SIZE, INK if index else FAINT)
    y = texts
    for row, height in zip(chip.rows, heights, strict=True):
        _text(pen, 0, y, wrapped(row.title, width, SMALL, most=1)[0], SMALL, FAINT)
        step = chip.rows[0].panels[0].shape[1] + GAP
        for place, caption in enumerate(row.captions):
            _text(pen, place * step, y + SMALL + 4, wrapped(caption, step - GAP, SMALL, most=1)[0], SMALL, FAINT)
        for place, panel in enumerate(row.panels):
            image.paste(Image.fromarray(panel), (place * step, y + row.texts_height))
        y += height
    return image


def _scaled(chip: ShownChip) -> ShownChip:
    """All panels by one whole factor: enlarged to SMALLEST, or reduced to LARGEST by the mean of squares of pixels."""
    side = max(chip.rows[0].panels[0].shape[:2])
    larger, smaller = max(1, -(-SMALLEST // side)), max(1, -(-side // LARGEST))
    return ShownChip(
        name=chip.name, tags=chip.tags,
        rows=tuple(
            replace(row, panels=[_resized(panel, larger, smaller) for panel in row.panels]) for row in chip.rows
        ),
    )  # fmt: skip


def _resized(panel: np.ndarray, larger: int, smaller: int) -> np.ndarray:
    if smaller > 1:
        height, width = (max(1, side // smaller) for side in panel.shape[:2])
        cut = panel[: height * smaller, : width * smaller].astype(np.float64)
        mean = cut.reshape(height, -1, width, cut.shape[1] // width, 3).mean(axis=(1, 3))
        return np.asarray(np.rint(mean), np.uint8)
    return np.ascontiguousarray(panel.repeat(larger, axis=0).repeat(larger, axis=1))


def wrapped(text: str, width: int, size: int, most: int = 100) -> list[str]:
    """The text in lines that fit into `width` pixels, broken at spaces; what is more than `most` lines ends in dots."""
    lines, line = [], ""
    for word in one_line(text).split(" "):
        longer = f"{line} {word}" if line else word
        if line and _width(longer, size) > width:
            lines.append(line)
            longer = word
        line = longer
    lines.append(line)
    if len(lines) > most:
        lines = [*lines[: most - 1], " ".join(lines[most - 1 :])]
    return [_cut(line, width, size) for line in lines]


def _cut(line: str, width: int, size: int) -> str:
    if _width(line, size) <= width:
        return line
    while line and _width(f"{line}...", size) > width:
        line = line[:-1]
    return f"{line}..."


def _width(text: str, size: int) -> float:
    return _font(text, size).getlength(text)


def _font(text: str, size: int) -> ImageFont.FreeTypeFont:
    return _opened(font_file(text), size)


@functools.cache
def _opened(file: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)


def _text(pen: ImageDraw.ImageDraw, x: int, y: int, text: str, size: int, colour: tuple[int, int, int]) -> None:
    pen.text((x, y), text, font=_font(text, size), fill=colour)
