"""The wording of errors about what a user gave. Imports nothing heavy: worker processes load it."""

import difflib
from collections.abc import Iterable

from preprocess.console import UserError, one_line

_MAX_TEXT = 80  # characters of a value in a message


def did_you_mean(text: str, choices: Iterable[str], name: str = "") -> str:
    """ ". Did you mean EPOCHS?" if a choice is close; with `name`: ". Did you mean ARCH=resnet18?" Else nothing."""
    by_case = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(text[:_MAX_TEXT].lower(), by_case, n=1, cutoff=0.7)
    return f". Did you mean {name}{'=' if name else ''}{by_case[close[0]]}?" if close else ""


def bad(word: str, value: object, expected: str) -> UserError:
    """The error for a value: one line with the setting, the value and what was expected."""
    end = "" if expected.endswith("?") else "."
    return UserError(f"{word}={shown(value)}: expected {expected}{end}")


def shown(value: object) -> str:
    """A value in a message: one line, not too long."""
    if type(value) is int and abs(value) >= 2**64:
        return f"(a number of {value.bit_length()} bits)"
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    text = one_line(str(value))
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}..."
