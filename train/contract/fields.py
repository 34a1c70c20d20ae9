"""JSON text -> checked values: strict syntax, types from annotations, ranges.

In: a file's bytes or a JSON value, and the dataclass that it should fill. Out: an instance, or a UserError that names
the file, the field, what was expected and what was found. Leaves the fields of each file to `record`, `results`,
`metrics`, `checkpoint` and `verdict`. Needs neither torch nor zarr. Why this is not pydantic: docs/log.md.
"""

import dataclasses
import functools
import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from preprocess.console import UserError
from preprocess.files import open_regular
from train.config import Config, config_from

T = TypeVar("T")
LARGEST_JSON = 256 * 2**20  # bytes; 100,000 epochs of 100 classes are below it
_LARGEST_INT = 2**63


@dataclass(frozen=True)
class Rule:
    """A condition on a value, in words and as a function, for use in `Annotated[int, Rule(...)]`."""

    words: str
    holds: Callable[[Any], bool]


def matches(pattern: str, words: str) -> Rule:
    """A text that matches the whole pattern."""
    return Rule(words, lambda value: re.fullmatch(pattern, value) is not None)


def one_of(*choices: object) -> Rule:
    """One of these values."""
    return Rule(f"one of {', '.join(map(str, choices))}", lambda value: value in choices)


Sha256 = Annotated[str, matches("[0-9a-f]{64}", "64 hexadecimal digits")]
Count = Annotated[int, Rule("a whole number, 0 or more", lambda value: value >= 0)]
Positive = Annotated[int, Rule("a whole number, 1 or more", lambda value: value >= 1)]
NonNegative = Annotated[float, Rule("a number, 0 or more", lambda value: value >= 0)]
# scikit-learn's AP of a class that is ranked perfectly is a sum that can round up to 1 + 2**-52.
Share = Annotated[float, Rule("a number from 0 to 1", lambda value: 0 <= value <= 1 + 2**-40)]


def read_bytes(path: Path, limit: int = LARGEST_JSON) -> bytes:
    """The bytes of a regular file.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is not a regular file, is larger than `limit` bytes, or cannot be read.
    """
    try:
        with open_regular(path) as file:
            data = file.read(limit + 1)
            while len(data) <= limit and (more := file.read(limit + 1 - len(data))):
                data += more
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(str(path)) from error
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error
    if len(data) > limit:
        raise UserError(f"{path}: expected at most {limit:,} bytes, found more.")
    return data


def parse(text: bytes | str, where: str, *, nan_as_null: bool = False) -> Any:
    """Read JSON strictly: UTF-8, no NaN, no number outside float64 or 64 bits, no key twice.

    Args:
        text: the JSON.
        where: the name of the file, for the error.
        nan_as_null: read Python's NaN and infinities as null instead of refusing them.

    Raises:
        UserError: the text is not such JSON; the message starts with `where`.
    """
    try:
        decoded = text.decode() if isinstance(text, bytes) else text
        return json.loads(
            decoded, object_pairs_hook=_object, parse_constant=_null if nan_as_null else _constant, parse_float=_float,
            parse_int=_int,
        )  # fmt: skip
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UserError(f"{where}: cannot be read, expected JSON ({reason}).") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return values


def _null(text: str) -> None:
    """For NaN, Infinity and -Infinity."""


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _int(text: str) -> int:
    if len(text) > 20 or not -_LARGEST_INT <= (value := int(text)) < _LARGEST_INT:
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def canonical(value: Any) -> bytes:
    """The same text for the same JSON value, independent of spaces and of the order of keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(value: Any) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(canonical(value)).hexdigest()


def sealed(values: dict[str, Any]) -> dict[str, Any]:
    """The values, and under `sha256` a digest of each field."""
    fields = {name: value for name, value in values.items() if name != "sha256"}
    return fields | {"sha256": {name: digest(value)[:16] for name, value in fields.items()}}


def check_seal(values: dict[str, Any], where: str) -> None:
    """UserError if fields changed since they were sealed; names them."""
    digests = sealed(values)["sha256"]
    written = values.get("sha256")
    if not isinstance(written, dict):
        raise UserError(f"{where}: expected the field sha256 with a digest of each field, found {shown(written)}.")
    if altered := sorted(name for name in digests.keys() | written.keys() if digests.get(name) != written.get(name)):
        raise UserError(
            f"{where}: {', '.join(altered)[:160]} changed since the run wrote it. Restore the file from a copy, or "
            "train again."
        )


def decode(kind: Any, value: Any, where: str, field: str = "") -> Any:
    """Check that a JSON value is of a kind, and return it as that.

    Args:
        kind: int, float, bool, str, X | None, tuple, dict, `Config`, `Annotated` or a dataclass of these.
        value: the JSON value.
        where: the name of the file, for the error.
        field: the name of the field, for the error; "" for the whole file.

    Raises:
        UserError: the value is of another kind or breaks a rule.
    """
    if typing.get_origin(kind) is Annotated:
        inner, *rules = typing.get_args(kind)
        result = decode(inner, value, where, field)
        for rule in rules:
            if not rule.holds(result):
                raise bad_field(where, field, rule.words, value)
        return result
    if kind is Config:
        return _config(value, where, field)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _instance(typing.cast(Any, kind), value, where, field)
    return _plain(kind, value, where, field)


def _plain(kind: Any, value: Any, where: str, field: str) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        (other,) = [member for member in inner if member is not type(None)]
        return None if value is None else decode(other, value, where, field)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise bad_field(where, field, "a list", value)
        kinds = (inner[0],) * len(value) if inner[-1] is Ellipsis else inner
        if len(kinds) != len(value):
            raise bad_field(where, field, f"a list of {len(kinds)}", value)
        return tuple(
            decode(k, item, where, f"{field}[{i}]") for i, (k, item) in enumerate(zip(kinds, value, strict=True))
        )
    if origin is dict:
        if not isinstance(value, dict):
            raise bad_field(where, field, "an object", value)
        return {name: decode(inner[1], item, where, f"{field}.{name}") for name, item in value.items()}
    if kind is float:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise bad_field(where, field, "a finite number", value)
        return float(value)
    if type(value) is not kind:
        raise bad_field(where, field, {int: "a whole number", str: "a text", bool: "true or false"}[kind], value)
    return value


def _config(value: Any, where: str, field: str) -> Config:
    if not isinstance(value, dict):
        raise bad_field(where, field, "an object", value)
    try:
        return config_from(value)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


@functools.cache
def _annotations(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _instance(kind: type[T], value: Any, where: str, field: str) -> T:
    """A dataclass from an object. Fields with `metadata={"json": False}` are not part of the JSON."""
    prefix = f"{field}." if field else ""
    if not isinstance(value, dict):
        raise bad_field(where, field or "the file", "an object", value)
    known = {f.name: f for f in dataclasses.fields(typing.cast(Any, kind)) if f.metadata.get("json", True)}
    if unknown := sorted(value.keys() - known.keys()):
        raise UserError(f"{where}: expected no field {shown_name(prefix + unknown[0])}, found one.")
    required = [name for name, f in known.items() if f.default is f.default_factory is dataclasses.MISSING]
    if absent := [name for name in required if name not in value]:
        raise UserError(f"{where}: expected the field {prefix}{absent[0]}, found none.")
    hints = _annotations(typing.cast(Any, kind))
    return kind(**{name: decode(hints[name], item, where, prefix + name) for name, item in value.items()})


def bad_field(where: str, field: str, expected: str, value: Any) -> UserError:
    """The error about a field with a wrong value."""
    return UserError(f"{where}: expected {shown_name(field)} to be {expected}, found {shown(value)}.")


def shown(value: Any) -> str:
    """A value in a message; a long one is cut."""
    text = "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def shown_name(name: str) -> str:
    """The name of a field in a message; a long one is cut."""
    return name if len(name) <= 80 else f"{name[:77]}..."
