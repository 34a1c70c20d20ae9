"""FILES: the files of a chip are found by a pattern, one file or one per band."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from helpers.chips import conversion, smooth, write_csv
from helpers.pictures import colours, encoded, write_bands
from PIL import Image

from preprocess.convert import convert
from preprocess.file_patterns import read_pattern
from preprocess.pattern_matching import list_pattern
from preprocess.zarr_store import Store, open_store

BANDS = ("B02", "B03", "B05")


def band(seed: int, side: int = 24, dtype: str = "uint16") -> np.ndarray:
    return smooth(np.random.default_rng(seed), (1, side, side), dtype)[0]


def patches(folder: Path, form: str = "{name}/{name}_{band}.tif", count: int = 4, small: int = 24) -> np.ndarray:
    """Chips p_0, p_1, ... with a CSV; B05 has `small` x `small` pixels. Returns the values of 24 x 24 pixels."""
    for index in range(count):
        sides = {"B02": 24, "B03": 24, "B05": small}
        files = {name: band(10 * index + k, side) for k, (name, side) in enumerate(sides.items())}
        write_bands(folder, f"p_{index}", files, form)
    write_csv(folder / "tags.csv", [(f"p_{index}", "x") for index in range(count)])
    return np.stack([[band(10 * index + k) for k in range(3)] for index in range(count)])


def to_store(folder: Path, store: Path, **settings: object) -> Store:
    values = {"files": "{name}/{name}_{band}.tif", "bands": BANDS, "labels": folder / "tags.csv", **settings}
    convert(conversion(data=folder, store=store, **values))
    return open_store(store)


def pixels(store: Store) -> np.ndarray:
    return np.asarray(zarr.open_group(store.path)["tiles"][...])


@pytest.mark.parametrize(
    "form",
    [
        "{name}/{name}_{band}.tif",
        "{name}_{band}.tif",
        "{band}/{name}.TIF",
        "a/{band}/s/{name}.tiff",
        "{name}/{band}.tif",
    ],
)
def test_a_chip_has_a_file_per_band_in_any_layout(tmp_path: Path, form: str) -> None:
    values = patches(tmp_path / "s2", form)
    store = to_store(tmp_path / "s2", tmp_path / "s.zarr", files=form)
    assert store.layout.bands == BANDS
    assert np.array_equal(pixels(store), values)
    assert store.source["files"] == form


def test_bands_choose_files_and_their_order(tmp_path: Path) -> None:
    values = patches(tmp_path / "s2")
    store = to_store(tmp_path / "s2", tmp_path / "s.zarr", bands=("B05", "B02"))
    assert np.array_equal(pixels(store), values[:, [2, 0]])


def test_a_star_is_any_folder_as_bigearthnet_has_one_per_scene(tmp_path: Path, refused: Callable) -> None:
    folder = tmp_path / "s2"
    values = patches(folder)
    for index in range(4):
        (folder / f"scene_{index % 2}").mkdir(exist_ok=True)
        (folder / f"p_{index}").rename(folder / f"scene_{index % 2}" / f"p_{index}")
    form = "scene_*/{name}/{name}_{band}.tif"
    store = to_store(folder, tmp_path / "s.zarr", files=form)
    assert np.array_equal(pixels(store), values)
    listed = list_pattern(folder, read_pattern(form, BANDS))
    assert [name for name, _ in listed] == ["p_0", "p_1", "p_2", "p_3"]
    assert listed[1][1] == f"{folder}/scene_1/p_1/p_1_{{band}}.tif"
    for name in ("scene_0/p_0/._p_0", "scene_0/._p_0/._p_0"):  # macOS writes such files on other disks
        hidden = folder / f"{name}_{BANDS[0]}.tif"
        hidden.parent.mkdir(exist_ok=True)
        hidden.write_bytes(b"Mac OS X")
    assert list_pattern(folder, read_pattern(form, BANDS)) == listed
    shutil.rmtree(folder / "scene_0/._p_0")
    (folder / "scene_1" / "p_0").mkdir()
    text = refused(lambda: to_store(folder, tmp_path / "t.zarr", files=form))
    assert f"'p_0' is in {folder}/scene_0 and in {folder}/scene_1. Remove one." in text


def test_pictures_can_be_bands_and_a_pattern_can_name_one_file_per_chip(tmp_path: Path) -> None:
    write_csv(tmp_path / "tags.csv", [("a.jpg", "x"), ("b", "x")])
    for index, name in enumerate("ab"):
        for band_name, form in (("red", "png"), ("nir", "png")):
            picture = encoded(colours(index, samples=1)[..., 0] + (band_name == "nir"), form)
            (tmp_path / f"{name}_{band_name}.png").write_bytes(picture)
        (tmp_path / "jpg").mkdir(exist_ok=True)
        (tmp_path / "jpg" / f"{name}.jpg").write_bytes(encoded(colours(index), "jpeg"))
    store = to_store(tmp_path, tmp_path / "s.zarr", files="{name}_{band}.png", bands=("red", "nir"))
    grey = np.stack([colours(index, samples=1)[..., 0] for index in range(2)])
    assert np.array_equal(pixels(store), np.stack([grey, grey + np.uint8(1)], axis=1))
    single = to_store(tmp_path, tmp_path / "t.zarr", files="jpg/{name}.jpg", bands=None)
    assert single.layout.bands == ("red", "green", "blue")
    decoded = imagecodecs.jpeg8_decode((tmp_path / "jpg" / "b.jpg").read_bytes())
    assert np.array_equal(pixels(single)[1], np.moveaxis(decoded, -1, 0))


def test_missing_bands_are_named_counted_and_skipped_on_request(
    tmp_path: Path, refused: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "s2"
    values = patches(folder)
    (folder / "p_1" / "p_1_B03.tif").unlink()
    (folder / "p_3" / "p_3_B02.tif").unlink()
    (folder / "p_3" / "p_3_B05.tif").unlink()
    line = (
        f"2 of 4 chips of the CSV are missing in {folder} or lack a band (3 files, first: p_1/p_1_B03.tif, "
        "p_3/p_3_B02.tif, p_3/p_3_B05.tif)"
    )
    assert f"{line}. ALLOW_MISSING=1 skips them." in refused(lambda: to_store(folder, tmp_path / "s.zarr"))
    store = to_store(folder, tmp_path / "s.zarr", allow_missing=True)
    assert f"{line}; skipping them." in capsys.readouterr().out
    assert store.names.tolist() == ["p_0", "p_2"]
    assert store.csv_row.tolist() == [0, 2]
    assert np.array_equal(pixels(store), values[[0, 2]])
    text = refused(lambda: to_store(folder, tmp_path / "t.zarr", files="{name}_{band}.tif", allow_missing=True))
    assert "No chip is left. Does FILES={name}_{band}.tif fit the folder?" in text


def test_a_changed_file_of_any_band_is_noticed(tmp_path: Path, refused: Callable) -> None:
    """Also if the new file has the size of the old one and is older."""
    folder = tmp_path / "s2"
    patches(folder)
    store = to_store(folder, tmp_path / "s.zarr")
    path = folder / "p_2" / "p_2_B03.tif"
    before = path.stat()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns - 10**9))
    text = refused(lambda: to_store(folder, store.path))
    assert f"size or time of 1 source files, first {folder}/p_2/p_2_{{band}}.tif" in text
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    to_store(folder, store.path)
    for path in sorted(folder.glob("*/*.tif")):
        path.rename(path.with_suffix(".TIF"))
    text = refused(lambda: to_store(folder, store.path, files="{name}/{name}_{band}.TIF"))
    assert "FILES: {name}/{name}_{band}.tif, now {name}/{name}_{band}.TIF" in text


def test_bands_of_other_sizes_are_refused_with_their_names(tmp_path: Path, refused: Callable) -> None:
    patches(tmp_path / "s2", small=12)
    text = refused(lambda: to_store(tmp_path / "s2", tmp_path / "s.zarr"))
    assert "expected bands of one size, found B02 24 x 24, B03 24 x 24, B05 12 x 12. FIT=resize brings smaller" in text
    for way in ("crop", "pad"):
        text = refused(lambda way=way: to_store(tmp_path / "s2", tmp_path / "s.zarr", size=24, fit=way))
        assert "expected bands of one size" in text


@pytest.mark.parametrize("settings", [{}, {"size": 24}, {"size": 16}])
def test_fit_resize_brings_bands_to_the_largest_or_to_size(
    tmp_path: Path, settings: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    values = patches(tmp_path / "s2", small=12)
    store = to_store(tmp_path / "s2", tmp_path / "s.zarr", fit="resize", **settings)
    side = settings.get("size", 24)
    stored = pixels(store)
    assert stored.shape == (4, 3, side, side)
    if side == 24:
        assert np.array_equal(stored[:, :2], values[:, :2])
    for index in range(4):
        small = Image.fromarray(band(10 * index + 2, 12).astype(np.float32))
        cubic = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC))
        assert np.abs(stored[index, 2] - cubic.clip(0, 65535)).max() <= 0.5
    lines = capsys.readouterr().out
    assert "bands have different sizes, 24 x 24 (B02, B03); 12 x 12 (B05)." in lines
    assert f"FIT=resize to {side} x {side}: of 4 chips 4 resized." in lines


def test_files_with_other_properties_are_refused(tmp_path: Path, refused: Callable) -> None:
    folder = tmp_path / "s2"
    patches(folder)
    bad = folder / "p_2" / "p_2_B03.tif"
    for values, found in (
        (band(0, 20), "expected (1, 24, 24) uint16 (bands, height, width) as in"),
        (band(0, 24, "int16"), "found (1, 24, 24) int16"),
        (np.stack([band(0)] * 2), "found (2, 24, 24) uint16"),
    ):
        tifffile.imwrite(bad, values, photometric="minisblack")
        text = refused(lambda: to_store(folder, tmp_path / "s.zarr"))
        assert "p_2_B03.tif: " in text
        assert found in text
    first = folder / "p_0" / "p_0_B05.tif"
    tifffile.imwrite(first, band(0, 24, "int16"), photometric="minisblack")
    assert "bands of one dtype, found uint16 in B02 and int16 in B05" in refused(
        lambda: to_store(folder, tmp_path / "t.zarr")
    )
    tifffile.imwrite(first, np.stack([band(0)] * 2), photometric="minisblack")
    assert "p_0_B05.tif: expected one band, found 2" in refused(lambda: to_store(folder, tmp_path / "t.zarr"))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("/data/{name}.tif", "a path below DATA"),
        ("../{name}.tif", "a path below DATA"),
        ("x_{band}.tif", "{name}, and {band} for a file per band"),
        ("{name}_{year}.tif", "{name}, and {band} for a file per band"),
        ("{name}_{band}", "an ending of .tif, .tiff, .geotiff, .jpg, .jpeg, .png"),
        ("{name}/*_{band}.tif", "* only in folders before {name} and {band}"),
        ("**/{name}.tif", "no wildcard but *, which is one folder"),
        ("s[12]/{name}.tif", "no wildcard but *, which is one folder"),
    ],
)
def test_a_pattern_that_cannot_be_read_is_refused(
    tmp_path: Path, pattern: str, expected: str, refused: Callable
) -> None:
    text = refused(lambda: conversion(data=tmp_path, files=pattern))
    assert text.startswith(f"FILES={pattern}: expected {expected}")


def test_bands_must_say_what_band_is(tmp_path: Path, refused: Callable) -> None:
    patches(tmp_path / "s2")
    text = refused(lambda: to_store(tmp_path / "s2", tmp_path / "s.zarr", bands=None))
    assert "BANDS is not set. Name what {band} stands for, such as BANDS=B02,B03,B04,B08." in text
    assert "AXES=YXS has no effect with {band} in FILES; leave it out." in refused(
        lambda: to_store(tmp_path / "s2", tmp_path / "s.zarr", axes="YXS")
    )


def test_jobs_do_not_change_a_byte(tmp_path: Path) -> None:
    patches(tmp_path / "s2", count=260)
    one, two = (to_store(tmp_path / "s2", tmp_path / f"{jobs}.zarr", jobs=jobs) for jobs in (1, 2))
    assert one.fingerprint == two.fingerprint
