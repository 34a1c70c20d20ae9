"""The file that a name means: the exact one, else the only one that fits, else one line with the reason."""

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from helpers.chips import conversion, write_chips, write_csv
from helpers.matching import files, match
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from preprocess import file_matching
from preprocess.absent_names import surely_absent
from preprocess.console import UserError
from preprocess.convert import convert
from preprocess.image_names import difference, list_tiffs, stem
from preprocess.zarr_store import open_store

PART = st.text(st.characters(codec="utf-8", categories=["L", "N", "Mn", "Zs"], include_characters="_-.")).filter(
    lambda text: text == text.strip() and not text.startswith(".") and 0 < len(text.encode()) < 60
)


@pytest.mark.parametrize(
    ("name", "file", "how"),
    [
        ("a.jpg", "a.tif", "a picture's suffix"),
        ("a.JPEG", "a.tif", "a picture's suffix"),
        ("a.png", "a.tif", "a picture's suffix"),
        ("a ", "a.tif", "spaces around it"),
        ("\u00a0a.tif", "a.tif", "spaces around it"),
        ("s\\a.tif", "s/a.tif", "backslashes"),
        ("tif/a.tif", "a.tif", "DATA's own folder in front"),
        ("chips/TIF/s/a", "s/a.tif", "DATA's own folder in front"),
        ("tif\\A.jpg ", "a.tif", "spaces around it, backslashes, a picture's suffix, DATA's own folder in front, "
         "another case"),
        ("A", "a.tif", "another case"),
        ("a", "A.TIF", "another case"),
        ("caf\u00e9", "cafe\u0301.tif", "another Unicode form"),
        ("cafe\u0301", "caf\u00e9.tif", "another Unicode form"),
        ("a", "a.Tif", "another suffix"),
        ("a.tif", "a.geotiff", "another suffix"),
        ("a", "a.GeoTIFF", "another suffix"),
    ],
)  # fmt: skip
def test_a_name_in_another_spelling_means_the_only_file_that_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, file: str, how: str
) -> None:
    folder = files(tmp_path / "chips" / "tif", file, "other.tif", "s/b.tif", "d/readme.txt")
    found = match(folder, name, "other")
    assert found.paths == (str(folder / file), str(folder / "other.tif"))
    assert found.csv_row.tolist() == [0, 1]
    assert difference(name, file) == how
    assert f"1 of 2 names differ from the names of their files. The first, {name.strip()!r}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "present", "line"),
    [
        (["A"], ["a.tif", "\u0041\u0301.tif"], None),
        (["a"], ["a.Tif", "a.geotiff"], "line 2: 'a' can mean 2 files"),
        (["a.jpg"], ["a.tif", "A.tif"], "line 2: 'a.jpg' can mean 2 files"),
        (["a "], ["a.tif", "a .tif"], "line 2: 'a' can mean 2 files"),
        (["tif/a.JPG"], ["a.tif", "tif/a.tif"], "'tif/a.JPG' can mean 2 files"),
        (["a", "a.jpg"], ["a.tif"], "line 3: 'a.jpg' means"),
        (["A", "a"], ["a.tif"], "so does 'A' in line 2. Remove one of the rows"),
        (["x", "b"], ["a.tif", "b.tif"], "1 of 2 chips of the CSV are missing in"),
        (["s/a", "b"], ["a.tif", "b.tif"], "1 have the name of a file in another folder: 's/a' may be 'a.tif'"),
        (["a"], ["s/t/a.tif"], "'a' may be 's/t/a.tif'. No chip is left"),
        (["a"], [".a.tif", "b.tif"], "No chip is left. Is DATA the folder of the TIFFs?"),
    ],
)
def test_names_that_fit_no_file_or_several_are_refused(
    tmp_path: Path, refused: Callable, names: list[str], present: list[str], line: str | None
) -> None:
    folder = files(tmp_path / "tif", *present)
    if line is None:
        assert match(folder, *names).paths == (str(folder / "a.tif"),)
    else:
        assert line in refused(lambda: match(folder, *names))


def test_a_name_with_a_suffix_means_exactly_that_file(tmp_path: Path) -> None:
    folder = files(tmp_path, "a.tif", "a.tiff", "a.TIF")
    assert match(folder, "a.tiff").paths == (str(folder / "a.tiff"),)
    assert match(folder, "a.TIF").paths == (str(folder / "a.TIF"),)
    assert match(folder, "a").paths == (str(folder / "a.tif"),)


def test_exact_names_cost_one_stat_each_and_no_listing(tmp_path: Path) -> None:
    folder = files(tmp_path, *(f"t_{index}.tif" for index in range(50)))
    with mock.patch("os.stat", side_effect=os.stat) as stat, mock.patch.object(file_matching, "list_tiffs") as listing:
        match(folder, *(f"t_{index}" for index in range(25)), *(f"./t_{index}.tif" for index in range(25, 50)))
    assert stat.call_count == 50
    assert not listing.called


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    parts=st.lists(PART, min_size=1, max_size=3),
    form=st.sampled_from(["NFC", "NFD"]),
    change=st.sampled_from([str, str.upper, str.lower, str.title]),
    suffix=st.sampled_from(["", ".tif", ".TIFF", ".jpg", ".PNG"]),
    slash=st.sampled_from("/\\"),
    prefix=st.booleans(),
    spaces=st.sampled_from(["", " ", "\u3000"]),
)
def test_any_file_is_found_by_any_spelling_of_its_name(
    tmp_path: Path, parts: list[str], form: str, change: Callable, suffix: str, slash: str, prefix: bool, spaces: str
) -> None:
    folder = tmp_path / str(len(list(tmp_path.iterdir()))) / "data"
    path = folder.joinpath(*parts[:-1], parts[-1] + ".tif")
    path.parent.mkdir(parents=True)
    path.touch()
    spelled = [unicodedata.normalize(form, change(part)) for part in parts]
    # Keep only spellings that are equal if case is ignored: some letters change when they are converted and back.
    assume(all(same(part) == same(other) for part, other in zip(parts, spelled, strict=True)))
    assume(not parts[-1].lower().endswith((".tif", ".tiff", ".geotiff", ".jpg", ".jpeg", ".png")))
    name = slash.join([*(["data"] if prefix else []), *spelled]) + suffix + spaces
    assert match(folder, name).paths == (str(path),)


def same(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(
        st.sampled_from(["a", "A", "a.tif", "a.jpg", "b", "s/a", "s\\a", "tif/a", "tif/s/a", "A "]),
        min_size=1,
        unique_by=lambda name: stem(name.strip()),  # the CSV reader refuses two names with one stem
    )
)
def test_no_two_rows_share_a_file(tmp_path: Path, names: list[str]) -> None:
    folder = files(tmp_path / "tif", "a.tif", "A.tiff", "b.Tif", "s/a.tif", "s/A.tif")
    try:
        found = match(folder, *names, allow_missing=True)
    except UserError:
        return
    assert len(set(found.paths)) == len(found.paths) == len(names)


def test_listing_follows_links_and_skips_hidden_files(tmp_path: Path) -> None:
    folder = files(
        tmp_path / "in", "a.tif", "b.Tif", "c.geotiff", "d.TIFF", "s/e.tiff", "x.png", "._a.tif", ".DS_Store",
        ".ipynb_checkpoints/a-checkpoint.tif", "s/.hidden.tif", "folder.tif/f.tif",
    )  # fmt: skip
    files(tmp_path / "out", "g.tif", "t/h.tif")
    (folder / "link.tif").symlink_to(tmp_path / "out" / "g.tif")
    (folder / "linked").symlink_to(tmp_path / "out")
    (folder / "s" / "loop").symlink_to(folder)
    (folder / "self").symlink_to("self")
    (folder / "gone.tif").symlink_to("nowhere")
    listing = list_tiffs(folder)
    assert listing.names.sorted() == [
        "a.tif", "b.Tif", "c.geotiff", "d.TIFF", "folder.tif/f.tif", "link.tif", "linked/g.tif", "linked/t/h.tif",
        "s/e.tiff",
    ]  # fmt: skip
    assert listing.hidden == ["._a.tif", ".ipynb_checkpoints", "s/.hidden.tif"]
    assert listing.dangling == ["gone.tif"]
    assert listing.skipped() == (
        "skipped: 3 hidden files and folders (first: ._a.tif) and 1 links without a target (first: gone.tif)."
    )


def test_a_name_is_surely_absent_only_if_no_file_has_it(tmp_path: Path) -> None:
    folder = files(tmp_path / "in", "a.tif", "b.TIFF", "s/c.Tif", ".h.tif", "folder.tif/f.tif", "x.png")
    (folder / "linked").symlink_to(folder / "s")
    names = ["a", "a.tif", "A", "b", "s/c", "./s//c", "c", "linked/c", "linked/d", ".h", "folder", "gone/a", "x.png"]
    absent = surely_absent(folder, names)
    assert [name for name, is_absent in zip(names, absent, strict=True) if is_absent] == [
        "A", "c", "linked/d", "gone/a",
    ]  # fmt: skip
    assert not surely_absent(folder, ["x" * 300])[0]  # the system refuses it, which is shown


@pytest.mark.parametrize("names", [["A", "b"], ["a", "B"]])
def test_names_that_are_surely_absent_are_found_by_their_other_spelling(tmp_path: Path, names: list[str]) -> None:
    folder = files(tmp_path / "in", "a.tif", "b.tif")
    with mock.patch.object(file_matching, "_PROBED", 0):
        found = match(folder, *names)
    assert [os.path.relpath(path, folder) for path in found.paths] == ["a.tif", "b.tif"]


def test_a_folder_that_cannot_be_listed_is_one_line(tmp_path: Path, refused: Callable) -> None:
    denied = PermissionError(13, "Permission denied")  # the test raises it: root may list every folder
    with mock.patch("os.scandir", side_effect=denied):
        text = refused(lambda: list_tiffs(tmp_path))
    assert f"{tmp_path}: the folder cannot be listed (Permission denied). Check the permissions" in text


def test_predict_lists_what_a_conversion_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from analysis.chip_folder import list_files

    chips = write_chips(tmp_path / "tif", count=5)
    for index, name in enumerate(("a.Tif", "b.geotiff", "c.TIFF", "d.tiff", "e.tif")):
        (chips.folder / f"t_{index}.tif").rename(chips.folder / name)
    files(chips.folder, ".ipynb_checkpoints/a-checkpoint.tif", "._b.tif")
    listed = list_files(chips.folder)
    assert "skipped: 2 hidden files and folders (first: ._b.tif)." in capsys.readouterr().out
    write_csv(tmp_path / "t.csv", [(name, "x") for name in listed.names])
    convert(conversion(data=chips.folder, labels=tmp_path / "t.csv", store=tmp_path / "s.zarr"))
    assert open_store(tmp_path / "s.zarr").names.tolist() == listed.names == ["a", "b", "c", "d", "e"]


def test_a_file_name_that_is_not_utf_8_is_one_line(tmp_path: Path, refused: Callable) -> None:
    from analysis.chip_folder import list_files

    (tmp_path / os.fsdecode(b"a\xff.tif")).touch()
    assert "expected file names in UTF-8, found 'a\\udcff.tif'" in refused(lambda: list_files(tmp_path))
