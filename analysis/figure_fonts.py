"""Fonts for characters that the font of the figures lacks, such as Chinese ones, from those that are installed.

In: text. Out: families that have its characters, and the characters that no installed font has. The browser draws the
text of a page with its own fonts, so this concerns the PNG files, and the space that is left for names.
"""

import functools
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import matplotlib
from matplotlib.font_manager import findfont, fontManager
from matplotlib.ft2font import FT2Font

FONT = "DejaVu Sans"  # comes with matplotlib
# Fonts of pictures, which matplotlib cannot draw, and of boxes in the place of all characters.
_NO_TEXT = ("Emoji", "Last Resort")


@contextmanager
def fonts_for(texts: Iterable[str]) -> Iterator[None]:
    """Draw with fonts that have the characters of these texts. Boxes stand for what no font has, without a warning."""
    families, _ = _fallback(frozenset("".join(texts)) - _of_the_figures() - {"\n"})
    with (
        matplotlib.rc_context({"font.family": "sans-serif", "font.sans-serif": [FONT, *families]}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        yield


def without_glyph(text: str) -> frozenset[str]:
    """The characters that no installed font has."""
    missing = frozenset(text) - _of_the_figures() - {"\n"}
    return _fallback(missing)[1]


def font_file(text: str) -> str:
    """The file of a font for this text: the figures' own, or the one that has the most of what that lacks."""
    families, _ = _fallback(frozenset(text) - _of_the_figures() - {"\n"})
    return findfont(families[0] if families else FONT)


@functools.cache
def _of_the_figures() -> frozenset[str]:
    return _characters(findfont(FONT))


def _characters(path: str) -> frozenset[str]:
    return frozenset(map(chr, FT2Font(path).get_charmap()))


@functools.cache
def _fallback(missing: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """(families, the characters that remain): the font that has the most of the characters, and so on."""
    families: list[str] = []
    fonts = dict(_candidates(missing)) if missing else {}
    while missing and (name := max(fonts, key=lambda name: len(fonts[name] & missing), default="")):
        if not fonts[name] & missing:
            break
        families.append(name)
        missing -= fonts[name]
    return tuple(families), missing


def _candidates(missing: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """The names of upright fonts of normal weight, and the characters that each has of these."""
    for entry in sorted(fontManager.ttflist, key=lambda entry: (entry.name, entry.fname)):
        is_plain = entry.style == "normal" and entry.weight in (400, "normal")
        if is_plain and not any(word in entry.name for word in _NO_TEXT) and findfont(entry.name) == entry.fname:
            yield entry.name, missing & _characters(entry.fname)
