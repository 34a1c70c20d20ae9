"""CSVs of labels, what is read from them, and the settings that a message names."""

import re
import shlex
from pathlib import Path

import numpy as np

from preprocess.label_settings import LabelSettings
from preprocess.labels import LabelTable, read_labels

VARIABLES = {
    "LABELS_FORMAT": "format", "TAGS_SEPARATOR": "tags_separator", "NAME_COLUMN": "name_column",
    "TAGS_COLUMN": "tags_column", "CSV_SEPARATOR": "csv_separator",
}  # fmt: skip


def write_labels(folder: Path, text: str) -> Path:
    path = folder / "t.csv"
    path.write_text(text, encoding="utf-8", newline="")
    return path


def read_table(path: Path, classes: tuple[str, ...] | None = None, **settings: str) -> LabelTable:
    return read_labels(path, classes, LabelSettings.of(settings))


def tags_by_name(table: LabelTable) -> dict[str, set[str]]:
    assert table.labels.dtype == np.uint8
    return {
        name: {tag for tag, mark in zip(table.classes, row, strict=True) if mark}
        for name, row in zip(table.names, table.labels.tolist(), strict=True)
    }


def advised_settings(text: str) -> dict[str, str]:
    """The settings that a line names, as a shell would read them."""
    found = re.findall(rf"\b({'|'.join(VARIABLES)})=('[^']*'|[^ ]+)", text)
    return {VARIABLES[name]: shlex.split(value)[0].rstrip(".") for name, value in found}
