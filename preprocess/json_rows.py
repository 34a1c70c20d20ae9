"""Read JSON lines: one object per line, such as `{"image_name": "chip_0", "tags": ["road", "water"]}`.

In: a path. Out: a `Table` whose columns are the keys of all objects. Leaves the meaning of the fields to `labels`.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from preprocess.addresses import Location
from preprocess.console import UserError
from preprocess.csv_rows import open_text
from preprocess.table import Field, Row, Table, as_field

_MAX_SHOWN = 60  # characters of a value in a message


def read_table(path: Location) -> Table:
    """Open a file of JSON lines in UTF-8, with or without a byte order mark. Empty lines are skipped.

    Raises:
        UserError: the file is missing, has another encoding, or a line is not one JSON object with each key once. While
            rows are read: an object lacks a key, or its value is neither a text, a number, a truth value, null nor a
            list of texts.
    """
    header = tuple(dict.fromkeys(key for _, values in _objects(path) for key in values))

    def read(places: Sequence[int]) -> Iterator[Row]:
        keys = [header[place] for place in places]
        for line, values in _objects(path):
            yield line, [_field(path, line, values, key) for key in keys]

    return Table(path=path, header=header, read=read)


def _objects(path: Location) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object). JSON writes a line feed within a text as `\\n`, so a line is always a whole value."""
    for number, raw in enumerate(open_text(path, "JSON lines", newline="\n"), start=1):
        line = raw.removesuffix("\n")
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            values = json.loads(line, object_pairs_hook=_once, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: expected a JSON object, found something else ({error}).") from error
        if not isinstance(values, dict):
            raise UserError(
                f"{where}: expected a JSON object per line, found {type(values).__name__} {_shown(values)}. "
                f"For a file that is one list: jq -c '.[]' {path.name} > tags.jsonl"
            )
        yield number, values


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} occurs twice")
    return values


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def _field(path: Location, line: int, values: dict[str, Any], key: str) -> Field:
    if key not in values:
        raise UserError(f"{path} line {line}: expected the key {key!r}, found {', '.join(map(repr, values))}.")
    field = as_field(values[key])
    if field is None:
        raise UserError(
            f"{path} line {line}: expected a text, a number or a list of texts in {key!r}, found {_shown(values[key])}."
        )
    return field


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
