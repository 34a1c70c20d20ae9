"""Windows of a TIFF have the values that tifffile reads. Each block is decoded once. Damage is noticed as in chips."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tifffile
from helpers.chips import DTYPES
from helpers.rasters import corners, cut, raster, write_raster
from tiff_mutations import damage, set_tag, whole_files

from preprocess import tiff, tiff_segments
from preprocess.expected import ANY, Expected
from preprocess.raster import PIECE_BYTES, Raster
from preprocess.tiff_page import ChipError

CODINGS: dict[str, dict[str, Any]] = {
    "one strip": {},
    "strips": {"rowsperstrip": 7},
    "deflated strips": {"rowsperstrip": 7, "compression": "deflate"},
    "lzw strips": {"rowsperstrip": 16, "compression": "lzw", "predictor": True},
    "tiles": {"tile": (32, 16)},
    "zstd tiles": {"tile": (16, 32), "compression": "zstd", "predictor": True},
    "big-endian tiles": {"tile": (16, 16), "byteorder": ">"},
    "BigTIFF": {"tile": (16, 16), "bigtiff": True, "compression": "lzw"},
}


def read(path: Path, places: list[tuple[int, int]], window: int, expected: Expected = ANY) -> np.ndarray:
    """Windows of a file.

    Raises:
        ChipError: of the first window that cannot be read.
    """
    one = Raster(str(path), None, expected)
    out = np.zeros((len(places), one.shape[0], window, window), one.dtype)
    for error in one.read(np.array(places), list(out)).values():
        raise error
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("coding", CODINGS)
def test_windows_have_the_values_of_the_raster(tmp_path: Path, coding: str, planar: bool, dtype: str) -> None:
    path, places = tmp_path / "scene.tif", corners(50, 70, 16, 9)
    write_raster(path, raster(0, 50, 70, dtype=dtype), planar=planar, **CODINGS[coding])
    assert np.array_equal(read(path, places, 16), cut(path, places, 16, planar=planar))


@pytest.mark.parametrize("axes", ["YXS", "SYX"])
def test_axes_say_which_dimension_of_pages_holds_the_bands(tmp_path: Path, axes: str) -> None:
    """tifffile writes an array (rows, columns, bands) without further words as a page per row."""
    values = np.random.default_rng(0).integers(0, 9999, (40, 36, 34), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", metadata=None)
    bands_first = np.moveaxis(values, -1, 0) if axes == "YXS" else values
    places = [(0, 0), (7, 3), (17, 16)]
    expected = np.stack([bands_first[:, row : row + 16, column : column + 16] for row, column in places])
    assert np.array_equal(read(tmp_path / "a.tif", places, 16, Expected(axes=axes)), expected)


def test_overviews_are_ignored_as_in_a_cog(tmp_path: Path) -> None:
    values = raster(0, 64, 64)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        options: dict[str, Any] = {"tile": (16, 16), "compression": "deflate", "metadata": None}
        colours = {"photometric": "minisblack", "planarconfig": "contig"}
        file.write(np.moveaxis(values, 0, -1), **options, **colours)
        file.write(np.moveaxis(values[:, ::2, ::2], 0, -1), subfiletype=1, **options, **colours)
    places = corners(64, 64, 16, 16)
    expected = np.stack([values[:, row : row + 16, column : column + 16] for row, column in places])
    assert np.array_equal(read(tmp_path / "a.tif", places, 16), expected)


def test_pixels_outside_the_raster_are_left_as_they_are(tmp_path: Path) -> None:
    values = raster(0, 20, 22)
    write_raster(tmp_path / "a.tif", values, tile=(16, 16))
    out = np.full((1, 3, 16, 16), 7, np.uint16)
    assert Raster(str(tmp_path / "a.tif"), None, ANY).read(np.array([(10, 12)]), list(out)) == {}
    assert np.array_equal(out[0, :, :10, :10], values[:, 10:, 12:])
    assert (out[0, :, 10:] == 7).all()
    assert (out[0, :, :, 10:] == 7).all()


def test_rows_are_read_in_pieces_if_a_file_without_compression_is_one_strip(tmp_path: Path) -> None:
    path, places = tmp_path / "scene.tif", corners(1200, 1100, 300, 271)
    write_raster(path, raster(0, 1200, 1100))
    assert 7 * PIECE_BYTES < 1200 * 1100 * 3 * 2
    assert np.array_equal(read(path, places, 300), cut(path, places, 300))


@pytest.mark.parametrize("planar", [False, True])
def test_each_block_is_decoded_once_and_none_that_no_window_needs(tmp_path: Path, planar: bool) -> None:
    path, places = tmp_path / "a.tif", corners(64, 96, 16, 8)
    write_raster(path, raster(0, 64, 96), planar=planar, tile=(32, 32), compression="deflate")
    places = [place for place in places if place[1] < 48]  # the last column of tiles is left out
    np.random.default_rng(0).shuffle(places)
    with mock.patch.object(tiff_segments, "decode", wraps=tiff_segments.decode) as decode:
        read(path, places, 16)
    of_band = [index for index in range(6) if index % 3 < 2]
    indices = [6 * band + index for band in range(3) for index in of_band] if planar else of_band
    assert Counter(call.args[2] for call in decode.call_args_list) == Counter(indices)


def test_a_raster_has_the_checks_of_a_chip(tmp_path: Path) -> None:
    """Damaged files: windows that cover a file are refused, or hold the values, exactly where a chip is or does."""
    rng = np.random.default_rng(5)
    path, outcomes = tmp_path / "damaged.tif", {"refused": 0, "read": 0}
    for _ in range(200):
        whole = whole_files()[int(rng.integers(len(whole_files())))]
        expected = Expected(num_bands=len(whole.values), dtype=whole.values.dtype.name)
        path.write_bytes(damage(whole, rng)[1])
        try:
            values = tiff.read(path, expected=expected)
        except ChipError as error:
            outcomes["refused"] += 1
            if "decoded, sides of" not in str(error):  # a raster may be larger than a chip
                with pytest.raises(ChipError):
                    read(path, [(0, 0), (0, 32), (32, 0), (32, 32)], 32, expected)
            continue
        outcomes["read"] += 1
        if len(values) == len(whole.values):
            _, height, width = values.shape
            out = np.zeros((len(values), height, width), values.dtype)
            assert Raster(str(path), None, expected).read(np.zeros((1, 2), np.int64), [out]) == {}
            assert np.array_equal(out, values)
    assert min(outcomes.values()) > 40


def test_a_damaged_block_is_the_error_of_the_windows_that_need_it(tmp_path: Path) -> None:
    path, places = tmp_path / "a.tif", corners(64, 64, 16, 16)
    write_raster(path, raster(0, 64, 64), tile=(32, 32), compression="zstd")
    with tifffile.TiffFile(path) as file:
        offset = file.pages.first.dataoffsets[1]
    data = bytearray(path.read_bytes())
    data[offset : offset + 4] = b"\0\0\0\0"
    path.write_bytes(data)
    out = np.zeros((len(places), 3, 16, 16), np.uint16)
    errors = Raster(str(path), None, ANY).read(np.array(places), list(out))
    assert sorted(errors) == [number for number, (row, column) in enumerate(places) if row < 32 <= column]
    assert {str(error).partition(" found")[0] for error in errors.values()} == {f"{path}: expected a valid TIFF,"}


def test_a_file_that_changes_after_its_header_was_read_is_refused(tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "a.tif"
    write_raster(path, raster(0, 32, 32))
    one, out = Raster(str(path), None, ANY), [np.zeros((3, 16, 16), np.uint16)]
    write_raster(path, raster(1, 33, 32))
    assert "expected the file as listed, found a changed file" in refused(lambda: one.read(np.zeros((1, 2), int), out))


def test_a_large_compressed_block_is_refused_with_the_command_that_divides_it(
    tmp_path: Path, refused: Callable
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, np.zeros((4096, 4300, 2), np.uint16), photometric="minisblack", planarconfig="contig",
        compression="deflate", rowsperstrip=4096, metadata=None,
    )  # fmt: skip
    text = refused(lambda: Raster(str(path), None, ANY))
    assert text.startswith(f"{path}: expected compressed strips of at most 64 MiB decoded, found 67 MiB. Rewrite it: ")


def test_a_header_that_claims_a_huge_raster_is_refused(tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "a.tif"
    write_raster(path, raster(0, 32, 32), rowsperstrip=8)
    for code, value in ((256, 2**31 - 1), (257, 2**31 - 1), (257, 33)):
        copy = tmp_path / "b.tif"
        copy.write_bytes(set_tag(path.read_bytes(), code, value))
        assert "b.tif: expected " in refused(lambda path=copy: Raster(str(path), None, ANY))
