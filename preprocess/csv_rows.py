"""Read a CSV strictly: anything that two programs could read differently is refused.

In: a path and the separator. Out: a `Table` with one row per line, fields as written, each row as long as the header.
Leaves the meaning of the fields to `labels` and `splits`.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from preprocess.addresses import Location
from preprocess.console import UserError, is_plain
from preprocess.table import Row, Table

SEPARATORS = {",": ",", ";": ";", "|": "|", "tab": "\t"}  # CSV_SEPARATOR -> the character
_BLOCK_BYTES = 1 << 20
_OTHER_FILES = (
    (b"\x1f\x8b", "a file compressed with gzip", "Unpack it with gunzip."),
    (b"PK\x03\x04", "a ZIP archive or an Excel file", "Unpack it, or save the table as CSV in UTF-8."),
)
_BYTE_ORDER_MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"),
)  # fmt: skip


def read_table(path: Location, separator: str = ",") -> Table:
    """Open a CSV in UTF-8, with or without a byte order mark; lines end in LF, CRLF or CR. Empty lines are skipped.

    Raises:
        UserError: the file is missing, has another encoding, a NUL character or no header. While rows are read: a quote
            is not closed in its line, text stands beside a quoted part, or a row has another number of fields.
    """
    lines = _parsed(path, open_text(path, "CSV", newline=""), separator)
    _, header = next(lines, (0, []))
    rows = _of_width(path, lines, len(header))

    def read(places: Sequence[int]) -> Iterator[Row]:
        return ((line, [fields[place] for place in places]) for line, fields in rows)

    return Table(path=path, header=tuple(name.strip() for name in header), read=read)


def csv_line(fields: Iterable[str]) -> str:
    """Fields as one CSV line without its end: `a,b` or `"a, b",c`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(fields)
    return text.getvalue()


def split_names(variable: str, text: str) -> tuple[str, ...]:
    """The names of a variable such as CLASSES=a,b or CLASSES='"a, b",c', without surrounding spaces.

    Raises:
        UserError: a quote is not closed, or a name has a control or invisible character.
    """
    names = tuple(name.strip() for name in _fields(text, ",", variable))
    for name in names:
        if not is_plain(name):
            raise UserError(f"{variable}: expected names without control or invisible characters, found {name!r}.")
    return names


def open_text(path: Location, kind: str, *, newline: str) -> Iterator[str]:
    """The lines of a file in UTF-8, without a byte order mark, each with its end. The whole file is checked first.

    Args:
        path: of the file.
        kind: CSV or the like, for messages.
        newline: as for `open`: "" for lines that end in LF, CRLF or CR.

    Raises:
        UserError: the file is missing, cannot be read or has another encoding.
    """
    if isinstance(path, Path) and not path.is_file():
        raise UserError(f"{path}: expected a {kind} file, found {'a folder' if path.is_dir() else 'nothing'}.")
    try:
        with _open_bytes(path) as file:
            _check_encoding(path, kind, file)
    except OSError as error:
        raise UserError(f"{path}: expected a readable {kind} file, found: {error.strerror}.") from error
    return _lines(path, kind, newline)


def _open_bytes(path: Location) -> BinaryIO:
    """A file, or the bytes of an object, which is fetched once."""
    if isinstance(path, Path):
        return open(path, "rb")
    from preprocess.remote_files import read_labels

    return io.BytesIO(read_labels(path))


def is_file(path: Location) -> bool:
    """Whether there is a file, or an object."""
    if isinstance(path, Path):
        return path.is_file()
    from preprocess.remote_files import exists

    return exists(path)


def _lines(path: Location, kind: str, newline: str) -> Iterator[str]:
    try:
        with io.TextIOWrapper(_open_bytes(path), encoding="utf-8-sig", newline=newline) as file:
            yield from file
    except (OSError, UnicodeDecodeError) as error:  # it was whole a moment before
        raise UserError(f"{path}: expected a readable {kind} file, found a file that changes.") from error


def _check_encoding(path: Location, kind: str, file: BinaryIO) -> None:
    """Raise UserError if the bytes of a file are not UTF-8. They are read in blocks: a file can be larger than memory
    allows."""
    start = file.read(4)
    for mark, name, remedy in _OTHER_FILES:
        if start.startswith(mark):
            raise UserError(f"{path}: expected a {kind} in UTF-8, found {name}. {remedy}")
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if start.startswith(mark)), None)
    file.seek(0)
    zeros = 0 if encoding else sum(block.count(0) for block in _blocks(file))
    if encoding is None and 4 * zeros > file.tell():
        encoding = "UTF-16"  # without a mark: every second byte of Latin letters is 0
    if encoding:
        raise UserError(f"{path}: expected a {kind} in UTF-8, found {encoding}. {_convert(path, encoding)}")
    file.seek(0)
    if (place := _first_wrong(file)) is None:
        return
    file.seek(0)
    text = "".join(block.decode("latin-1") for block in _blocks(file, place))
    line = len(re.findall("\r\n|\n|\r", text)) + 1
    file.seek(place)
    wrong = file.read(1)
    byte = f"the byte 0x{wrong[0]:02x}"
    with suppress(UnicodeDecodeError):  # 5 bytes are undefined there
        byte += f" (in Windows-1252: {wrong.decode('cp1252')!r})"
    raise UserError(f"{path} line {line}: expected a {kind} in UTF-8, found {byte}. {_convert(path, 'WINDOWS-1252')}")


def _first_wrong(file: BinaryIO) -> int | None:
    """Position of the first byte that is not UTF-8; None if all are."""
    decoder, first = codecs.getincrementaldecoder("utf-8")(), 0
    for block in chain(_blocks(file), [b""]):
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            return first - pending + error.start
        first += len(block)
    return None


def _blocks(file: BinaryIO, count: int | None = None) -> Iterator[bytes]:
    """The bytes of a file from here on, at most `count`, in blocks."""
    left = count
    while block := file.read(_BLOCK_BYTES if left is None else min(left, _BLOCK_BYTES)):
        left = None if left is None else left - len(block)
        yield block


def _convert(path: Location, encoding: str) -> str:
    return f"Save it as UTF-8, for example: iconv -f {encoding} -t UTF-8 {path.name} > utf8{path.suffix}"


def _parsed(path: Location, lines: Iterator[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    for number, raw in enumerate(lines, start=1):
        line = raw.rstrip("\r\n")
        if "\0" in line:
            raise UserError(f"{path} line {number}: expected text, found a NUL character. Remove it.")
        if line:
            yield number, _fields(line, separator, f"{path} line {number}")


def _fields(line: str, separator: str, where: str) -> list[str]:
    """The fields of one line. A field is quoted as a whole or not at all, and ends in its line."""
    if '"' not in line:
        return line.split(separator)
    field = f'(?:"[^"]*(?:""[^"]*)*"|[^"{re.escape(separator)}]*)'
    if not re.fullmatch(f"{field}(?:{re.escape(separator)}{field})*", line):
        if line.count('"') % 2:
            raise UserError(f'{where}: expected a closing quote (") in the same line, found none. Close or remove it.')
        raise UserError(f'{where}: expected quotes (") around a whole field, found one inside. Write "a ""b"" c".')
    try:
        return next(csv.reader([line], delimiter=separator, strict=True))
    except csv.Error as error:
        raise UserError(f"{where}: expected a CSV row, found something else ({error}).") from error


def _of_width(path: Location, rows: Iterator[tuple[int, list[str]]], width: int) -> Iterator[tuple[int, list[str]]]:
    for line, fields in rows:
        if len(fields) != width:
            advice = ' Put quotes around a field with a comma ("a,b").' if len(fields) > width else ""
            raise UserError(f"{path} line {line}: expected {width} fields, found {len(fields)}.{advice}")
        yield line, fields
