"""Read a parquet file, such as BigEarthNet's metadata.parquet, by pyarrow.

In: a path. Out: a `Table`; only the columns that are asked for are read. Leaves the meaning of the fields to `labels`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow
import pyarrow.parquet

from preprocess.addresses import Address, Location
from preprocess.console import UserError
from preprocess.table import Field, Row, Table, as_field

_BATCH_ROWS = 1 << 14
_MAX_SHOWN = 60  # characters of a value in a message


def read_table(path: Location) -> Table:
    """Open a parquet file. Rows are counted from 1.

    Raises:
        UserError: the file is missing, damaged or no parquet file. While rows are read: it is damaged, or a value is
            neither a text, a number, a truth value, null nor a list of texts.
    """
    if isinstance(path, Path) and not path.is_file():
        raise UserError(f"{path}: expected a parquet file, found {'a folder' if path.is_dir() else 'nothing'}.")
    source = path if isinstance(path, Path) else _object(path)
    with _readable(path):
        names = [str(name) for name in pyarrow.parquet.read_schema(source).names]

    def read(places: Sequence[int]) -> Iterator[Row]:
        columns = [names[place] for place in places]
        with _readable(path), pyarrow.parquet.ParquetFile(source, page_checksum_verification=True) as file:
            first = 1
            for batch in file.iter_batches(_BATCH_ROWS, columns=list(dict.fromkeys(columns)), use_threads=False):
                values = [batch.column(name).to_pylist() for name in columns]
                for row, fields in enumerate(zip(*values, strict=True), start=first):
                    yield row, [_field(path, row, *pair) for pair in zip(columns, fields, strict=True)]
                first += batch.num_rows

    return Table(path=path, header=tuple(name.strip() for name in names), read=read)


def _object(path: Address) -> pyarrow.BufferReader:
    """An object, read whole: its columns would take a request each."""
    from preprocess.remote_files import read_labels

    return pyarrow.BufferReader(read_labels(path))


@contextmanager
def _readable(path: Location) -> Iterator[None]:
    """Turn pyarrow's errors into one line."""
    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{path}: expected a readable parquet file, found: {reason}") from error


def _field(path: Location, row: int, column: str, value: object) -> Field:
    field = as_field(value)
    if field is None:
        shown = repr(value)[:_MAX_SHOWN]
        raise UserError(
            f"{path} row {row}: expected a text, a number or a list of texts in column {column}, found {shown}."
        )
    return field
