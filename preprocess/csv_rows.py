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
from pathlib import Path

from preprocess.console import UserError, is_plain
from preprocess.table import Row, Table

SEPARATORS = {",": ",", ";": ";", "|": "|", "tab": "\t"}  # CSV_SEPARATOR -> the character
_BYTE_ORDER_MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16"),
)  # fmt: skip


def read_table(path: Path, separator: str = ",") -> Table:
    """Open a CSV in UTF-8, with or without a byte order mark; lines end in LF, CRLF or CR. Empty lines are skipped.

    Raises:
        UserError: the file is missing, has another encoding, a NUL character or no header. While rows are read: a quote
            is not closed in its line, text stands beside a quoted part, or a row has another number of fields.
    """
    lines = _parsed(path, read_text(path, "CSV"), separator)
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


def read_text(path: Path, kind: str) -> str:
    """The text of a file in UTF-8, without a byte order mark. `kind` is CSV or the like, for messages.

    Raises:
        UserError: the file is missing, cannot be read or has another encoding.
    """
    if not path.is_file():
        raise UserError(f"{path}: expected a {kind} file, found {'a folder' if path.is_dir() else 'nothing'}.")
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise UserError(f"{path}: expected a readable {kind} file, found: {error.strerror}.") from error
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), None)
    if encoding is None and 4 * data.count(0) > len(data):
        encoding = "UTF-16"  # without a mark: every second byte of Latin letters is 0
    if encoding:
        raise UserError(f"{path}: expected a {kind} in UTF-8, found {encoding}. {_convert(path, encoding)}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = len(re.findall(b"\r\n|\n|\r", data[: error.start])) + 1
        byte = f"the byte 0x{data[error.start]:02x}"
        with suppress(UnicodeDecodeError):  # 5 bytes are undefined there
            byte += f" (in Windows-1252: {data[error.start : error.start + 1].decode('cp1252')!r})"
        raise UserError(
            f"{path} line {line}: expected a {kind} in UTF-8, found {byte}. {_convert(path, 'WINDOWS-1252')}"
        ) from error


def _convert(path: Path, encoding: str) -> str:
    return f"Save it as UTF-8, for example: iconv -f {encoding} -t UTF-8 {path.name} > utf8{path.suffix}"


def _parsed(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    for number, raw in enumerate(io.StringIO(text, newline=""), start=1):
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


def _of_width(path: Path, rows: Iterator[tuple[int, list[str]]], width: int) -> Iterator[tuple[int, list[str]]]:
    for line, fields in rows:
        if len(fields) != width:
            advice = ' Put quotes around a field with a comma ("a,b").' if len(fields) > width else ""
            raise UserError(f"{path} line {line}: expected {width} fields, found {len(fields)}.{advice}")
        yield line, fields
