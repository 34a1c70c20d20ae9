"""Names of classes and runs as figures show them: short enough for the axes, different from each other.

In: names. Out: text for ticks and titles. Tables have the names in full. Leaves glyphs to `figure_fonts`.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from analysis.figure_fonts import without_glyph
from preprocess.console import one_line

TICK_COLUMNS = 36  # of a name beside an axis: matplotlib would leave no width for the axes beside longer names
TITLE_COLUMNS, TITLE_LINES = 23, 2  # of a name above a small panel


def shown(names: Iterable[str], columns: int = TICK_COLUMNS) -> list[str]:
    """The names in at most `columns` columns. Longer ones are cut at the end, or in the middle if they would be equal.

    A name with characters that no installed font has gets its number in front, counted from 1: PNG files show boxes in
    the place of such characters.
    """
    lines = [one_line(name) for name in names]
    lines = [f"{number}: {line}" if without_glyph(line) else line for number, line in enumerate(lines, 1)]
    short = [_cut(line, columns, 0) for line in lines]
    for tail in (columns // 2, 0):
        times = Counter(short)
        for index, line in enumerate(lines):
            if times[short[index]] > 1:
                # Names that differ in the middle only get their numbers.
                short[index] = _cut(line if tail else f"{index + 1}: {line}", columns, tail)
    return short


def panel_titles(names: Sequence[str], which: Iterable[int], notes: Iterable[str] | None = None) -> list[str]:
    """Some of the names (by their numbers from 0) as titles of small panels, in lines; each with a note behind it, such
    as its AP."""
    short = shown(names, TITLE_COLUMNS * TITLE_LINES - 8)
    titles = [short[index] for index in which]
    if notes is not None:
        titles = [f"{title} {note}".rstrip() for title, note in zip(titles, notes, strict=True)]
    return ["\n".join(break_lines(title, TITLE_COLUMNS)) for title in titles]


def chosen(names: Sequence[str], which: Iterable[int] | None) -> list[str]:
    """`shown`, of some of the names (by their numbers from 0); None: of all."""
    short = shown(names)
    return short if which is None else [short[index] for index in which]


def cut(name: str) -> str:
    """One name, cut at the end; a name of `shown` stays as it is."""
    return _cut(one_line(name), TICK_COLUMNS, 0)


def are_cut(names: Sequence[str]) -> bool:
    """Whether some of the names are shown without a part of them."""
    return any(short != name for short, name in zip(shown(names), map(one_line, names), strict=True))


def text_width(text: str) -> int:
    """Columns of a text: two for each wide character, such as Chinese ones."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _cut(line: str, columns: int, tail: int) -> str:
    """The line in at most `columns` columns; if it is cut, about `tail` of its last columns stay."""
    if text_width(line) <= columns:
        return line
    end = _head(line[::-1], tail)[::-1]
    return f"{_head(line, columns - 1 - text_width(end))}…{end}"


def _head(line: str, columns: int) -> str:
    """The longest beginning with at most so many columns."""
    end = 0
    for character in line:
        columns -= text_width(character)
        if columns < 0:
            break
        end += 1
    return line[:end]


def break_lines(text: str, columns: int) -> list[str]:
    """The text in lines of at most `columns` columns, broken at spaces where there are some."""
    if text_width(text) <= columns:
        return [text]
    head = _head(text, columns)
    space = (head if text[len(head)] != " " else head + " ").rfind(" ")
    end = space if space > len(head) // 2 else len(head)
    return [text[:end].rstrip(), *break_lines(text[end:].lstrip(), columns)]
