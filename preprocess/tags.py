"""Split a field into tags, and detect tags that were written in another form than the settings say.

In: a field, or all different tags of a file. Out: the tags of a field; for a suspicious tag the reason and the setting
that reads it. Leaves rows and columns to `labels`.
"""

import ast
import json
import re
import shlex
import unicodedata
from collections.abc import Callable, Collection, Mapping

from preprocess.console import is_plain
from preprocess.table import Field

SEPARATORS = {"space": " ", " ": " ", ",": ",", ";": ";", "|": "|"}  # TAGS_SEPARATOR -> the character
MARKS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}  # of one-hot columns
_STRONGEST = ("|", ";", ",")  # a tag may hold a comma when tags are separated by semicolons, not the reverse
_NO_VALUE = {"nan", "-nan", "none", "null", "nil", "na", "n/a", "#n/a", "<na>", "nat"}  # as other programs write it
_JOINERS = {"and", "or", "of", "with", "by", "the", "in"}  # parts of a class's name, never a class
_OPENING = "[({'\""

# A Python string in single quotes, or a JSON string in double quotes (also valid Python if nothing is escaped).
_QUOTED = r"""'(?:[^'\\]|\\['"\\]|\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4})*'|"(?:[^"\\]|\\["\\/]|\\u[0-9a-fA-F]{4})*\""""
_ITEMS = re.compile(rf"(?:\s*(?:{_QUOTED})\s*,)*\s*(?:(?:{_QUOTED})\s*)?")


def field_tags(field: Field, form: str, separator: str) -> list[str] | None:
    """The tags of a field in the form "tags", "list" or "long"; None if the field does not follow the form."""
    if isinstance(field, tuple):
        tags = [tag.strip(" ") for tag in field]
        return tags if (form == "list" or not tags) and all(tags) else None  # [] says "no tag" in any form
    if form == "list":
        return list_tags(field)
    if form == "long":
        return [tag] if (tag := field.strip(" ")) else []
    return split_tags(field, separator)


def unexpected(field: Field, form: str, separator: str) -> str:
    """What was expected in place of a field for which `field_tags` gives None."""
    if form == "list":
        found = list(field) if isinstance(field, tuple) else field
        return f"""expected a JSON or Python list of texts, found {found!r}. For example: ["clear", "road"]"""
    if form == "long":
        return f"expected one tag, found the list {list(field)}. Leave LABELS_FORMAT=long out."
    advice = "Write a list in every row." if separator == " " else "Leave TAGS_SEPARATOR out."
    return f"expected a text with tags, found the list {list(field)}. {advice}"


def split_tags(field: str, separator: str) -> list[str]:
    """The tags of a field, without surrounding spaces; empty ones are skipped."""
    return [tag for piece in field.split(separator) if (tag := piece.strip(" "))]


def list_tags(field: str) -> list[str] | None:
    """The tags of a JSON or Python list of texts; an empty field has none. None: the field is not such a list."""
    field = field.strip()
    if not field:
        return []
    inside = field[1:-1]
    if field[0] + field[-1] not in ("[]", "()", "{}") or len(field) < 2 or not _ITEMS.fullmatch(inside):
        return None
    try:
        tags = [
            str(json.loads(token) if token[0] == '"' else ast.literal_eval(token)).strip(" ")
            for token in re.findall(_QUOTED, inside)
        ]
    except ValueError:  # a control character within quotes
        return None
    return tags if all(tags) else None


def odd_tag(tags: Mapping[str, str], known: Collection[str], form: str, separator: str) -> tuple[str, str] | None:
    """(place, reason) of a tag that looks misread; None if no tag does.

    Args:
        tags: each different tag with the place where it is first, such as "line 2".
        known: classes given by the user; these are accepted, whatever they look like.
        form: LABELS_FORMAT, or "folders".
        separator: the character between tags; only used with the format "tags".
    """
    unknown = {tag: place for tag, place in tags.items() if tag not in known}
    return (
        _first(unknown, _invisible)
        or (_first(unknown, _list_piece) if form in ("tags", "list", "long") else None)
        or _odd_separator(tags, unknown, form, separator)
        or _first(unknown, lambda tag: _no_class(tag, joiners=form == "tags" and separator == " "))
        or (_marks_only(tags, unknown) if form in ("tags", "list", "long") else None)
        or _same_but_for_case(tags, unknown)
    )


def _first(unknown: Mapping[str, str], reason_of: Callable[[str], str]) -> tuple[str, str] | None:
    """(place, reason) of the first tag with a reason."""
    return next(((place, reason) for tag, place in unknown.items() if (reason := reason_of(tag))), None)


def _invisible(tag: str) -> str:
    return "" if is_plain(tag) else f"the tag {tag!r} has a control or invisible character. Remove it."


def _list_piece(tag: str) -> str:
    if tag[0] not in _OPENING:
        return ""
    return f"the tag {tag!r} looks like part of a list. LABELS_FORMAT=list reads JSON and Python lists."


def _no_class(tag: str, *, joiners: bool) -> str:
    """The reason why a tag is probably not a class. `joiners`: words such as "and" count as parts of a class's name."""
    if tag.casefold() in _NO_VALUE:
        advice = "Leave the field of a chip without tags empty; if it is a class, list all classes in CLASSES=..."
        return f"the tag {tag!r} looks like a missing value. {advice}"
    if not any(character.isalnum() for character in tag) or (joiners and tag.casefold() in _JOINERS):
        advice = "TAGS_SEPARATOR=, (or ';' or '|') reads classes with spaces; LABELS_FORMAT=long reads one tag per row."
        return f"the tag {tag!r} looks like part of a class's name. {advice}"
    return ""


def _marks_only(tags: Mapping[str, str], unknown: Mapping[str, str]) -> tuple[str, str] | None:
    if not unknown or not {tag.casefold() for tag in tags} <= MARKS.keys():
        return None
    tag, place = next(iter(unknown.items()))
    return place, f"the tag {tag!r} looks like a mark for yes or no. LABELS_FORMAT=onehot reads one column per class."


def _odd_separator(
    tags: Mapping[str, str], unknown: Mapping[str, str], form: str, separator: str
) -> tuple[str, str] | None:
    if form not in ("tags", "long"):
        return None  # each tag is separate
    # A weaker separator than the one set may be part of a class's name; in the long format any may.
    stronger = _STRONGEST[: _STRONGEST.index(separator)] if separator in _STRONGEST else _STRONGEST
    for other in stronger if form == "tags" else ():
        for tag, place in unknown.items():
            if other in tag:
                advice = (
                    f"TAGS_SEPARATOR={shlex.quote(other)} splits it; if it is one class, list all classes in "
                    "CLASSES=..."
                )
                return place, f"the tag {tag!r} looks like several tags with {other!r} between them. {advice}"
    for other in (*_STRONGEST, " "):
        for tag, place in unknown.items():
            if other in tag and _holds_a_tag(tag, other, tags):
                advice = "Use one separator in all rows; if it is one class, list all classes in CLASSES=..."
                return place, f"the tag {tag!r} looks like several tags with {other!r} between them. {advice}"
    return None


def _holds_a_tag(tag: str, separator: str, tags: Mapping[str, str]) -> bool:
    """Whether a tag consists of other tags with a separator between them.

    "inland water" may exist beside "water", so for spaces every piece must be a tag.
    """
    pieces = [piece in tags for piece in split_tags(tag, separator) if piece != tag]
    return bool(pieces) and (all(pieces) if separator == " " else any(pieces))


def _same_but_for_case(tags: Mapping[str, str], unknown: Mapping[str, str]) -> tuple[str, str] | None:
    seen: dict[str, str] = {}
    for tag, place in tags.items():
        other = seen.setdefault(unicodedata.normalize("NFKC", tag.casefold()), tag)
        if other != tag and (tag in unknown or other in unknown):
            return place, (
                f"the tags {tag!r} and {other!r} ({tags[other]}) differ only in case or Unicode form. "
                "Write them in the same way; if both are classes, list all classes in CLASSES=..."
            )
    return None
