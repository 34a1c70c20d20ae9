"""`make windows`, the names of windows, and what is refused in one line."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from helpers.chips import write_csv
from helpers.commands import here
from helpers.pictures import colours, encoded, write_bands
from helpers.places import CITATION, MODEL, PROJECTED, UTM_33N, geo_tags
from helpers.rasters import corners, names, raster, windows_store, write_labels, write_raster

from preprocess.window_cut import Cut

HEIGHT, WIDTH = 50, 70
WGS_84_UTM_34N = {**UTM_33N, PROJECTED: 32634}


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two rasters, one with a place; labels of all windows of 16 x 16."""
    place = geo_tags(UTM_33N, corner=(500_000, 5_400_000), side=(10, 20))
    write_raster(tmp_path / "in" / "a" / "one.tif", raster(0, HEIGHT, WIDTH), tile=(16, 16), extratags=place)
    write_raster(tmp_path / "in" / "two.TIF", raster(1, HEIGHT, WIDTH))
    places = corners(HEIGHT, WIDTH, 16, 16)
    write_labels(tmp_path / "in", names("a/one", places) + names("two", places))
    return tmp_path / "in"


@pytest.mark.parametrize("side", range(1, 40))
@pytest.mark.parametrize(("window", "stride"), [(8, 8), (8, 3), (8, 11), (1, 1)])
def test_windows_begin_at_every_stride_and_lie_inside_or_reach_the_edge_once(
    side: int, window: int, stride: int
) -> None:
    inside, beyond = Cut(window=window, stride=stride), Cut(window=window, stride=stride, pad=True)
    assert list(inside.starts(side)) == [row for row in range(0, side, stride) if row + window <= side]
    covered = {row for start in inside.starts(side) for row in range(start, start + window)}
    assert inside.left_over(side) == side - max(covered, default=-1) - 1
    # With pad, a window begins unless the one before it has reached the edge.
    expected = [row for row in range(0, side, stride) if row == 0 or row - stride + window < side]
    assert list(beyond.starts(side)) == expected
    assert beyond.left_over(side) == max(side - expected[-1] - window, 0)


def test_a_list_in_a_folder_that_does_not_exist_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "no" / "w.csv"
    ended = here("preprocess", "windows", f"DATA={folder}", "WINDOW=16", f"OUT={out}")
    assert ended.returncode == 2
    assert f"OUT={out}: expected a file in a folder, found no folder {out.parent}. Make it." in ended.stderr


def test_the_list_has_every_window_and_where_it_lies(folder: Path, tmp_path: Path) -> None:
    ended = here("preprocess", "windows", f"DATA={folder}", "WINDOW=16", f"OUT={tmp_path / 'w.csv'}")
    assert ended.returncode == 0, ended.stderr
    assert f"{tmp_path / 'w.csv'}: 24 windows of 16 x 16 in 2 rasters, with their coordinates." in ended.stdout
    assert "2 rows below and 6 columns at the right are in no window (the first of 2 such rasters)" in ended.stdout
    places = corners(HEIGHT, WIDTH, 16, 16)
    expected = []
    for name, file in (("a/one", "a/one.tif"), ("two", "two.TIF")):
        for (row, column), window in zip(places, names(name, places), strict=True):
            left, top = 500_000 + 10 * column, 5_400_000 - 20 * row
            known = ["EPSG:32633", left, top - 320, left + 160, top] if name == "a/one" else [""] * 5
            where = [str(float(value)) if isinstance(value, int) else value for value in known]
            expected.append([window, file, str(row), str(column), *where])
    rows = rows_of(tmp_path / "w.csv")
    assert [list(row.values()) for row in rows] == expected
    assert list(rows[0]) == ["image_name", "raster", "row", "column", "crs", "left", "bottom", "right", "top"]


def test_the_list_with_tags_is_a_labels_file(folder: Path, tmp_path: Path) -> None:
    here("preprocess", "windows", f"DATA={folder}", "WINDOW=16", "STRIDE=8", "FIT=pad", f"OUT={tmp_path / 'w.csv'}")
    rows = rows_of(tmp_path / "w.csv")
    with open(folder / "tags.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "tags"])
        writer.writeheader()
        writer.writerows({**row, "tags": "ab"[index % 2]} for index, row in enumerate(rows))
    store = windows_store(folder, tmp_path / "s.zarr", window=16, stride=8, fit="pad")
    assert store.names.tolist() == [row["image_name"] for row in rows]


def test_the_list_of_rasters_without_a_place_has_no_columns_for_it(tmp_path: Path) -> None:
    for name in ("r_1", "r_2"):
        write_bands(tmp_path / "in", name, {"B1": np.zeros((20, 20), np.uint8), "B2": np.ones((20, 20), np.uint8)})
    words = ("FILES={name}/{name}_{band}.tif", "BANDS=B1,B2", "WINDOW=20", f"OUT={tmp_path / 'w.csv'}")
    assert here("preprocess", "windows", f"DATA={tmp_path / 'in'}", *words).returncode == 0
    assert (tmp_path / "w.csv").read_text().splitlines() == [
        "image_name,raster,row,column",
        "r_1_r00000_c00000,r_1/r_1_{band}.tif,0,0",
        "r_2_r00000_c00000,r_2/r_2_{band}.tif,0,0",
    ]


def test_a_list_is_never_overwritten(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "w.csv").write_text("mine")
    ended = here("preprocess", "windows", f"DATA={folder}", "WINDOW=16", f"OUT={tmp_path / 'w.csv'}")
    assert (ended.returncode, ended.stderr) == (
        2, f"error: OUT={tmp_path / 'w.csv'}: exists. Choose another OUT, or remove the file.\n",
    )  # fmt: skip
    assert (tmp_path / "w.csv").read_text() == "mine"


def test_names_may_differ_as_those_of_files_may(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = ["A\\One_r0_c16", "./two_r00016_c00000.tif", "in/a/one_r00032_c00048"]
    write_labels(folder, written)
    store = windows_store(folder, tmp_path / "s.zarr", window=16)
    assert store.names.tolist() == written
    assert store.source_size.tolist() == [
        (folder / file).stat().st_size for file in ("a/one.tif", "two.TIF", "a/one.tif")
    ]
    assert (
        "2 of 3 names differ from the names of their windows. The first, 'A\\\\One_r0_c16', means "
        "'a/one_r00000_c00016'." in capsys.readouterr().out
    )


def test_rows_without_a_window_are_refused_or_skipped(
    folder: Path, tmp_path: Path, refused: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = ["two_r00008_c00000", "two_r00048_c00000", "two", "three_r00000_c00000"]
    write_labels(folder, ["two_r00000_c00000", *missing])
    text = refused(lambda: windows_store(folder, tmp_path / "s.zarr", window=16))
    assert text == (
        f"{folder / 'tags.csv'}: 4 of 5 rows name no window of the rasters in {folder} (first: two_r00008_c00000, "
        "two_r00048_c00000, two). Windows have names such as a/one_r00000_c00000. ALLOW_MISSING=1 skips such rows."
    )
    store = windows_store(folder, tmp_path / "s.zarr", window=16, allow_missing=True)
    assert store.names.tolist() == ["two_r00000_c00000"]
    assert store.num_csv_rows == 5
    assert "4 of 5 rows name no window" in capsys.readouterr().out
    write_labels(folder, missing)
    text = refused(lambda: windows_store(folder, tmp_path / "t.zarr", window=16, allow_missing=True))
    assert text.endswith("No chip is left. `make windows` lists all names.")


def test_two_rows_for_one_window_and_a_name_for_two_rasters_are_refused(
    folder: Path, tmp_path: Path, refused: Callable
) -> None:
    write_labels(folder, ["two_r00000_c00000", "two_r0_c0"])
    text = refused(lambda: windows_store(folder, tmp_path / "s.zarr", window=16))
    assert "tags.csv line 3: 'two_r0_c0' means the window two_r00000_c00000, and so does" in text
    write_raster(folder / "TWO.tif", raster(1, HEIGHT, WIDTH))
    write_labels(folder, ["Two_r0_c0"])
    text = refused(lambda: windows_store(folder, tmp_path / "s.zarr", window=16))
    assert "tags.csv line 2: 'Two_r0_c0' can mean windows of 2 rasters: 'TWO', 'two'." in text


FORMS = {
    "onehot": "image_name,a,b\ntwo_r00000_c00000,0,1\ntwo_r00016_c00016,1,1\n",
    "long": "image_name,tags\ntwo_r00016_c00016,a\ntwo_r00000_c00000,b\ntwo_r00016_c00016,b\n",
    "list": "image_name,tags\ntwo_r00000_c00000,['b']\ntwo_r00016_c00016,\"['a', 'b']\"\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_of_windows_have_every_form(folder: Path, tmp_path: Path, form: str) -> None:
    (folder / "tags.csv").write_text(FORMS[form])
    store = windows_store(folder, tmp_path / "s.zarr", window=16, labels_format=form)
    labels = dict(zip(store.names.tolist(), store.labels.tolist(), strict=True))
    assert labels == {"two_r00000_c00000": [0, 1], "two_r00016_c00016": [1, 1]}


REFUSALS = {
    ("STRIDE=8",): "STRIDE=8: WINDOW is not set. Add the size of the windows, such as WINDOW=256.",
    ("WINDOW=16", "SIZE=8", "FIT=pad"): "SIZE=8 has no effect with WINDOW=16; leave it out.",
    ("WINDOW=16", "FIT=crop"): "FIT=crop cannot be used with WINDOW=16. FIT=pad adds windows that pass the edges.",
    ("WINDOW=16", "PRESET=planet"): "PRESET=planet cannot be used with WINDOW=16: its chips are files.",
    ("WINDOW=0",): "WINDOW=0: expected a whole number from 1 to 65,536.",
    ("WINDOW=51",): "WINDOW=51: none of 2 rasters has so many rows and columns (the first, {folder}/a/one.tif, has 50 "
    "x 70). Choose a smaller WINDOW, or FIT=pad.",
    ("WINDOW=5000", "FIT=pad"): "WINDOW=5000: expected chips of at most 128 MiB, found 143 MiB (3 bands of uint16). "
    "Choose a smaller WINDOW.",
    ("WINDOW=16", "BANDS=red,nir"): "{folder}/a/one.tif: expected 2 bands, found 3. Convert it, or take it out of "
    "DATA.",
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSALS)
def test_what_cannot_work_is_one_line(folder: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    store = tmp_path / "s.zarr"
    ended = here("preprocess", "zarr", f"DATA={folder}", f"LABELS={folder / 'tags.csv'}", f"STORE={store}", *words)
    assert (ended.returncode, ended.stderr) == (2, f"error: {REFUSALS[words].format(folder=folder)}\n")
    assert not store.exists()


def test_class_folders_and_pictures_are_not_cut(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(encoded(colours(0), "png"))
    write_csv(tmp_path / "tags.csv", [("a_r00000_c00000", "x")])
    store = f"STORE={tmp_path / 's.zarr'}"
    ended = here("preprocess", "zarr", f"DATA={tmp_path / 'in'}", "LABELS=folders", "WINDOW=16", store)
    assert ended.stderr == "error: WINDOW=16 cannot be used with LABELS=folders. Give a table: LABELS=file.csv.\n"
    ended = here("preprocess", "zarr", f"DATA={tmp_path / 'in'}", f"LABELS={tmp_path / 'tags.csv'}", "WINDOW=16", store)
    assert ended.stderr == (
        f"error: DATA={tmp_path / 'in'}: expected TIFFs to cut windows from, found none. Other rasters: gdal_translate "
        "in out.tif\n"
    )


def test_rasters_that_differ_from_the_first_are_refused_before_pixels_are_read(
    folder: Path, tmp_path: Path, refused: Callable
) -> None:
    for other, found in ((raster(0, 50, 50, dtype="uint8"), "uint8"), (raster(0, 50, 50, bands=2), "2")):
        write_raster(folder / "other.tif", other)
        text = refused(lambda: windows_store(folder, tmp_path / "s.zarr", window=16))
        assert text.startswith(f"{folder / 'other.tif'}: expected ")
        assert f"found {found}" in text
        assert not (tmp_path / "s.zarr.partial").exists()


def band_files(folder: Path, tags: list[list], sides: tuple[int, ...] = (24, 24)) -> dict[str, object]:
    """A chip of two files with their own tags."""
    folder.mkdir()
    write_csv(folder / "tags.csv", [("p", "x")])
    for band, tag, side in zip(("B1", "B2"), tags, sides, strict=True):
        values = np.zeros((side, side), np.uint16)
        tifffile.imwrite(folder / f"p_{band}.tif", values, photometric="minisblack", metadata=None, extratags=tag)
    return {"files": "{name}_{band}.tif", "bands": ("B1", "B2")}


AT = {"corner": (500_000, 5_400_000), "side": (10, 10)}
OTHERS = {
    "origin": geo_tags(UTM_33N, corner=(500_010, 5_400_000), side=(10, 10)),
    "row": geo_tags(UTM_33N, corner=(500_000, 5_399_990), side=(10, 10)),
    "CRS": geo_tags(WGS_84_UTM_34N, **AT),
}


@pytest.mark.parametrize("other", OTHERS)
def test_files_of_a_chip_in_different_places_are_refused(tmp_path: Path, refused: Callable, other: str) -> None:
    settings = band_files(tmp_path / "in", [geo_tags(UTM_33N, **AT), OTHERS[other]])
    files = [tmp_path / "in" / f"p_{band}.tif" for band in ("B1", "B2")]
    for more in ({}, {"window": 24}):
        write_csv(tmp_path / "in" / "tags.csv", [("p_r00000_c00000" if more else "p", "x")])
        text = refused(lambda more=more: windows_store(tmp_path / "in", tmp_path / "s.zarr", **settings, **more))
        assert text.startswith(
            f"{files[1]}: expected the place of {files[0]} (EPSG:32633 at x 500000, y 5400000), a band of the same chip"
        )
        assert text.endswith("Bring both to one grid with gdalwarp, or remove the chip.")


SAME = {
    "twice as large pixels": (geo_tags(UTM_33N, corner=(500_000, 5_400_000), side=(20, 20)), 12),
    "half a pixel of Landsat": (geo_tags(UTM_33N, corner=(499_995, 5_400_005), side=(20, 20)), 12),
    "no place": ([], 24),
    "a name instead of a code": (geo_tags({MODEL: 1, PROJECTED: 32767, CITATION: "WGS 84 / UTM zone 33N"}, **AT), 24),
}


@pytest.mark.parametrize("other", SAME)
def test_files_of_a_chip_on_the_same_ground_are_read(tmp_path: Path, other: str) -> None:
    tags, side = SAME[other]
    settings = band_files(tmp_path / "in", [geo_tags(UTM_33N, **AT), tags], (24, side))
    store = windows_store(tmp_path / "in", tmp_path / "s.zarr", **settings, fit="resize")
    assert store.transform is not None
    assert store.transform[0].tolist() == [10, 0, 500_000, 0, -10, 5_400_000]


def test_bands_of_a_raster_must_have_one_size(tmp_path: Path, refused: Callable) -> None:
    settings = band_files(tmp_path / "in", [[], []], (24, 12))
    write_csv(tmp_path / "in" / "tags.csv", [("p_r00000_c00000", "x")])
    text = refused(lambda: windows_store(tmp_path / "in", tmp_path / "s.zarr", **settings, window=12))
    files = [tmp_path / "in" / f"p_{band}.tif" for band in ("B1", "B2")]
    assert text.startswith(
        f"{files[1]}: expected 24 x 24 uint16 pixels as in {files[0]}, because of WINDOW, found 12 x 12"
    )
