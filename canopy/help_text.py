"""What `make help` and `python -m canopy help` print, and docs/settings.md.

In: the table of commands and their settings. Out: text. The short list needs the standard library only; the settings of
a command need pydantic.
"""

import importlib.metadata
import textwrap
from collections.abc import Sequence

from canopy.commands import COMMANDS, MAKE_VARIABLES, TARGETS, Command, find

WIDTH = 100
_PAGE_HEAD = """\
# Settings

A setting is a word `NAME=value`. `make train TASK=1 BATCH=64` and `python -m canopy train TASK=1 BATCH=64` are the same
command; make installs what is missing first. `make help COMMAND=train` prints the table of a command. A misspelt name
or value is refused before the 7 GB are installed, and before anything is converted or loaded.

**Exit codes.** 0: done. 1: the command ran and found a problem: `verify` found damage, `reproduce` got another result,
`predict` could not use some files, `gpu-check` or `fuzz` found an error, or tasks of CLUSTER failed three times. 2:
refused or failed; one line says why. 75: training was stopped by SIGTERM or SIGUSR1, and a checkpoint was written; its
processes lost each other; or the scheduler or the workers of CLUSTER are lost. 130: Ctrl-C. Through make the exit code
of every failure is 2, because make has exit codes of its own. Make also prints a line `*** [...] Error` after the
program's message. `python -m canopy COMMAND ...` gives the codes of this list and no such line.

This page is generated from the definitions of the settings: `python -m canopy settings-page`.
"""


def version() -> str:
    """The version of the installed project."""
    try:
        return importlib.metadata.version("canopy")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def for_words(words: Sequence[str]) -> str:
    """Help for `help`, `help train` and `help COMMAND=train`."""
    names = [word.removeprefix("COMMAND=") for word in words]
    if not names:
        return overview()
    command = find(names[0])
    if command is None:
        from preprocess.messages import bad, did_you_mean

        if names[0] in TARGETS:
            return f"make {names[0]}: {TARGETS[names[0]]}"
        raise bad("COMMAND", names[0], f"one of {', '.join(COMMANDS)}{did_you_mean(names[0], COMMANDS, 'COMMAND')}")
    return of_command(command)


def overview() -> str:
    """All commands, one line each."""
    lines = [
        "canopy: multi-label classification of multispectral satellite chips",
        "",
        "make COMMAND NAME=value ...               installs what is missing (7 GB), then runs the command",
        "python -m canopy COMMAND NAME=value ...   runs the command; installs nothing",
        "make help COMMAND=train                   all settings of a command",
        "",
        *_rows({f"{name} {command.example}": command.summary for name, command in COMMANDS.items()}, 54),
        "",
        "Through make only:",
        *_rows(TARGETS, 16),
        "",
        "Variables of make:",
        *_rows(MAKE_VARIABLES, 16),
    ]
    return "\n".join(lines)


def of_command(command: Command) -> str:
    """A command's settings."""
    from preprocess.settings_table import terminal_table

    table = terminal_table(*command.load_settings().shown_models())
    usage = f"make {command.name} {command.example}".rstrip()
    return f"{usage}\n{command.summary[0].upper()}{command.summary[1:]}.\n\n{table or 'It has no settings.'}"


def settings_page() -> str:
    """docs/settings.md."""
    from preprocess.settings_table import markdown_table

    parts = [_PAGE_HEAD]
    for command in COMMANDS.values():
        table = markdown_table(*command.load_settings().shown_models())
        usage = f"make {command.name} {command.example}".rstrip()
        text = f"{command.summary[0].upper()}{command.summary[1:]}."
        parts.append(f"## {command.name}\n\n{text}\n\n```\n{usage}\n```\n\n{table or 'It has no settings.'}\n")
    rows = "".join(f"| `{name}` | {text} |\n" for name, text in MAKE_VARIABLES.items())
    parts.append(f"## Variables of make\n\n| variable | meaning |\n|---|---|\n{rows}")
    return "\n".join(parts)


def _rows(texts: dict[str, str], indent: int) -> list[str]:
    """Names, with their texts in a column beside them."""
    lines = []
    for name, text in texts.items():
        first, *rest = textwrap.wrap(text, WIDTH - indent, break_long_words=False, break_on_hyphens=False)
        lines += [f"  {name:<{indent - 2}}{first}", *(" " * indent + line for line in rest)]
    return lines
