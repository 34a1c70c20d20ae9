"""Chips that are PNGs or JPEGs: found by their names, converted, scored."""

from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from helpers.chips import conversion, write_chips, write_csv
from helpers.matching import files, match
from helpers.pictures import colours, encoded, planet_jpeg

from analysis.chip_folder import list_files
from preprocess.convert import convert
from preprocess.zarr_store import Store, open_store


def to_store(folder: Path, store: Path, *names: str, **settings: object) -> Store:
    write_csv(folder / "tags.csv", [(name, "x") for name in names])
    convert(conversion(data=folder, labels=folder / "tags.csv", store=store, **settings))
    return open_store(store)


def pixels(store: Store) -> np.ndarray:
    return np.asarray(zarr.open_group(store.path)["tiles"][...])


@pytest.mark.parametrize("form", ["png", "jpeg"])
def test_colours_are_red_green_and_blue_with_the_decoders_values(tmp_path: Path, form: str) -> None:
    data = [encoded(colours(seed), form) for seed in range(3)]
    for name, each in zip("abc", data, strict=True):
        (tmp_path / f"{name}.{form}").write_bytes(each)
    store = to_store(tmp_path, tmp_path / "s.zarr", "a", "b", "c")
    decode = imagecodecs.png_decode if form == "png" else imagecodecs.jpeg8_decode
    assert np.array_equal(pixels(store), np.stack([np.moveaxis(decode(each), -1, 0) for each in data]))
    assert store.layout.bands == ("red", "green", "blue")
    assert store.layout.dtype == "uint8"


def test_grey_chips_of_16_bits_are_one_band_of_uint16(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 2**16, (2, 16, 16), dtype=np.uint16)
    for name, chip in zip("ab", values, strict=True):
        (tmp_path / f"{name}.png").write_bytes(imagecodecs.png_encode(chip))
    store = to_store(tmp_path, tmp_path / "s.zarr", "a", "b", bands=("nir",))
    assert np.array_equal(pixels(store)[:, 0], values)


def test_jpegs_of_planets_form_are_red_green_and_blue(tmp_path: Path) -> None:
    opaque = np.dstack([colours(), np.full((24, 20), 255, np.uint8)])
    (tmp_path / "a.jpg").write_bytes(planet_jpeg(opaque))
    store = to_store(tmp_path, tmp_path / "s.zarr", "a")
    assert store.layout.bands == ("red", "green", "blue")
    assert np.abs(pixels(store)[0].astype(int) - np.moveaxis(opaque[..., :3], -1, 0)).mean() < 2


def test_the_preset_planet_reads_jpegs_as_red_green_blue_and_opaque_alpha_is_no_band(
    tmp_path: Path, refused: Callable
) -> None:
    opaque = np.dstack([colours(), np.full((24, 20), 255, np.uint8)])
    (tmp_path / "a.jpg").write_bytes(planet_jpeg(opaque))
    write_csv(tmp_path / "train_v2.csv", [("a", "water")])
    convert(conversion(data=tmp_path, preset="planet", store=tmp_path / "s.zarr"))
    assert open_store(tmp_path / "s.zarr").layout.bands == ("red", "green", "blue")
    bands = ("blue", "green", "red", "nir")
    text = refused(lambda: to_store(tmp_path, tmp_path / "t.zarr", "a", bands=bands))
    assert "a.jpg: expected 4 bands, found 3 and opaque alpha. BANDS names one too many." in text


def test_a_chip_of_another_kind_than_the_first_is_refused(tmp_path: Path, refused: Callable) -> None:
    (tmp_path / "a.png").write_bytes(encoded(colours(), "png"))
    for other, found in (
        (encoded(colours(samples=1)[..., 0], "png"), "(1, 24, 20) uint8"),
        (encoded(colours(height=25), "png"), "(3, 25, 20) uint8"),
        (imagecodecs.png_encode(colours().astype(np.uint16)), "(3, 24, 20) uint16"),
    ):
        (tmp_path / "b.png").write_bytes(other)
        text = refused(lambda: to_store(tmp_path, tmp_path / "s.zarr", "a", "b"))
        assert f"b.png: expected (3, 24, 20) uint8 (bands, height, width) as in {tmp_path}/a.png, found {found}" in text


def test_a_damaged_chip_is_named(tmp_path: Path, refused: Callable) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(encoded(colours(), "jpeg"))
    (tmp_path / "b.jpg").write_bytes((tmp_path / "b.jpg").read_bytes()[:-20])
    text = refused(lambda: to_store(tmp_path, tmp_path / "s.zarr", "a", "b"))
    assert "b.jpg: expected a valid PNG or JPEG, found a file that is damaged (JPEG data without an end marker)" in text


def test_axes_are_refused_for_pictures(tmp_path: Path, refused: Callable) -> None:
    (tmp_path / "a.png").write_bytes(encoded(colours(), "png"))
    text = refused(lambda: to_store(tmp_path, tmp_path / "s.zarr", "a", axes="YXS"))
    assert "AXES=YXS has no effect with PNG and JPEG files" in text


def test_names_mean_pictures_with_or_without_their_suffix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = files(tmp_path / "jpg", "a.jpg", "b.JPEG", "s/c.png", "d.jpg.png")
    found = match(folder, "a", "b.JPEG", "s/c", "d.jpg")
    assert found.paths == tuple(str(folder / name) for name in ("a.jpg", "b.JPEG", "s/c.png", "d.jpg.png"))
    assert capsys.readouterr().out == ""
    found = match(folder, "A.JPG", "b.png", "jpg\\s\\c")
    assert found.paths == tuple(str(folder / name) for name in ("a.jpg", "b.JPEG", "s/c.png"))
    assert "3 of 3 names differ from the names of their files. The first, 'A.JPG', means 'a.jpg' (another case)" in (
        capsys.readouterr().out
    )


def test_two_pictures_of_one_name_need_the_exact_name(tmp_path: Path, refused: Callable) -> None:
    folder = files(tmp_path, "a.jpg", "a.png")
    assert "line 2: 'a' can mean 2 files" in refused(lambda: match(folder, "a"))
    assert match(folder, "a.png").paths == (str(folder / "a.png"),)
    assert match(folder, "a.png", "a.jpg").csv_row.tolist() == [0, 1]


def test_pictures_beside_tiffs_are_not_chips(
    tmp_path: Path, refused: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = files(tmp_path, "a.tif", "a.jpg", "b.jpg", "s/c.jpg")
    assert match(folder, "a.jpg").paths == (str(folder / "a.tif"),)
    assert "1 of 2 chips of the CSV are missing in" in refused(lambda: match(folder, "a", "b"))
    assert list_files(folder).names == ["a"]
    assert "PNGs and JPEGs beside TIFFs are left out; found a.tif, and no TIFF for s/c.jpg (1 such files)." in (
        capsys.readouterr().out
    )


def test_missing_pictures_are_counted_and_skipped(tmp_path: Path, refused: Callable) -> None:
    folder = files(tmp_path, "a.jpg", "s/b.jpg")
    text = refused(lambda: match(folder, "a", "b", "c"))
    assert "2 of 3 chips of the CSV are missing" in text
    assert "'b' may be 's/b.jpg'" in text
    assert match(folder, "a", "c", allow_missing=True).csv_row.tolist() == [0]


def test_a_folder_lists_pictures_if_it_has_no_tiff(tmp_path: Path, refused: Callable) -> None:
    assert "expected TIFFs, PNGs or JPEGs" in refused(lambda: list_files(tmp_path))
    listed = list_files(files(tmp_path, "b.png", "a.JPG", "s/c.jpeg", ".hidden.png"))
    assert listed.names == ["a", "b", "s/c"]
    assert [Path(path).name for path in listed.paths] == ["a.JPG", "b.png", "c.jpeg"]
    files(tmp_path, "a.png")
    assert "two files for one name, 'a'" in refused(lambda: list_files(tmp_path))


def test_tiffs_are_still_converted_as_before(tmp_path: Path) -> None:
    chips = write_chips(tmp_path / "tif", count=3)
    (chips.folder / "t_0.png").write_bytes(b"")
    store = to_store(chips.folder, tmp_path / "s.zarr", "t_0", "t_1", "t_2")
    assert np.array_equal(pixels(store), chips.values)
    assert "files" not in store.source
    assert "fit" not in store.source


def test_a_missing_tiff_whose_picture_is_there_says_why_the_picture_is_no_chip(
    tmp_path: Path, refused: Callable
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", colours(), photometric="rgb")
    for name in "bc":
        (tmp_path / f"{name}.png").write_bytes(encoded(colours(), "png"))
    write_csv(tmp_path / "tags.csv", [("a.png", "x"), ("b.png", "x"), ("c.png", "x")])
    settings = conversion(data=tmp_path, labels=tmp_path / "tags.csv", store=tmp_path / "s.zarr")
    text = refused(lambda: convert(settings))
    assert "2 of 3 chips of the CSV are missing in" in text
    assert "b.png is there, but other rows have TIFFs, so PNGs and JPEGs are no chips." in text
