"""One self-contained HTML page from sections of text, tables, figures and chips.

In: blocks. Out: HTML without external requests that follows light and dark mode, fits a phone and prints well. Tables
are also written as CSV. Leaves the content to `report` and `audit`.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import markupsafe
import pandas as pd

from analysis.column_names import in_words
from analysis.pictures import ChipImages, data_uri
from analysis.slugs import slug
from analysis.tables import table_bytes
from preprocess.console import one_line
from preprocess.zarr_store import write_atomic

_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True, kw_only=True)
class Note:
    """A paragraph; `kind` is "text", "warn" (to read before trusting a number) or "code"."""

    text: str
    kind: str = "text"


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Numbered sentences."""

    texts: list[str]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure: SVG from `figures.Figures.add`. `wide`: over the width of the page, since it has many small texts."""

    svg: str
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells as text; the first column holds names. `muted` rows are grey; `words`: cells are sentences; `csv`: the
    address of the file with all rows, beside the page. `folded`: shown when a reader opens this title."""

    columns: list[str]
    rows: list[list[str]]
    caption: str = ""
    muted: frozenset[int] = frozenset()
    words: bool = False
    csv: str = ""
    folded: str = ""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One chip: its images as data URIs ("" for none), its name and lines of text. `more`: (data URI, what it shows) of
    further images of the same size."""

    name: str
    colour: str
    nir: str
    lines: list[str]
    more: tuple[tuple[str, str], ...] = ()

    @property
    def num_images(self) -> int:
        """Images side by side."""
        return 1 + bool(self.nir) + len(self.more)


@dataclass(frozen=True, kw_only=True)
class Cards:
    """Chips side by side; each group (such as a pair of duplicates) stays together."""

    title: str
    groups: list[list[Card]]
    side: int


@dataclass(kw_only=True)
class Section:
    """One section of a page."""

    id: str
    title: str
    blocks: list[Note | Lines | Plot | Table | Cards] = field(default_factory=list)

    def note(self, text: str, kind: str = "text") -> None:
        """Add a paragraph."""
        self.blocks.append(Note(text=text, kind=kind))

    def plot(self, svg: str, *captions: str, wide: bool = False) -> None:
        """Add a figure."""
        self.blocks.append(Plot(svg=svg, caption=" ".join(filter(None, captions)), wide=wide))


@dataclass(kw_only=True)
class Tables:
    """The tables of a page: `add` writes NAME.csv in full precision and returns the table for the page."""

    folder: Path
    names: list[str] = field(default_factory=list)

    def add(
        self, name: str, frame: pd.DataFrame, caption: str = "", *, digits: int = 4,
        muted: frozenset[int] = frozenset(), show: int | None = None, words: bool = False,
    ) -> Table:  # fmt: skip
        """Write a table; the page shows the first `show` rows, by default all, with the columns' names in words."""
        name = slug(name)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self.folder / f"{name}.csv", table_bytes(frame))
        self.names.append(name)
        shown = frame if show is None else frame.head(show)
        rest = len(frame) - len(shown)
        return Table(
            columns=[in_words(str(column)) for column in frame.columns],
            rows=[[_cell(value, digits) for value in row] for row in shown.itertuples(index=False, name=None)],
            caption=f"{caption} {f'({rest} more rows)' if rest and len(shown) else ''}".strip(),
            muted=muted, words=words, csv=f"tables/{name}.csv",
        )  # fmt: skip

    def tidy(self) -> None:
        """Remove CSVs of an earlier page from the folder."""
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


def card(name: str, chip: ChipImages | None, lines: list[str], more: tuple[tuple[str, str], ...] = ()) -> Card:
    """A chip's card; without images if `chip` is None."""
    return Card(
        name=name,
        colour=data_uri(chip.colour) if chip else "",
        nir=data_uri(chip.nir) if chip and chip.nir else "",
        lines=lines,
        more=more if chip else (),
    )


def _escape(value: object) -> object:
    """Escape invisible and direction characters in text; line breaks and our own markup stay."""
    if not isinstance(value, str) or isinstance(value, markupsafe.Markup):
        return value
    return "\n".join(one_line(line) for line in value.split("\n"))


def render(path: Path, *, title: str, subtitle: str, facts: list[tuple[str, str]], sections: list[Section]) -> None:
    """Write the page. `facts` are (name, value), shown first in large type."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=_escape,
    )  # fmt: skip
    template = environment.get_template("page.html.j2")
    html = template.render(
        title=title, subtitle=subtitle, facts=facts, sections=sections, kind=lambda block: type(block).__name__
    )
    write_atomic(path, html.encode())
