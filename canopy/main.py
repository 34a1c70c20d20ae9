"""`python -m canopy COMMAND NAME=value ...`, and the same commands as `python -m train NAME=value ...` and the like.

In: the words of a command line. Out: an exit code. The words are read and checked first; torch, DALI and Zarr are
loaded after that. `check` stops there, so that it works before they are installed.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from canopy.commands import COMMANDS, TARGETS, Command, find
from canopy.installation import check_installation

ANSWERED = 10  # exit code of `check`: the words are a question that it has answered; there is nothing to run
_HELP = ("help", "-h", "--help")


def main(package: str = "") -> NoReturn:
    """Run the command that the command line names. `package`: only the commands of one package."""
    check_installation()
    from preprocess.console import run

    run(lambda: dispatch(package, sys.argv[1:]))


def dispatch(package: str, words: Sequence[str]) -> int:
    """Run one command; returns its exit code.

    Raises:
        UserError: an unknown command, or words that the command refuses.
    """
    from canopy import help_text
    from preprocess.settings import Answer

    if "--version" in words[:1]:
        print(f"canopy {help_text.version()}")
        return 0
    name, rest = _split(package, words)
    if name in _HELP:
        print(help_text.for_words(rest))
        return 0
    if name == "check" and not package:
        return _check(rest)
    if name == "settings-page" and not package:
        page = Path("docs/settings.md")
        page.write_text(help_text.settings_page(), encoding="utf-8")
        print(f"{page}: written")
        return 0
    command = _known(name, package)
    if any(word in _HELP for word in rest):
        print(help_text.of_command(command))
        return 0
    try:
        settings = command.load_settings().from_words(rest, command.name)
        settings.check()
    except Answer as answer:
        print(answer)
        return 0
    if command.name == "train" and not package:
        from canopy.training import train_and_draw

        return train_and_draw(settings)
    return int(command.load_function()(settings))


def _split(package: str, words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The command's name and its words. `python -m train` and `python -m bench` have a command of their own name."""
    default = package if package in COMMANDS else "help"
    if not words:
        return default, words
    if find(words[0], package) or words[0] in _HELP or not package:
        return words[0], words[1:]
    return (default, words) if default != "help" else (words[0], words[1:])


def _known(name: str, package: str) -> Command:
    from preprocess.console import UserError
    from preprocess.messages import did_you_mean, shown

    command = find(name, package)
    if command is None:
        names = [name for name, command in COMMANDS.items() if package in ("", command.package)]
        hint = did_you_mean(name, names) or "."
        raise UserError(f"{shown(name)} is not a command{hint} There is: {', '.join(names)}.")
    return command


def _check(words: Sequence[str]) -> int:
    """Check a command's words as far as that needs nothing that is installed later: 0, or ANSWERED."""
    from preprocess.settings import Answer, read_words

    name, rest = words[0], words[1:]
    if name in TARGETS:
        read_words(rest, command=name)
        return 0
    try:
        _known(name, "").load_settings().from_words(rest, name).check()
    except Answer as answer:
        print(answer)
        return ANSWERED
    return 0
