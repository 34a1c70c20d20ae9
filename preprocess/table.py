"""A table of a labels file: column names and rows, whatever the kind of the file.

In: a reader of one kind of file, such as `csv_rows`. Out: a `Table`. Leaves the kinds to `label_files`.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from preprocess.addresses import Location

Field = str | tuple[str, ...]  # a tuple where the file itself holds a list of texts
Row = tuple[int, list[Field]]  # number of the line or row, fields
# A file name cannot hold them. JSON can: NUL, and half of a surrogate pair, which UTF-8 does not have.
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
ReadColumns = Callable[[Sequence[int]], Iterator[Row]]


@dataclass(frozen=True, kw_only=True)
class Table:
    """An open labels file. `header`: column names without surrounding spaces.

    `read` yields the fields at some positions of the header for every row. It may be called once.
    """

    path: Location
    header: tuple[str, ...]
    read: ReadColumns

    @property
    def rows(self) -> Iterator[Row]:
        """Every row with all its fields; to be read once."""
        return self.read(range(len(self.header)))


def as_field(value: object) -> Field | None:
    """A typed value (of JSON or parquet) as a field: as a CSV would have it, but a list of texts as a tuple.

    An empty text stands for no value. None: a CSV has no such value, such as a date, a number in a list or a text with
    a NUL character.
    """
    if isinstance(value, list):
        return tuple(value) if all(isinstance(item, str) and _is_text(item) for item in value) else None
    if value is None:
        return ""
    if isinstance(value, str):
        return value if _is_text(value) else None
    return str(value) if isinstance(value, bool | int | float) else None


def _is_text(value: str) -> bool:
    return not _NO_TEXT.search(value)
