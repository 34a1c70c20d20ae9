"""Names that users chose (classes, runs) -> file names and ids in HTML."""

import hashlib
import re
from collections.abc import Iterable

MAX_LENGTH = 80  # characters; file systems allow 255 bytes, suffix included


def slug(name: str) -> str:
    """A safe file name: characters other than letters, digits, `_`, `.` and `-` become `_`; no path, no hidden file.

    A changed name ends in 6 hex digits of its hash, so that `a/b` and `a b` give two files.
    """
    plain = re.sub(r"[^\w.-]", "_", name)[:MAX_LENGTH].lstrip(".")
    if plain == name and name:
        return name
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def listed(tags: Iterable[str]) -> str:
    """A chip's tags in one line, separated by commas if one of them has a space; "no tag" for none."""
    names = list(tags)
    return (", " if any(" " in name for name in names) else " ").join(names) or "no tag"
