"""Damaged labels in JSON lines and in parquet files: `preprocess.labels.read_labels` is compared with Python's json
module, and with pyarrow's reader of whole tables.

Bases: tags as lists and as texts, with a split column and with columns that nobody asks for; parquet with and without
checksums of its pages, in several row groups, with dictionaries, and in both versions of data pages.

Oracle. equal: the table of the undamaged file. altered: another table, and the other reader finds the same rows.
Without checksums, parquet has no way to notice damage to a text. silent: other rows; a file that the other reader
refuses; or a class with control characters.
"""

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from fuzz.csvs import ROWS
from fuzz.damage import damage_bytes, damage_json
from fuzz.label_files import LabelFiles
from fuzz.text_damage import damage_character, damage_encoding, damage_lines
from preprocess import labels
from preprocess.label_settings import LabelSettings

SPLITS = ("train", "validation", "test", "val")
NUMBER_OF = {"train": 0, "val": 1, "validation": 1, "test": 2}
SETTINGS = LabelSettings(split_column="split")
Row = tuple[str, frozenset[str], int]


def _records() -> list[dict[str, Any]]:
    """The rows of the CSVs, with lists of tags and a split."""
    return [
        {"image_name": name, "tags": tags.split(), "split": SPLITS[index % 4], "cloud": index / 3, "snow": index > 3}
        for index, (name, tags) in enumerate(ROWS[1:])
    ]


def make_bases(bases: Path) -> None:
    """Write BASES/lists.jsonl, BASES/plain.parquet, ..."""
    lists = _records()
    texts = [{**record, "tags": " ".join(record["tags"])} for record in lists]
    turned = [dict(reversed(record.items())) for record in lists]
    for name, records, end, mark in (
        ("lists", lists, "\n", ""),
        ("texts", texts, "\r\n", "\ufeff"),
        ("turned", turned, "\n\n", ""),
    ):
        lines = [json.dumps(record, ensure_ascii=name == "turned") + end for record in records]
        (bases / f"{name}.jsonl").write_bytes((mark + "".join(lines)).encode())
    options: dict[str, dict[str, Any]] = {
        "plain": {"compression": "none", "use_dictionary": False},
        "checksums": {"compression": "none", "write_page_checksum": True},
        "groups": {"compression": "snappy", "row_group_size": 3},
        "pages2": {"compression": "zstd", "data_page_version": "2.0", "write_page_checksum": True},
    }
    for name, how in options.items():
        for form, records in (("lists", lists), ("texts", texts)):
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), bases / f"{name}-{form}.parquet", **how)


class Tables(LabelFiles):
    """JSON lines or parquet, with lists and a split."""

    def read(self, path: Path) -> list[Row]:
        """Names, tags and splits."""
        return _read(path)


class JsonLines(Tables):
    """Damage to bytes, characters, lines, and to the values of a line."""

    suffix = ".jsonl"

    def operations(self) -> tuple[Callable[[random.Random, bytes], tuple[bytes, str]], ...]:
        """As of CSVs, and edits after which a line is still JSON."""
        return damage_bytes, damage_character, damage_lines, damage_encoding, _value, _value, _value

    def strict(self, path: Path) -> list[Row]:
        """By Python's json module, each key once."""
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
        return _rows(json.loads(line, object_pairs_hook=_once) for line in lines if line.strip())


class Parquets(Tables):
    """Damage to bytes: of the pages, or of the footer, which describes them."""

    suffix = ".parquet"

    def operations(self) -> tuple[Callable[[random.Random, bytes], tuple[bytes, str]], ...]:
        """Half of the damage is to the footer: it has the schema and the place of each page."""
        return damage_bytes, _footer

    def strict(self, path: Path) -> list[Row]:
        """By pyarrow's reader of whole tables. Nobody needs the pages of other columns."""
        columns = ["image_name", "tags", "split"]
        table = pyarrow.parquet.read_table(path, columns=columns, use_threads=False, page_checksum_verification=True)
        return _rows(table.to_pylist())


def _value(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    lines = data.split(b"\n")
    row = rng.randrange(len(lines))
    try:
        changed, text = damage_json(rng, lines[row])
    except ValueError:  # an earlier operation, or an empty line
        return data, f"line {row}: unchanged"
    lines[row] = json.dumps(json.loads(changed), ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")
    return b"\n".join(lines), f"line {row}: {text}"


def _footer(rng: random.Random, data: bytes) -> tuple[bytes, str]:
    """Its length stands in the last 8 bytes, before the letters PAR1."""
    size = int.from_bytes(data[-8:-4], "little")
    if not 0 < size <= len(data) - 12:
        return damage_bytes(rng, data)
    start = len(data) - 8 - size
    footer, text = damage_bytes(rng, data[start:-8])
    return data[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1", f"footer: {text}"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def _rows(records: Iterable[dict[str, Any]]) -> list[Row]:
    """Raises KeyError, TypeError, AttributeError or ValueError if a record is not a row of labels."""
    return [
        (_text(record["image_name"]).strip(), frozenset(_tags(record["tags"])), _number(record["split"]))
        for record in records
    ]


def _number(value: object) -> int:
    return NUMBER_OF[_text(value).strip().casefold()]


def _text(value: object) -> str:
    if not isinstance(value, str | int | float):
        raise TypeError(f"{value!r} is no text")
    return str(value)


def _tags(value: object) -> list[str]:
    if isinstance(value, list):
        return [tag.strip(" ") for tag in value]
    return [] if value is None else [tag for tag in _text(value).split(" ") if tag]


def _read(path: Path) -> list[Row]:
    table = labels.read_labels(path, None, SETTINGS)
    assert table.split is not None
    tags = [frozenset(tag for tag, has in zip(table.classes, row, strict=True) if has) for row in table.labels.tolist()]
    return list(zip((name.strip() for name in table.names), tags, table.split.tolist(), strict=True))
