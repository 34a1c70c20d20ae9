"""The settings of a command as people read them: in a terminal, and as a table of docs/settings.md.

In: `Settings` classes. Out: text. Both forms come from the same definitions, which also check the values.
"""

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

from preprocess.setting_specs import Spec, words_of
from preprocess.settings import Settings

WIDTH = 100  # columns of a terminal
_INDENT = 26


def terminal_table(*models: type[Settings]) -> str:
    """`NAME=values   what it does (default: ...)`, in groups, at most 100 columns wide."""
    lines: list[str] = []
    for heading, specs in _groups(models):
        lines += ["", *([heading] if heading else [])]
        for spec in specs:
            lines += _row(f"{spec.word}={spec.hint}", meaning(spec))
    return "\n".join(lines[1:])


def markdown_table(*models: type[Settings]) -> str:
    """The same as a table of Markdown for each group."""
    parts = []
    for heading, specs in _groups(models):
        rows = ["| setting | value | default | meaning |", "|---|---|---|---|"]
        for spec in specs:
            default = "must be set" if spec.required and not spec.default_text else spec.default_text
            cells = (f"`{spec.word}`", _values(spec), _code(spec, default), _with_resume(spec))
            rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        parts.append(f"{f'**{heading}**{chr(10) * 2}' if heading else ''}{chr(10).join(rows)}")
    return "\n\n".join(parts)


def meaning(spec: Spec) -> str:
    """A setting's description with its default."""
    if spec.required and not spec.default_text:
        return f"{_with_resume(spec)} It must be set."
    return f"{_with_resume(spec)} Default: {spec.default_text}." if spec.default_text else _with_resume(spec)


def _with_resume(spec: Spec) -> str:
    return f"{spec.description} You may set it again with RESUME." if spec.on_resume else spec.description


def _values(spec: Spec) -> str:
    """A setting's values in a table, each as code of its own: some readers show an escaped bar within code as it is."""
    return ", ".join(f"`{value}`" for value in spec.hint.split("|"))


def _code(spec: Spec, default: str) -> str:
    """A default in a table: as code where it is a value."""
    return f"`{default}`" if default and " " not in default else default


def _groups(models: Sequence[type[Settings]]) -> Iterator[tuple[str, list[Spec]]]:
    """(heading, settings) of all models; a word that an earlier model has is not shown again."""
    all_specs: dict[str, Spec] = {}
    for model in models:
        all_specs = all_specs | {word: spec for word, spec in words_of(model).items() if word not in all_specs}
    for heading, specs in groupby(all_specs.values(), key=lambda spec: spec.heading):
        yield heading, list(specs)


def _row(name: str, text: str) -> list[str]:
    """`  NAME=values` and the text in a column beside it; below it where the name is long."""
    lines = textwrap.wrap(text, WIDTH - _INDENT, break_long_words=False, break_on_hyphens=False)
    left = f"  {name}"
    if len(left) + 2 > _INDENT:
        return [*_wrapped_choices(left), *(" " * _INDENT + line for line in lines)]
    return [f"{left:<{_INDENT}}{lines[0]}", *(" " * _INDENT + line for line in lines[1:])]


def _wrapped_choices(left: str) -> list[str]:
    """A long `NAME=a|b|c` in several lines, broken behind a bar."""
    lines, rest = [], left
    while len(rest) > WIDTH and "|" in rest[:WIDTH]:
        cut = rest.rindex("|", 0, WIDTH) + 1
        lines.append(rest[:cut])
        rest = " " * (left.index("=") + 1) + rest[cut:]
    return [*lines, rest]
