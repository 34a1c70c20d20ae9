"""The look of figures, and their files: inline SVG that follows light and dark mode, and PNG for paper and slides.

In: matplotlib figures. Out: SVG text and PNG files. Colours are Okabe and Ito's, which colour-blind readers can tell
apart; line styles, markers and hatches differ in grey, too.
"""

import html
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis.figure_fonts import fonts_for
from analysis.figure_names import break_lines
from analysis.slugs import slug
from preprocess.console import is_plain, one_line
from preprocess.zarr_store import write_atomic

INK, FAINT = "#1b1f24", "#8a9099"  # text; grids and background lines
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
RUN_STYLES: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "hatch": ""},
    {"color": ORANGE, "hatch": "////"},
    {"color": GREEN, "hatch": "...."},
    {"color": PINK, "hatch": "xxxx"},
    {"color": YELLOW, "hatch": "----"},
    {"color": SKY, "hatch": "++++"},
)
WIDTH_IN, PNG_DPI = 5.2, 160
TITLE_COLUMNS_PER_IN = 11
FEW_PANELS = 18  # of more, twice as many are in a row, over the width of the page

matplotlib.rcParams.update(
    {
        "svg.fonttype": "none", "svg.hashsalt": "canopy", "font.family": "sans-serif", "font.size": 10,
        "axes.titlesize": 11, "axes.labelsize": 10, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK,
        "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False,
        "legend.frameon": False, "grid.color": FAINT, "grid.alpha": 0.35, "axes.grid": True, "axes.axisbelow": True,
        "hatch.linewidth": 0.6,
        "text.parse_math": False,  # a `$` in the name of a class or run stays a `$`
    }
)  # fmt: skip


@dataclass(kw_only=True)
class Figures:
    """The figures of a page: `add` writes NAME.png and returns the inline SVG."""

    folder: Path
    names: list[str] = field(default_factory=list)

    def add(self, name: str, figure: Figure) -> str:
        """Write one figure; returns SVG text without a header, drawn in the page's text colour."""
        name = slug(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        _escape(figure)
        png, svg = io.BytesIO(), io.StringIO()
        with fonts_for(_texts(figure)):
            figure.savefig(png, format="png", dpi=PNG_DPI, facecolor="white", metadata={"Software": None})
            figure.set_layout_engine("none")  # what the first drawing found stays: this takes most of the time
            figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        write_atomic(self.folder / f"{name}.png", png.getvalue())
        self.names.append(name)
        text = svg.getvalue()
        text = text[text.index("<svg") :]
        # Two figures of a page must not share ids: the second would use the clip paths of the first.
        text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
        title = re.escape(INK)
        return re.sub(title, "currentColor", text, flags=re.IGNORECASE).replace(
            "<svg ", f'<svg role="img" aria-label="{html.escape(name.replace("_", " "))}" ', 1
        )

    def tidy(self) -> None:
        """Remove PNGs of an earlier page from the folder."""
        for path in self.folder.glob("*.png"):
            if path.stem not in self.names:
                path.unlink()


def _texts(figure: Figure) -> Iterator[str]:
    """All texts of a figure. Those of ticks are set while it is drawn."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        yield text.get_text()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            yield from getattr(axis.get_major_formatter(), "seq", ())


def _escape(figure: Figure) -> None:
    """Replace invisible and control characters in the names of classes and runs by escapes. (`figure_names` has done
    this for ticks.)"""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if not is_plain(text.get_text()):
            text.set_text("\n".join(one_line(line) for line in text.get_text().split("\n")))


def new(title: str, xlabel: str, ylabel: str, *, height: float = 3.4, width: float = WIDTH_IN) -> tuple[Figure, Axes]:
    """A figure with one panel, a title and axis labels."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return figure, axes


def with_names(title: str, xlabel: str, ylabel: str, *, height: float, width: float = WIDTH_IN) -> tuple[Figure, Axes]:
    """The same for names beside the axes: the title is above all of the figure, since long names leave narrow axes."""
    lines = break_lines(one_line(title), round(TITLE_COLUMNS_PER_IN * width))
    figure, axes = new("", xlabel, ylabel, height=height + 0.2 * len(lines), width=width)
    figure.suptitle("\n".join(lines), fontsize=11)
    return figure, axes


def panels(titles: Sequence[str], title: str, xlabel: str, ylabel: str) -> tuple[Figure, list[Axes]]:
    """Small panels, one per title, three or six per row, for values with the same limits. Titles may have some lines.

    Places are computed here, and the axes do not share their limits: matplotlib's layout and shared axes take a time
    that grows with the square of the number of panels.
    """
    columns = 3 if len(titles) <= FEW_PANELS else 6
    rows = math.ceil(len(titles) / columns)
    num_lines = max((text.count("\n") for text in titles), default=0) + 1
    above, panel, below = 0.14 + 0.14 * num_lines, 1.16, 0.1  # inches: title, axes, space
    top, bottom, left, right = 0.4, 0.52, 0.72, 0.1
    height = top + rows * (above + panel + below) + bottom
    width = (WIDTH_IN - left - right + 0.12) / 3
    full_width = left + columns * width - 0.12 + right
    figure = Figure(figsize=(full_width, height))
    grid = []
    for index, text in enumerate(titles):
        row, column = divmod(index, columns)
        x, y = left + column * width, height - top - row * (above + panel + below) - above - panel
        axes = figure.add_axes((x / full_width, y / height, (width - 0.12) / full_width, panel / height))
        axes.set_title(text, fontsize=8.5 if num_lines == 1 else 7.5, pad=3)
        # The lowest panel of a column shows the tick labels.
        axes.tick_params(labelsize=8, labelbottom=index + columns >= len(titles), labelleft=column == 0)
        grid.append(axes)
    figure.suptitle(title, fontsize=11, y=1 - 0.12 / height, va="top")
    figure.supxlabel(xlabel, fontsize=10, y=0.08 / height)
    figure.supylabel(ylabel, fontsize=10, x=0.08 / full_width)
    return figure, grid
