"""One page that opens anywhere: sections of text, tables, figures and chips -> self-contained HTML.

In: blocks. Out: HTML that asks for nothing from outside, follows light and dark, fits a phone and prints. Tables are
written as CSV beside it. Leaves what is on the page to `report` and `audit`.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import markupsafe
import pandas as pd

from analysis.pictures import Chip, data_uri
from analysis.slugs import slug
from analysis.tables import table_bytes
from preprocess.console import one_line
from preprocess.zarr_store import write_atomic

_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True, kw_only=True)
class Note:
    """A paragraph; `kind` is "text", "warn" (something to know before believing a number) or "code"."""

    text: str
    kind: str = "text"


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure: SVG from `figures.Figures.add`."""

    svg: str
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells as text, the first column a name; `muted` rows are greyed; `words`: cells are sentences."""

    columns: list[str]
    rows: list[list[str]]
    caption: str = ""
    muted: frozenset[int] = frozenset()
    words: bool = False


@dataclass(frozen=True, kw_only=True)
class Card:
    """One chip: its pictures as data URIs ("" for none), its name and what is said of it."""

    name: str
    colour: str
    nir: str
    lines: list[str]


@dataclass(frozen=True, kw_only=True)
class Cards:
    """Chips side by side; `groups` keeps those together that belong together (pairs of duplicates)."""

    title: str
    groups: list[list[Card]]
    side: int


@dataclass(kw_only=True)
class Section:
    """One part of a page."""

    id: str
    title: str
    blocks: list[Note | Plot | Table | Cards] = field(default_factory=list)

    def note(self, text: str, kind: str = "text") -> None:
        """Add a paragraph."""
        self.blocks.append(Note(text=text, kind=kind))

    def plot(self, svg: str, caption: str = "") -> None:
        """Add a figure."""
        self.blocks.append(Plot(svg=svg, caption=caption))


@dataclass(kw_only=True)
class Tables:
    """Keeps the tables of a page: `add` writes NAME.csv, in full precision, and returns what the page shows."""

    folder: Path
    names: list[str] = field(default_factory=list)

    def add(
        self, name: str, frame: pd.DataFrame, caption: str = "", *, digits: int = 4,
        muted: frozenset[int] = frozenset(), show: int | None = None,
    ) -> Table:  # fmt: skip
        """Write a table; the first `show` rows go on the page."""
        name = slug(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.folder / f"{name}.csv", table_bytes(frame))
        self.names.append(name)
        shown = frame if show is None else frame.head(show)
        rest = len(frame) - len(shown)
        return Table(
            columns=[str(column) for column in frame.columns],
            rows=[[_cell(value, digits) for value in row] for row in shown.itertuples(index=False, name=None)],
            caption=f"{caption} {f'({rest} more rows) ' if rest else ''}tables/{name}.csv".strip(),
            muted=muted,
        )

    def tidy(self) -> None:
        """Remove the CSVs that an earlier page left in the folder."""
        for path in self.folder.glob("*.csv"):
            if path.stem not in self.names:
                path.unlink()


def _cell(value: object, digits: int) -> str:
    if isinstance(value, float):
        if math.isnan(value):
            return "-"
        small = 0 < abs(value) < 10.0 ** (1 - digits)
        return f"{value:.2g}" if small else f"{value:.{digits}f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def card(name: str, chip: Chip | None, lines: list[str]) -> Card:
    """A chip's card; without pictures where there is no chip to show."""
    return Card(
        name=name,
        colour=data_uri(chip.colour) if chip else "",
        nir=data_uri(chip.nir) if chip and chip.nir else "",
        lines=lines,
    )


def _seen(value: object) -> object:
    """Text with invisible and direction characters as escapes, but for the lines of a code block. Markup is our own."""
    if not isinstance(value, str) or isinstance(value, markupsafe.Markup):
        return value
    return "\n".join(one_line(line) for line in value.split("\n"))


def render(path: Path, *, title: str, subtitle: str, facts: list[tuple[str, str]], sections: list[Section]) -> None:
    """Write the page. `facts` are (what, value), shown first and large."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_seen,
    )  # fmt: skip
    template = environment.get_template("page.html.j2")
    html = template.render(
        title=title, subtitle=subtitle, facts=facts, sections=sections, kind=lambda block: type(block).__name__
    )
    write_atomic(path, html.encode())
