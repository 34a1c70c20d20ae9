"""Which axis of a TIFF holds the bands: pages, descriptions, AXES."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from helpers.tiffs import CHUNKY, PLANAR, written
from tiff_mutations import next_page

from preprocess import tiff


def test_a_stack_of_images_is_refused(tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.stack([CHUNKY] * 3), photometric="rgb", extrasamples=["assocalpha"])
    assert "one image" in refused(lambda: tiff.read(path))


@pytest.mark.parametrize("kind", ["shaped", "imagej", "ome"])
def test_fewer_pages_than_the_description_states_are_refused(tmp_path: Path, refused: Callable, kind: str) -> None:
    options = {"shaped": {}, "imagej": {"imagej": True}, "ome": {"ome": True}}[kind]
    data = written(PLANAR, photometric="minisblack", **options)
    (tmp_path / "whole.tif").write_bytes(data)
    assert np.array_equal(tiff.read(tmp_path / "whole.tif"), PLANAR)
    (tmp_path / "lost.tif").write_bytes(next_page(data, 2, 0))
    assert "expected 4 images, as its description says, found 3" in refused(lambda: tiff.read(tmp_path / "lost.tif"))


def test_an_ome_description_never_reads_another_file(tmp_path: Path, refused: Callable) -> None:
    tifffile.imwrite(tmp_path / "secret.ome.tif", PLANAR, photometric="minisblack", ome=True)
    with tifffile.TiffFile(tmp_path / "secret.ome.tif") as tif:
        xml = tif.ome_metadata or ""
    uuid = 'TiffData IFD="0"><UUID FileName="secret.ome.tif">urn:uuid:0</UUID></TiffData'
    xml = xml.replace('<TiffData IFD="0" PlaneCount="4"/>', f"<{uuid}>")
    tifffile.imwrite(
        tmp_path / "chip.ome.tif", CHUNKY[..., 0], photometric="minisblack", description=xml, metadata=None
    )
    assert "as its description says" in refused(lambda: tiff.read(tmp_path / "chip.ome.tif"))


def test_a_description_of_the_image_that_a_chip_was_cut_from_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "chip.tif"
    tifffile.imwrite(
        path,
        CHUNKY,
        photometric="rgb",
        extrasamples=["unspecified"],
        metadata=None,
        description='{"shape": [48, 40, 4]}',
    )
    assert np.array_equal(tiff.read(path), PLANAR)


def test_overviews_and_masks_are_not_read_as_bands(tmp_path: Path) -> None:
    path = tmp_path / "cog.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(CHUNKY, photometric="rgb", extrasamples=["unspecified"], metadata=None)
        file.write(CHUNKY[::2, ::2], photometric="rgb", extrasamples=["unspecified"], subfiletype=1, metadata=None)
        file.write(CHUNKY[..., 0] > 5, subfiletype=4, photometric="mask", metadata=None)
    with tifffile.TiffFile(path) as tif:
        assert len(tif.pages) == 3
    assert np.array_equal(tiff.read(path), PLANAR)


def test_pages_of_two_sizes_are_refused(tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "two.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(CHUNKY[..., 0], photometric="minisblack", metadata=None)
        file.write(CHUNKY[::2, ::2, 0], photometric="minisblack", metadata=None)
    assert "expected one image with one or more bands, found pages of (24, 20)" in refused(lambda: tiff.read(path))


def test_rows_written_as_pages_are_recognised_unless_the_expected_shape_or_axes_differ(
    tmp_path: Path, refused: Callable
) -> None:
    values = np.random.default_rng(0).integers(0, 2**16, (64, 64, 13), dtype=np.uint16)
    path = tmp_path / "pages.tif"
    tifffile.imwrite(path, values, photometric="minisblack")
    with tifffile.TiffFile(path) as tif:
        assert len(tif.pages) == 64
    bands_first = np.moveaxis(values, -1, 0)
    assert np.array_equal(tiff.read(path), bands_first)
    assert "64 pages of 64 x 13 are read as rows of 13 bands of 64 x 64" in tiff.read_facts(path).guess
    assert np.array_equal(tiff.read(path, expected=tiff.Expected(num_bands=13)), bands_first)
    assert np.array_equal(tiff.read(path, expected=tiff.Expected(num_bands=64)), values)
    assert np.array_equal(tiff.read(path, expected=tiff.Expected(shape=(13, 64, 64))), bands_first)
    assert np.array_equal(tiff.read(path, expected=tiff.Expected(shape=(64, 64, 13))), values)
    assert np.array_equal(tiff.read(path, expected=tiff.Expected(axes="SYX")), values)


@pytest.mark.parametrize(("axes", "first"), [("YXC", -1), ("CYX", 0)])
def test_axes_in_the_description_of_a_file_are_used(tmp_path: Path, axes: str, first: int) -> None:
    values = np.random.default_rng(0).integers(0, 2**16, (8, 8, 8), dtype=np.uint16)
    path = tmp_path / "cube.tif"
    tifffile.imwrite(path, values, photometric="minisblack", metadata={"axes": axes})
    assert np.array_equal(tiff.read(path), np.moveaxis(values, first, 0))


def test_pages_that_can_be_rows_or_bands_need_axes(tmp_path: Path, refused: Callable) -> None:
    values = np.random.default_rng(0).integers(0, 2**16, (8, 8, 8), dtype=np.uint16)
    path = tmp_path / "cube.tif"
    tifffile.imwrite(path, values, photometric="minisblack")
    for expectation in (tiff.ANY, tiff.Expected(num_bands=8), tiff.Expected(shape=(8, 8, 8))):
        assert "AXES=YXS" in refused(lambda expectation=expectation: tiff.read(path, expected=expectation))
    assert np.array_equal(tiff.read(path, expected=tiff.Expected(axes="SYX")), values)
    assert np.array_equal(tiff.read(path, expected=tiff.Expected(axes="YXS")), np.moveaxis(values, -1, 0))
