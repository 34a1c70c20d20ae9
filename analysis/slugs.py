"""Names that users chose (classes, runs) -> names of files and ids in markup."""

import hashlib
import re
from collections.abc import Iterable

MAX_LENGTH = 80  # characters; file systems allow 255 bytes, suffix included


def slug(name: str) -> str:
    """Letters, digits, `_`, `.` and `-` as they are, all else `_`; never empty, no path, no hidden file.

    A name that had to be changed ends in 6 hex digits of its own, so that `a/b` and `a b` stay two files.
    """
    plain = re.sub(r"[^\w.-]", "_", name)[:MAX_LENGTH].lstrip(".")
    if plain == name and name:
        return name
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def listed(tags: Iterable[str]) -> str:
    """A chip's tags in one line, separated by commas where one of them holds a space; "no tag" for none."""
    names = list(tags)
    return (", " if any(" " in name for name in names) else " ").join(names) or "no tag"
