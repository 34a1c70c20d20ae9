"""What is known of each setting: its word, its type, its limits, and the texts that messages and tables need.

In: a pydantic model whose fields are made by `setting`. Out: a `Spec` for each field, and the one-line errors about
names and values. Leaves checking to `settings` and the tables to `settings_table`.
"""

import functools
import inspect
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from preprocess.addresses import Address
from preprocess.console import UserError
from preprocess.messages import bad, did_you_mean, shown


def setting(
    default: Any,
    description: str,
    *,
    word: str = "",
    hint: str = "",
    expected: str = "",
    example: str = "",
    default_text: str = "",
    on_resume: bool = False,
    hidden: bool = False,
    **limits: float,
) -> Any:
    """A field of a `Settings` class.

    Args:
        default: the value where the user gives none; `...` where there must be one.
        description: one or two sentences for the tables of settings.
        word: the name on the command line, if it is not the field's in capital letters.
        hint: what the tables show as its value; by default from its type.
        expected: the end of "NAME=x: expected ..."; by default from its type and limits.
        example: for a setting that must be given: what to write if it is missing.
        default_text: what the tables show as the default; by default the value itself.
        on_resume: a run may be resumed with another value.
        hidden: set by the program only: no word sets it and no table shows it.
        limits: pydantic's `ge`, `gt`, `le`, `lt`.
    """
    extra: dict[str, Any] = {
        "word": word, "hint": hint, "expected": expected, "example": example, "default_text": default_text,
        "on_resume": on_resume, "hidden": hidden,
    }  # fmt: skip
    return Field(default, description=description, json_schema_extra=extra, **typing.cast(Any, limits))


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What is known of one setting: its name as a field and as a word, and all that messages and tables need.

    `kind` is int, float, bool, str or Path; of several values (`is_list`) that of each. `choices` are all its values,
    if they are listed. `takes_address`: a path may also be an address in object storage.
    """

    name: str
    word: str
    kind: type
    is_list: bool
    choices: tuple[Any, ...]
    expected: str
    hint: str
    example: str
    default: Any
    default_text: str
    description: str
    heading: str
    required: bool
    on_resume: bool
    hidden: bool
    takes_address: bool

    def refuse(self, value: object) -> UserError:
        """The error for a value that is not as expected."""
        return bad(self.word, value, self.expected + did_you_mean(str(value), map(str, self.choices), self.word))


@functools.cache
def specs(model: type[BaseModel]) -> dict[str, Spec]:
    """Field name -> what is known of it, in the order of definition."""
    return {name: _spec(model, name, info) for name, info in model.model_fields.items()}


def words_of(model: type[BaseModel]) -> dict[str, Spec]:
    """Word -> setting, of all that a user can set."""
    return {spec.word: spec for spec in specs(model).values() if not spec.hidden}


def unknown(name: str, known: Iterable[str], command: str) -> UserError:
    """The error for a name that is no setting of a command."""
    hint = did_you_mean(name, known) or "."
    return UserError(f"{shown(name)} is not a setting of {command}{hint} `make help COMMAND={command}` lists them.")


def _spec(model: type[BaseModel], name: str, info: FieldInfo) -> Spec:
    kind, is_list, choices = _kind(info.annotation)
    extra: dict[str, Any] = dict(typing.cast(Any, info.json_schema_extra) or {})
    limits = {
        key: getattr(rule, key) for rule in info.metadata for key in ("ge", "gt", "le", "lt") if hasattr(rule, key)
    }
    default = None if info.default is PydanticUndefined else info.default
    return Spec(
        name=name,
        word=extra.get("word") or name.upper(),
        kind=kind,
        is_list=is_list,
        choices=choices,
        expected=extra.get("expected") or _expected(kind, is_list, choices, limits),
        hint=extra.get("hint") or _hint(kind, is_list, choices),
        example=extra.get("example") or "",
        default=default,
        default_text=extra.get("default_text") or ("" if default is None else _value_text(default)),
        description=info.description or "",
        heading=_heading(model, name),
        required=info.is_required(),
        on_resume=bool(extra.get("on_resume")),
        hidden=bool(extra.get("hidden")),
        takes_address=Address in typing.get_args(info.annotation),
    )  # fmt: skip


def _heading(model: type[BaseModel], name: str) -> str:
    """Of the group that defines the field: `model` itself or one of its bases."""
    group = next(base for base in model.__mro__ if name in inspect.get_annotations(base))
    return str(getattr(group, "heading", ""))


def _kind(annotation: Any) -> tuple[type, bool, tuple[Any, ...]]:
    """(type, whether several, choices) of `int`, `Path | None`, `tuple[str, ...]`, `Literal["a", "b"]`."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        (annotation,) = [part for part in inner if part not in (type(None), Address)]
        return _kind(annotation)
    if origin is Literal:
        return type(inner[0]), False, inner
    if origin is tuple:
        return inner[0], True, ()
    return annotation, False, ()


def _expected(kind: type, is_list: bool, choices: tuple[Any, ...], limits: dict[str, float]) -> str:
    if choices:
        names = [str(choice) for choice in choices]
        return f"one of {', '.join(names)}" if len(names) > 2 else " or ".join(names)
    if is_list:
        return f"{'names' if kind is str else 'paths'} with commas between them"
    if kind not in (int, float):
        return {bool: "0 or 1", str: "a text", Path: "a path"}[kind]
    number = "a whole number" if kind is int else "a number"
    low, high = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
    if low is None:
        return number
    first = f" above {_limit(low)}" if "gt" in limits else f" from {_limit(low)}"
    if high is None:
        return number + (first if "gt" in limits else f", {_limit(low)} or more")
    if "lt" in limits:
        return f"{number}{first} to less than {_limit(high)}"
    return f"{number}{first}{', at most' if 'gt' in limits else ' to'} {_limit(high)}"


def _hint(kind: type, is_list: bool, choices: tuple[Any, ...]) -> str:
    if choices:
        return "|".join(map(str, choices))
    if is_list:
        return "a,b,c" if kind is str else "path,path"
    return {bool: "0|1", int: "number", float: "number", str: "text", Path: "path"}[kind]


def _limit(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _value_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:g}" if isinstance(value, float) else shown(value)
