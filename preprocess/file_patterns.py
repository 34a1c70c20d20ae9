"""The setting FILES: a pattern of paths, such as {name}/{name}_{band}.tif.

In: the text. Out: a `FilePattern`, or what was expected. {name} is the name in the CSV without the ending of a file.
With {band} a chip has a file per band. Imports nothing heavy. Leaves looking for files to `pattern_matching`.
"""

from dataclasses import dataclass
from pathlib import PurePosixPath

from preprocess.console import UserError
from preprocess.suffixes import PICTURES, SUFFIXES

NAME, BAND = "{name}", "{band}"


@dataclass(frozen=True, kw_only=True)
class FilePattern:
    """A checked pattern. `fixed`: folders before the first {name} or {band}; * in them means any folder. `rest`: the
    other parts. `bands`: what {band} stands for; () without {band}."""

    text: str
    fixed: tuple[str, ...]
    rest: tuple[str, ...]
    bands: tuple[str, ...]


def check_pattern(text: str) -> None:
    """Check the form of a pattern.

    Raises:
        ValueError: what was expected.
    """
    parts = PurePosixPath(text).parts
    if text.startswith("/") or ".." in parts or "\\" in text:
        raise ValueError("a path below DATA, with / between folders")
    if NAME not in text or "{" in text.replace(NAME, "").replace(BAND, ""):
        raise ValueError("{name}, and {band} for a file per band, such as {name}/{name}_{band}.tif")
    if not text.lower().endswith((*SUFFIXES, *PICTURES)):
        raise ValueError(f"an ending of {', '.join((*SUFFIXES, *PICTURES))}")
    if "**" in text or any(character in text for character in "?[]"):
        raise ValueError("no wildcard but *, which is one folder")
    if "*" in "/".join(parts[_num_fixed(parts) :]):
        raise ValueError("* only in folders before {name} and {band}")


def read_pattern(text: str, bands: tuple[str, ...] | None) -> FilePattern:
    """The parts of a checked pattern.

    Raises:
        UserError: it has {band}, and `bands` is None.
    """
    if BAND in text and bands is None:
        raise UserError(f"FILES={text}: BANDS is not set. Name what {BAND} stands for, such as BANDS=B02,B03,B04,B08.")
    parts = PurePosixPath(text).parts
    count = _num_fixed(parts)
    words = bands or () if BAND in text else ()
    return FilePattern(text=text, fixed=parts[:count], rest=parts[count:], bands=words)


def _num_fixed(parts: tuple[str, ...]) -> int:
    return next(index for index, part in enumerate(parts) if NAME in part or BAND in part)


def paths_of(path: str, bands: tuple[str, ...]) -> list[str]:
    """The files of a chip."""
    return [path.replace(BAND, band) for band in bands] if bands else [path]
