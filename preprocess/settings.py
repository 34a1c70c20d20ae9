"""A setting is defined once, as a field of a `Settings` class, and is given as a word `NAME=value`.

In: words from a command line, or the values of a JSON file. Out: checked settings, or a UserError of one line that
names the setting, its value and what was expected. Leaves the tables that people read to `settings_table`, and what a
setting does to the code that uses it. Imports pydantic and nothing heavy, so that words are checked before anything
else is installed or loaded. Worker processes do not need this module.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from preprocess.addresses import Address, is_url
from preprocess.console import UserError
from preprocess.csv_rows import split_names
from preprocess.messages import bad, shown
from preprocess.setting_specs import Spec, setting, specs, unknown, words_of

__all__ = ["Answer", "Settings", "bad", "read_text", "read_words", "setting", "shown"]

_MAX_DIGITS = 400  # of a number; Python itself refuses to read more than 4,300
_WHOLE = re.compile(r"[-+]?[0-9]+")
_REAL = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")


class Answer(Exception):
    """The words are a question that one line answers, and nothing is left to run."""


class Settings(BaseModel):
    """Base of all settings: immutable, every field checked, unknown names refused.

    Types are strict, since JSON and Python mix them: a bool is no number, "1" is no number, 1.0 is no whole number.
    NaN, infinity, -0.0 and NUL characters are refused everywhere. A subclass may be made of several, which are then the
    groups in which the tables show its fields.

    Raises:
        UserError: on construction; the first field that is wrong.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)
    heading: ClassVar[str] = ""  # of the group in the tables

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            if name in type(self).model_fields:
                _check_exact(specs(type(self))[name], value)
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _refusal(type(self), error.errors(include_url=False)[0]) from None

    @classmethod
    def from_words(cls, words: Sequence[str], command: str) -> Self:
        """Settings of a command from its words; what must be set and is not is asked for.

        Raises:
            UserError: see `read_words`; or a setting is missing or out of its range.
        """
        return cls(**read_words(words, cls, command=command))

    @classmethod
    def shown_models(cls) -> tuple[type["Settings"], ...]:
        """The classes whose settings the tables show."""
        return (cls,)

    def check(self) -> None:
        """Refuse what cannot work, as far as files and folders show it. Nothing heavy is loaded for it.

        Raises:
            UserError: names the setting, and what to do.
        """

    def replace(self, **values: Any) -> Self:
        """The same settings with these values instead, checked again."""
        return type(self)(**{**self.model_dump(), **values})


def read_words(words: Sequence[str], *models: type[Settings], command: str) -> dict[str, Any]:
    """`["BATCH=64"]` -> `{"batch": 64}`: values of the right types, of the settings of one or more models.

    Ranges are checked where the values become `Settings`. Where two models have a word, the first decides its type.

    Args:
        words: as they stand on the command line.
        models: whose settings may be given.
        command: for messages.

    Raises:
        UserError: another form, a name that is not known or given twice, no value, or a value that cannot be read.
    """
    known: dict[str, Spec] = {}
    for model in reversed(models):
        known |= words_of(model)
    values: dict[str, Any] = {}
    for text in words:
        name, equals, value = text.partition("=")
        if not equals or name.startswith("-"):
            raise UserError(f"{shown(text)}: expected NAME=value{_example(name, known)}.")
        if name not in known:
            raise unknown(name, known, command)
        if known[name].name in values:
            raise UserError(f"{name} is given twice. Leave one of them out.")
        if not value:
            raise UserError(f"{name} is given, but empty. Give it a value, or leave it out.")
        values[known[name].name] = read_text(known[name], value)
    return values


def read_text(spec: Spec, text: str) -> Any:
    """A word's value as its field wants it.

    Raises:
        UserError: the text is no such value.
    """
    if spec.choices:
        by_text = {str(choice): choice for choice in spec.choices}
        if text not in by_text:
            raise spec.refuse(text)
        return by_text[text]
    if spec.is_list:
        return tuple(spec.kind(name) for name in split_names(spec.word, text))
    if spec.kind is Path and is_url(text):
        if spec.takes_address:
            return Address(text)
        raise UserError(f"{spec.word}={shown(text)}: expected a path on disk, found an address. Copy it here first.")
    if spec.kind is bool:
        if text not in ("0", "1"):
            raise spec.refuse(text)
        return text == "1"
    if spec.kind in (int, float):
        return _number(spec, text)
    return spec.kind(text)


def _number(spec: Spec, text: str) -> float:
    # Python itself also reads 1_000, spaces around a number, nan, and the digits of other scripts.
    pattern = _WHOLE if spec.kind is int else _REAL
    if len(text) > _MAX_DIGITS or not pattern.fullmatch(text):
        raise spec.refuse(text)
    value: float = spec.kind(text)
    if math.isinf(value):  # 1e400
        raise spec.refuse(text)
    return value


def _example(name: str, known: Mapping[str, Spec]) -> str:
    """ ", such as EPOCHS=number" for --epochs; else with the first setting that there is."""
    word = name.lstrip("-").upper().replace("-", "_")
    spec = known.get(word) or next(iter(known.values()), None)
    return f", such as {spec.example or f'{spec.word}={spec.hint}'}" if spec else ""


def _check_exact(spec: Spec, value: object) -> None:
    """What pydantic's strict types let pass: True for a choice 1, -0.0 for 0, NUL characters."""
    if spec.choices and value is not None and type(value) is not spec.kind:
        raise spec.refuse(value)
    if isinstance(value, float) and value == 0 and math.copysign(1, value) < 0:
        raise spec.refuse(value)
    texts = value if isinstance(value, tuple) else (value,)
    if any("\0" in str(text) for text in texts if isinstance(text, str | Path)):
        raise bad(spec.word, value, "no NUL character")


def _refusal(model: type[Settings], error: ErrorDetails) -> UserError:
    """pydantic's first complaint as one of our lines."""
    name = str(error["loc"][0])
    spec = specs(model).get(name)
    if spec is None:
        return unknown(name, (each.name for each in specs(model).values()), model.__name__)
    if error["type"] == "missing":
        return UserError(f"{spec.word} is not set. Add {spec.example or f'{spec.word}=...'}.")
    if error["type"] == "value_error" and (expected := str(error["ctx"]["error"])):  # from a validator of the field
        return bad(spec.word, error["input"], expected)
    return spec.refuse(error["input"])
