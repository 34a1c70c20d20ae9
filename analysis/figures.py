"""The look of figures, and their files: inline SVG that follows light and dark mode, and PNG for paper and slides.

In: matplotlib figures. Out: SVG text and PNG files. Colours are Okabe and Ito's, which colour-blind readers can tell
apart; line styles, markers and hatches differ in grey, too.
"""

import html
import io
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

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
PANEL_COLUMNS = 3
MAX_TICK = 36  # characters

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
        figure.savefig(png, format="png", dpi=PNG_DPI, facecolor="white", metadata={"Software": None})
        write_atomic(self.folder / f"{name}.png", png.getvalue())
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
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


def shown(names: Iterable[str]) -> list[str]:
    """Names for tick labels, whose text is set during drawing (`_escape` handles all other text).

    A long name is cut, since matplotlib would leave no width for the axes; tables have it in full.
    """
    lines = [one_line(name) for name in names]
    return [line if len(line) <= MAX_TICK else f"{line[: MAX_TICK - 1]}…" for line in lines]


def _escape(figure: Figure) -> None:
    """Replace invisible and control characters in the names of classes and runs by escapes."""
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


def panels(
    names: Iterable[str], title: str, xlabel: str, ylabel: str, *, row_height: float = 1.55
) -> tuple[Figure, Iterator[tuple[str, Axes]]]:
    """Small panels, one per name in the order of the names, three per row, with shared axes."""
    listed = list(names)
    rows = math.ceil(len(listed) / PANEL_COLUMNS)
    figure = Figure(figsize=(WIDTH_IN, row_height * rows + 0.9), layout="constrained")
    grid = figure.subplots(rows, PANEL_COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
    for index, axes in enumerate(grid):
        if index >= len(listed):
            axes.set_axis_off()
        # If the panel below is switched off, the lowest visible one shows the tick labels.
        axes.tick_params(labelsize=8, labelbottom=index + PANEL_COLUMNS >= len(listed))
    for name, axes in zip(listed, grid, strict=False):
        axes.set_title(name, fontsize=8.5, pad=3)
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(xlabel, fontsize=10)
    figure.supylabel(ylabel, fontsize=10)
    return figure, zip(listed, grid, strict=False)
