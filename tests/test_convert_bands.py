"""Bands of a conversion: their names, 0 as white, nodata, and the axis of a TIFF that holds them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from helpers.chips import Chips, to_store, write_csv


def first_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def one_file_each(folder: Path, values: list[np.ndarray], **options: object) -> Chips:
    """Chips a, b, ... written with tifffile's options."""
    folder.mkdir()
    names = [chr(ord("a") + index) for index in range(len(values))]
    for name, value in zip(names, values, strict=True):
        tifffile.imwrite(folder / f"{name}.tif", value, **options)  # type: ignore[arg-type]
    write_csv(folder / "tags.csv", [(name, "x") for name in names])
    return Chips(folder, folder / "tags.csv", np.zeros((0, 0)), ["x"] * len(names))


@pytest.fixture
def three() -> list[np.ndarray]:
    return [np.random.default_rng(seed).integers(0, 2**16, (16, 12, 3), dtype=np.uint16) for seed in range(3)]


@pytest.mark.parametrize("photometric", ["minisblack", "cielab"])
def test_three_samples_that_are_not_colours_get_no_names(
    tmp_path: Path, three: list[np.ndarray], photometric: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chips = one_file_each(tmp_path / "tif", three, photometric=photometric, planarconfig="contig")
    assert to_store(chips, tmp_path / "s.zarr").layout.bands == ("band1", "band2", "band3")
    assert f"{tmp_path}/s.zarr: the bands have no names. Training needs names, such as BANDS=blue,green,red,nir." in (
        first_lines(capsys)
    )


@pytest.mark.parametrize(
    ("names", "offer"),
    [
        (("B02", "B03", "B04"), "and the files have names: BANDS=B02,B03,B04."),
        (("Band 1", "green", "red"), "and the files have names: BANDS='Band 1,green,red'."),
        (("a,b", "c", "d"), "and the files have the names a,b, c, d, which BANDS cannot hold."),
        (
            ("\x1b[31mred", "$(id)", "x"),
            "and the files have the names \\x1b[31mred, $(id), x, which BANDS cannot hold.",
        ),
        (("same", "same", "x"), "and the files have the names same, same, x, which BANDS cannot hold."),
    ],
)
def test_band_names_of_the_files_are_offered_and_escaped(
    tmp_path: Path, three: list[np.ndarray], names: tuple[str, ...], offer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    items = "".join(
        f'<Item name="DESCRIPTION" sample="{index}" role="description">{name}</Item>'
        for index, name in enumerate(names)
    )
    tags = [(42112, 2, 0, f"<GDALMetadata>{items}</GDALMetadata>", True)]
    chips = one_file_each(tmp_path / "tif", three, photometric="rgb", extratags=tags)
    assert to_store(chips, tmp_path / "s.zarr").layout.bands == ("band1", "band2", "band3")
    assert f"{tmp_path}/s.zarr: the bands have no names. Training needs names, {offer}" in first_lines(capsys)


def test_a_file_whose_colours_contradict_the_first_file_is_refused(
    tmp_path: Path, three: list[np.ndarray], refused: Callable
) -> None:
    chips = one_file_each(tmp_path / "tif", three, photometric="rgb")
    tifffile.imwrite(chips.folder / "b.tif", three[1], photometric="cielab")
    assert "b.tif: expected red, green and blue samples" in refused(lambda: to_store(chips, tmp_path / "s.zarr"))
    assert to_store(chips, tmp_path / "s.zarr", bands=("red", "green", "blue")).num_chips == 3
    tifffile.imwrite(chips.folder / "b.tif", three[1], photometric="minisblack", planarconfig="contig")
    assert to_store(chips, tmp_path / "t.zarr").layout.bands == ("red", "green", "blue")


def test_files_with_0_as_white_and_0_as_black_are_not_mixed(
    tmp_path: Path, three: list[np.ndarray], refused: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    chips = one_file_each(tmp_path / "tif", [value[..., 0] for value in three], photometric="miniswhite")
    store = to_store(chips, tmp_path / "s.zarr")
    assert np.array_equal(zarr.open_group(store.path)["tiles"][:, 0], np.stack([value[..., 0] for value in three]))
    assert f"{chips.folder}/a.tif: the files define 0 as white. Their values are stored unchanged." in first_lines(
        capsys
    )
    tifffile.imwrite(chips.folder / "c.tif", three[2][..., 0], photometric="minisblack")
    assert "c.tif: expected 0 as white" in refused(lambda: to_store(chips, tmp_path / "t.zarr"))


def test_the_conversion_and_info_report_nodata(
    tmp_path: Path, three: list[np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    from preprocess.info import info

    tags = [(42113, 2, 0, "65535", True)]
    store = to_store(one_file_each(tmp_path / "tif", three, photometric="rgb", extratags=tags), tmp_path / "s.zarr")
    line = (
        f"{store.path}: the files mark 65535 as nodata. It counts as a value in the statistics. NODATA=tag leaves it "
        "out."
    )
    assert line in first_lines(capsys)
    assert store.source["nodata"] == "65535"
    info(store.path, "course")
    assert "nodata       65535 (marked by the files; counts as a value in mean and std)" in first_lines(capsys)


@pytest.fixture
def pages() -> list[np.ndarray]:
    """(rows, columns, bands), which tifffile writes as one page per row."""
    return [np.random.default_rng(seed).integers(0, 2**16, (20, 24, 5), dtype=np.uint16) for seed in range(3)]


def test_rows_written_as_pages_are_recognised_by_the_number_of_bands_and_reported(
    tmp_path: Path, pages: list[np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    chips = one_file_each(tmp_path / "tif", pages, photometric="minisblack")
    store = to_store(chips, tmp_path / "s.zarr", bands=tuple("abcde"))
    assert np.array_equal(zarr.open_group(store.path)["tiles"][...], np.moveaxis(np.stack(pages), -1, 1))
    assert store.source["axes"] == "YXS"
    line = "20 pages of 24 x 5 are read as rows of 5 bands of 20 x 24. AXES=SYX reads 20 bands of 24 x 5."
    assert f"{chips.folder}/a.tif: {line}" in first_lines(capsys)
    to_store(chips, tmp_path / "s.zarr", bands=tuple("abcde"))
    assert "Nothing to do" in capsys.readouterr().out


def test_axes_set_the_order_of_the_dimensions_in_the_files(
    tmp_path: Path, pages: list[np.ndarray], refused: Callable
) -> None:
    chips = one_file_each(tmp_path / "tif", pages, photometric="minisblack")
    rows = to_store(chips, tmp_path / "rows.zarr", axes="YXS")
    assert np.array_equal(zarr.open_group(rows.path)["tiles"][...], np.moveaxis(np.stack(pages), -1, 1))
    bands = to_store(chips, tmp_path / "bands.zarr", axes="SYX")
    assert np.array_equal(zarr.open_group(bands.path)["tiles"][...], np.stack(pages))
    assert "AXES: YXS, now SYX" in refused(lambda: to_store(chips, rows.path, axes="SYX"))
    assert "AXES=xyz: expected YXS or SYX" in refused(lambda: to_store(chips, tmp_path / "t.zarr", axes="xyz"))


def test_a_wrong_number_of_bands_is_refused_with_the_axes_that_fit(
    tmp_path: Path, pages: list[np.ndarray], refused: Callable
) -> None:
    chunky = one_file_each(tmp_path / "c", pages, photometric="minisblack", planarconfig="contig")
    many = tuple(f"b{index}" for index in range(20))
    assert "AXES=SYX reads 20 bands of 24 x 5" in refused(lambda: to_store(chunky, tmp_path / "s.zarr", bands=many))
    planes = one_file_each(tmp_path / "p", pages, photometric="minisblack", planarconfig="separate")
    five = tuple("abcde")
    assert "AXES=YXS reads 5 bands of 20 x 24" in refused(lambda: to_store(planes, tmp_path / "s.zarr", bands=five))
