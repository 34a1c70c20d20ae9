"""The CSV reader reads exactly what was written, and refuses what two programs could read differently."""

import csv
import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from preprocess.csv_rows import csv_line, read_table, split_names

FIELD = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"))
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def rows_of(path: Path, separator: str = ",") -> list[list[str]]:
    return [fields for _, fields in read_table(path, separator).rows]


@same_folder
@given(
    rows=st.integers(2, 4).flatmap(lambda n: st.lists(st.lists(FIELD, min_size=n, max_size=n), min_size=1)),
    separator=st.sampled_from(",;|\t"),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    mark=st.booleans(),
)
def test_what_pythons_csv_writer_writes_is_read_back(
    tmp_path: Path, rows: list[list[str]], separator: str, end: str, quoting: int, mark: bool
) -> None:
    text = io.StringIO()
    header = [f"column {index}" for index in range(len(rows[0]))]
    csv.writer(text, delimiter=separator, lineterminator=end, quoting=quoting).writerows([header, *rows])
    path = tmp_path / "t.csv"
    path.write_bytes(text.getvalue().encode("utf-8-sig" if mark else "utf-8"))
    table = read_table(path, separator)
    assert table.header == tuple(header)
    assert list(table.rows) == [(index, row) for index, row in enumerate(rows, start=2)]


@same_folder
@given(text=st.text(st.sampled_from('ab",\n\r')))
def test_any_text_is_read_as_pythons_strict_csv_reader_reads_it_or_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"x,y\n" + text.encode())
    from preprocess.console import UserError

    try:
        found = rows_of(path)
    except UserError:
        return
    assert found == [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('a,"clear road\nb,clear\nc,water\n', "line 2: expected a closing quote"),
        ('a,clear\nb,"clear\nc,"water"\n', "line 3: expected a closing quote"),
        ('a,clear\nb,"clear\nc,d"\n', "line 3: expected a closing quote"),  # a field over two lines
        ('a,"clear" road\n', "line 2: expected quotes"),
        ('a,cl"ear"\n', "line 2: expected quotes"),
        ('a, "clear"\n', "line 2: expected quotes"),
        ("a,x\n\nb\n", "line 4: expected 2 fields, found 1"),
        ("a,x\r\nb,x\rc,x\nd,x,y\n", "line 5: expected 2 fields, found 3"),
        ("a,x\nb,\0\n", "line 3: expected text, found a NUL character"),
    ],
)
def test_the_line_of_the_error_is_named(tmp_path: Path, refused: Callable, content: str, line: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"image_name,tags\n" + content.encode())
    assert line in refused(lambda: rows_of(path))


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16", "found UTF-16"), ("utf-16-be", "found UTF-16"), ("utf-16-le", "found UTF-16"),
        ("utf-32", "found UTF-32"), ("latin-1", "line 3: expected a CSV in UTF-8, found the byte 0xe9"),
        ("cp1252", "(in Windows-1252: 'é')"),
    ],
)  # fmt: skip
def test_other_encodings_are_named(tmp_path: Path, refused: Callable, encoding: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("image_name,tags\na,clear\nb,forêt é\n".replace("ê", "").encode(encoding))
    text = refused(lambda: rows_of(path))
    assert message in text
    assert "iconv -f" in text


def test_a_compressed_file_and_an_excel_file_are_called_that(tmp_path: Path, refused: Callable) -> None:
    packed, table = tmp_path / "t.csv.gz", tmp_path / "t.xlsx"
    packed.write_bytes(gzip.compress(b"image_name,tags\na,x\n"))
    assert "found a file compressed with gzip. Unpack it with gunzip." in refused(lambda: rows_of(packed))
    with zipfile.ZipFile(table, "w") as archive:
        archive.writestr("xl/workbook.xml", "")
    assert "found a ZIP archive or an Excel file. Unpack it, or save the table as CSV in UTF-8." in refused(
        lambda: rows_of(table)
    )


@given(names=st.lists(st.text(st.characters(codec="ascii", exclude_categories=["C"])).map(str.strip), min_size=2))
def test_names_in_a_setting_are_read_back(names: list[str]) -> None:
    assert split_names("CLASSES", csv_line(names)) == tuple(names)


@pytest.mark.parametrize("text", ['"a,b', 'a "b" c', "a\x1bb", "a\u200fb", "a\u3164,b"])
def test_bad_names_in_a_setting_are_refused(refused: Callable, text: str) -> None:
    assert refused(lambda: split_names("CLASSES", text)).startswith("CLASSES")
