"""A conversion refuses bad settings, files and stores with one line, and leaves no store behind."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tifffile
import zarr
from helpers.chips import Chips, conversion, to_store, write_chips, write_csv
from helpers.commands import python
from helpers.files import tree

from preprocess import zarr_store
from preprocess.convert import convert
from preprocess.zarr_store import Store, open_store


def test_a_store_with_a_missing_shard_is_not_called_complete(chips: Chips, tmp_path: Path, refused: Callable) -> None:
    store = to_store(chips, tmp_path / "s.zarr")
    zarr_store.shard_path(store.path, 0).unlink()
    assert "the shard is missing" in refused(lambda: to_store(chips, store.path))


def test_changed_sources_are_named_and_the_store_stays_as_it_is(
    chips: Chips, tmp_path: Path, refused: Callable
) -> None:
    store = to_store(chips, tmp_path / "s.zarr")
    before = tree(store.path)
    path = chips.folder / "t_3.tif"
    os.utime(path, ns=(1, 1))
    assert f"size or time of 1 source files, first {path}" in refused(lambda: to_store(chips, store.path))
    assert "CODEC: lz4, now none" in refused(lambda: to_store(chips, store.path, codec="none"))
    assert "BANDS: blue,green,red,nir, now a,b,c,d" in refused(
        lambda: to_store(chips, store.path, bands=("a", "b", "c", "d"))
    )
    write_csv(chips.csv, [(f"t_{index}", "a") for index in range(12)])
    assert "classes: a,b,c, now a" in refused(lambda: to_store(chips, store.path))
    write_csv(chips.csv, [(f"t_{index}", tags) for index, tags in enumerate(chips.tags[:-1])])
    assert "number of chips: 12, now 11" in refused(lambda: to_store(chips, store.path))
    assert tree(store.path) == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": Path("/no/such/folder")}, "expected a folder of TIFFs, found nothing"),
        ({"labels": Path("/no/such.csv")}, "expected a CSV file, found nothing"),
        ({"labels": None}, "LABELS is not set"),
        ({"codec": "zip"}, "CODEC=zip: expected lz4 or none"),
        ({"jobs": 0}, "JOBS=0"),
        ({"store": Path(__file__)}, f"{Path(__file__).name}: is a file. Choose another name"),
        (
            {"preset": "mars"},
            "PRESET=mars: expected one of planet, bigearthnet, eurosat, ucmerced, ucmerced_multilabel.",
        ),
        ({"bands": ("a", "b")}, "expected 2 bands (a, b), found 4"),
        ({"bands": ("a", "a", "b", "c")}, "a different name for each band"),
        ({"classes": ("a", "b", "c", "a")}, "CLASSES=a,b,c,a: expected a different name for each class"),
        ({"classes": ("a", "b", "c", "")}, "CLASSES=a,b,c,: expected a different name for each class"),
        ({"classes": ("a", "b")}, "expected one of the classes a, b, found tag 'c'"),
        ({"preset": "planet"}, "expected one of the classes clear"),
        ({"store": Path("/proc/x/chips.zarr")}, "the folder cannot be made"),
    ],
)
def test_bad_settings_are_refused(
    chips: Chips, tmp_path: Path, refused: Callable, settings: dict, message: str
) -> None:
    arguments = {"data": chips.folder, "labels": chips.csv, "store": tmp_path / "s.zarr", **settings}
    assert message in refused(lambda: convert(conversion(**arguments)))
    assert not (tmp_path / "s.zarr").exists()


def test_missing_chips_are_refused_unless_allowed(
    chips: Chips, tmp_path: Path, refused: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in (2, 5, 7, 11):
        (chips.folder / f"t_{index}.tif").unlink()
    text = refused(lambda: to_store(chips, tmp_path / "s.zarr"))
    assert "4 of 12 chips of the CSV are missing" in text
    assert "(first: t_2, t_5, t_7)" in text
    assert "ALLOW_MISSING=1" in text
    store = to_store(chips, tmp_path / "s.zarr", allow_missing=True)
    assert "4 of 12" in capsys.readouterr().out
    present = [0, 1, 3, 4, 6, 8, 9, 10]
    assert np.array_equal(store.csv_row, present)
    assert np.array_equal(zarr.open_group(store.path)["tiles"][...], chips.values[present])


def test_a_folder_without_any_chip_of_the_csv_is_refused(chips: Chips, tmp_path: Path, refused: Callable) -> None:
    (tmp_path / "empty").mkdir()
    request = conversion(data=tmp_path / "empty", labels=chips.csv, store=tmp_path / "s.zarr", allow_missing=True)
    assert "No chip is left" in refused(lambda: convert(request))


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((16, 17, 4), np.uint16), "found (4, 16, 17) uint16"),
        (np.zeros((16, 16, 3), np.uint16), "found (3, 16, 16) uint16"),
        (np.zeros((16, 16, 4), np.uint8), "found (4, 16, 16) uint8"),
    ],
)
def test_a_chip_of_another_shape_or_dtype_is_refused(
    session_chips: Chips, tmp_path: Path, refused: Callable, values: np.ndarray, message: str, jobs: int
) -> None:
    chips = write_chips(tmp_path / "tif", count=300)
    tifffile.imwrite(chips.folder / "t_280.tif", values, photometric="minisblack", planarconfig="contig")
    text = refused(lambda: to_store(chips, tmp_path / "s.zarr", jobs=jobs))
    assert "t_280.tif: expected (4, 16, 16) uint16" in text
    assert message in text
    assert not (tmp_path / "s.zarr").exists()


def test_a_damaged_chip_is_named_and_once_it_is_repaired_the_store_is_exact(tmp_path: Path, refused: Callable) -> None:
    chips = write_chips(tmp_path / "tif", count=300)
    bad, whole = chips.folder / "t_290.tif", (chips.folder / "t_290.tif").read_bytes()
    bad.write_bytes(whole[:-9])
    assert "t_290.tif" in refused(lambda: to_store(chips, tmp_path / "s.zarr"))
    bad.write_bytes(whole)
    assert np.array_equal(zarr.open_group(to_store(chips, tmp_path / "s.zarr").path)["tiles"][...], chips.values)


def test_a_file_that_is_not_a_tiff_is_named(chips: Chips, tmp_path: Path, refused: Callable) -> None:
    (chips.folder / "t_4.tif").write_text("hello")
    text = refused(lambda: to_store(chips, tmp_path / "s.zarr"))
    assert "t_4.tif" in text
    assert "not a TIFF" in text


@pytest.mark.parametrize("name", ["t_0.tif", "t_4.tif"])
def test_a_folder_with_the_name_of_a_chip_is_refused(
    chips: Chips, tmp_path: Path, refused: Callable, name: str
) -> None:
    (chips.folder / name).unlink()
    (chips.folder / name).mkdir()
    assert f"{name}: expected a TIFF file, found a folder" in refused(lambda: to_store(chips, tmp_path / "s.zarr"))


def test_a_first_chip_without_read_permission_is_named(chips: Chips, tmp_path: Path, refused: Callable) -> None:
    denied = PermissionError(13, "Permission denied")  # the test raises it: root may read every file
    with mock.patch("preprocess.tiff.Reader.read", side_effect=denied):
        text = refused(lambda: to_store(chips, tmp_path / "s.zarr"))
    assert "t_0.tif: expected a readable file, found Permission denied" in text


def test_one_line_and_exit_code_2_on_the_command_line(tmp_path: Path) -> None:
    ended = python("-m", "preprocess", "convert", f"DATA={tmp_path / 'no'}", f"STORE={tmp_path / 's.zarr'}")
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "expected a folder of TIFFs" in ended.stderr
    assert python("-m", "preprocess", "convert").returncode == 2
    assert python("-m", "preprocess", "info", f"STORE={tmp_path}").returncode == 2


def test_a_path_that_is_not_a_store_is_refused(tmp_path: Path, refused: Callable, session_store: Store) -> None:
    assert "found nothing" in refused(lambda: open_store(tmp_path / "no.zarr"))
    (tmp_path / "file").write_text("x")
    assert "found a file" in refused(lambda: open_store(tmp_path / "file"))
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    assert "another Zarr group" in refused(lambda: open_store(tmp_path / "other.zarr"))
    meta = json.loads((session_store.path / "zarr.json").read_text())
    for key, value, found in (
        ("complete", False, "the store is incomplete"),
        ("version", 9, "version 1 to 3, found 9"),
    ):
        path = tmp_path / f"{key}.zarr"
        path.mkdir()
        changed = {**meta, "attributes": {**meta["attributes"], key: value}}
        (path / "zarr.json").write_text(json.dumps(changed))
        assert found in refused(lambda path=path: open_store(path))


def test_a_chip_whose_header_claims_another_size_is_named_with_the_size_of_the_others(
    session_chips: Chips, tmp_path: Path, refused: Callable
) -> None:
    chips = write_chips(tmp_path / "tif", count=3)
    tifffile.imwrite(chips.folder / "t_1.tif", np.zeros((4000, 4000, 4), np.uint16), photometric="minisblack",
                     planarconfig="contig", compression="zstd")  # fmt: skip
    text = refused(lambda: to_store(chips, tmp_path / "s.zarr"))
    assert f"t_1.tif: expected (4, 16, 16) uint16 (bands, height, width) as in {chips.folder}/t_0.tif" in text
