"""The text of a CSV's tags -> tags, and what shows that the text follows another convention than the one set.

In: a field, or all different tags of a file. Out: a field's tags; the reason why one of the tags looks wrong, with the
setting that reads it. Leaves rows and columns to `labels`.
"""

import ast
import json
import re
import shlex
import unicodedata
from collections.abc import Collection, Mapping

from preprocess.console import is_plain

SEPARATORS = {"space": " ", " ": " ", ",": ",", ";": ";", "|": "|"}  # TAGS_SEPARATOR -> the character
MARKS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}  # of one-hot columns
_STRONGEST = ("|", ";", ",")  # a tag may hold a comma when tags are separated by semicolons, not the reverse
_NO_VALUE = {"nan", "-nan", "none", "null", "nil", "na", "n/a", "#n/a", "<na>", "nat"}  # as other programs write it
_JOINERS = {"and", "or", "of", "with", "by", "the", "in"}  # words of a class's name, never a class
_OPENING = "[({'\""

# Python's text in single quotes, or JSON's in double ones, which is Python's too where there is nothing to escape.
_QUOTED = r"""'(?:[^'\\]|\\['"\\]|\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4})*'|"(?:[^"\\]|\\["\\/]|\\u[0-9a-fA-F]{4})*\""""
_ITEMS = re.compile(rf"(?:\s*(?:{_QUOTED})\s*,)*\s*(?:(?:{_QUOTED})\s*)?")


def split_tags(field: str, separator: str) -> list[str]:
    """The tags of a field, without the spaces around them; empty ones are left out."""
    return [tag for part in field.split(separator) if (tag := part.strip(" "))]


def list_tags(field: str) -> list[str] | None:
    """The tags of a JSON or Python list of texts; an empty field has none. None: it is no such list."""
    field = field.strip()
    if not field:
        return []
    inside = field[1:-1]
    if field[0] + field[-1] not in ("[]", "()", "{}") or len(field) < 2 or not _ITEMS.fullmatch(inside):
        return None
    try:
        found = [
            str(json.loads(token) if token[0] == '"' else ast.literal_eval(token)).strip(" ")
            for token in re.findall(_QUOTED, inside)
        ]
    except ValueError:  # a control character within quotes
        return None
    return found if all(found) else None


def odd_tag(tags: Mapping[str, int], known: Collection[str], form: str, separator: str) -> tuple[int, str] | None:
    """(line, reason) of a tag that looks as if it was meant otherwise; None if all tags are plain.

    Args:
        tags: each different tag, and the line where it stands first.
        known: classes that the user named: they are what they are, whatever they look like.
        form: LABELS_FORMAT.
        separator: the character between tags; used with the format "tags" only.
    """
    unknown = {tag: line for tag, line in tags.items() if tag not in known}
    for tag, line in unknown.items():
        if not is_plain(tag):
            return line, f"the tag {tag!r} holds a control or invisible character. Remove it."
    if form != "onehot":
        for tag, line in unknown.items():
            if tag[0] in _OPENING:
                return (
                    line,
                    f"the tag {tag!r} looks like a part of a list. LABELS_FORMAT=list reads JSON and Python lists.",
                )
    if found := _odd_separator(tags, unknown, form, separator):
        return found
    for tag, line in unknown.items():
        if tag.casefold() in _NO_VALUE:
            advice = "Leave the field of a chip without tags empty; if it is a class, name all in CLASSES=..."
            return line, f"the tag {tag!r} looks like a missing value. {advice}"
        if not any(character.isalnum() for character in tag) or (
            form == "tags" and separator == " " and tag.casefold() in _JOINERS
        ):
            advice = "TAGS_SEPARATOR=, (or ';' or '|') reads classes with spaces, LABELS_FORMAT=long one tag per row."
            return line, f"the tag {tag!r} looks like a part of a class's name. {advice}"
    if unknown and form != "onehot" and {tag.casefold() for tag in tags} <= MARKS.keys():
        tag, line = next(iter(unknown.items()))
        return (
            line,
            f"the tag {tag!r} looks like a mark for yes or no. LABELS_FORMAT=onehot reads one column per class.",
        )
    return _same_but_for_case(tags, unknown)


def _odd_separator(
    tags: Mapping[str, int], unknown: Mapping[str, int], form: str, separator: str
) -> tuple[int, str] | None:
    if form in ("list", "onehot"):
        return None  # each tag stands by itself
    # A weaker character than the one set may be part of a class's name, any may be in the long format.
    stronger = _STRONGEST[: _STRONGEST.index(separator)] if separator in _STRONGEST else _STRONGEST
    for other in stronger if form == "tags" else ():
        for tag, line in unknown.items():
            if other in tag:
                advice = (
                    f"TAGS_SEPARATOR={shlex.quote(other)} reads them so; if it is one class, name all in CLASSES=..."
                )
                return line, f"the tag {tag!r} looks like several with {other!r} between them. {advice}"
    for other in (*_STRONGEST, " "):
        for tag, line in unknown.items():
            if other in tag and _holds_a_tag(tag, other, tags):
                advice = "Use one separator in all rows; if it is one class, name all in CLASSES=..."
                return line, f"the tag {tag!r} looks like several with {other!r} between them. {advice}"
    return None


def _holds_a_tag(tag: str, separator: str, tags: Mapping[str, int]) -> bool:
    """Whether a tag is others with a separator between them. "inland water" may stand beside "water": for spaces,
    every piece must be a tag."""
    pieces = [piece in tags for piece in split_tags(tag, separator) if piece != tag]
    return bool(pieces) and (all(pieces) if separator == " " else any(pieces))


def _same_but_for_case(tags: Mapping[str, int], unknown: Mapping[str, int]) -> tuple[int, str] | None:
    seen: dict[str, str] = {}
    for tag, line in tags.items():
        other = seen.setdefault(unicodedata.normalize("NFKC", tag.casefold()), tag)
        if other != tag and (tag in unknown or other in unknown):
            return line, (
                f"the tags {tag!r} and {other!r} (line {tags[other]}) differ in case or Unicode form only. "
                "Write them alike; if both are classes, name all in CLASSES=..."
            )
    return None
