"""tiff.read refuses files whose tags are wrong: strip tables, sizes, samples, colours, chains of pages."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from helpers.tiffs import CHUNKY, PLANAR, STRIPS, written
from tiff_mutations import next_page, set_tag

from preprocess import tiff


@pytest.mark.parametrize("compression", [None, "lzw"])
@pytest.mark.parametrize("code", [273, 279])
@pytest.mark.parametrize("tiled", [False, True])
def test_a_table_of_strips_or_tiles_that_is_too_short_is_refused(
    tmp_path: Path, refused: Callable, compression: str | None, code: int, tiled: bool
) -> None:
    cut = {"tile": (16, 16)} if tiled else {"rowsperstrip": 4}
    data = written(CHUNKY, photometric="rgb", extrasamples=["unspecified"], compression=compression, **cut)
    path = tmp_path / "short.tif"
    path.write_bytes(set_tag(data, code + 51 if tiled and code == 273 else code + 46 if tiled else code, count=3))
    assert "short.tif: expected a valid TIFF" in refused(lambda: tiff.read(path))


@pytest.mark.parametrize("compression", [None, "lzw"])
@pytest.mark.parametrize(
    ("code", "value"), [(279, 0), (273, 0), (279, 2**31), (273, 2**31), (279, 1), (273, 8)], ids=str
)
def test_a_strip_that_is_outside_the_file_or_too_short_is_refused(
    tmp_path: Path, refused: Callable, compression: str | None, code: int, value: int
) -> None:
    data = written(CHUNKY, photometric="rgb", extrasamples=["unspecified"], compression=compression, rowsperstrip=4)
    path = tmp_path / "bad.tif"
    for at in (0, 3):
        with tifffile.TiffFile(io.BytesIO(data)) as tif:
            if tif.pages.first.tags[code].dtype == 3 and value >= 2**16:
                continue
        path.write_bytes(set_tag(data, code, value, at=at))
        assert "bad.tif: expected a valid TIFF, found a file that is damaged" in refused(lambda: tiff.read(path))


def test_a_file_whose_byte_counts_are_all_zero_is_refused(tmp_path: Path, refused: Callable) -> None:
    data = STRIPS
    for at in range(6):
        data = set_tag(data, 279, 0, at=at)
    (tmp_path / "sparse.tif").write_bytes(data)
    assert "segment 0 of 6 is missing" in refused(lambda: tiff.read(tmp_path / "sparse.tif"))


@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
def test_an_unknown_planar_configuration_is_refused_after_an_undamaged_file(
    tmp_path: Path, refused: Callable, compression: str | None
) -> None:
    reader = tiff.Reader()
    data = written(CHUNKY, photometric="rgb", extrasamples=["unspecified"], compression=compression)
    (tmp_path / "whole.tif").write_bytes(data)
    (tmp_path / "three.tif").write_bytes(set_tag(data, 284, 3))
    reader.read(tmp_path / "whole.tif")
    assert "three.tif" in refused(lambda: reader.read(tmp_path / "three.tif"))
    assert np.array_equal(reader.read(tmp_path / "whole.tif"), PLANAR)


def test_two_strips_at_the_same_offset_are_refused(tmp_path: Path, refused: Callable) -> None:
    with tifffile.TiffFile(io.BytesIO(STRIPS)) as tif:
        offsets = tif.pages.first.dataoffsets
    (tmp_path / "twice.tif").write_bytes(set_tag(STRIPS, 273, offsets[1], at=4))
    assert "overlap" in refused(lambda: tiff.read(tmp_path / "twice.tif"))


@pytest.mark.parametrize("compression", [None, "lzw", "zstd"])
@pytest.mark.parametrize("code", [256, 257])
def test_a_size_with_a_flipped_bit_is_refused_without_much_memory(
    tmp_path: Path, refused: Callable, compression: str | None, code: int
) -> None:
    import tracemalloc

    data = written(CHUNKY, photometric="rgb", extrasamples=["unspecified"], compression=compression)
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        wide = tif.pages.first.tags[code].dtype == 4
        value = int(tif.pages.first.tags[code].value)
    path = tmp_path / "large.tif"
    for bit in range(6, 31 if wide else 15):
        path.write_bytes(set_tag(data, code, value ^ 1 << bit))
        tracemalloc.start()
        refused(lambda: tiff.read(path))
        assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
        tracemalloc.stop()


def test_shape_and_dtype_are_compared_before_a_value_is_decoded(
    tmp_path: Path, refused: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "chip.tif").write_bytes(STRIPS)
    monkeypatch.setattr(tiff.tiff_segments, "decode", lambda *_: pytest.fail("decoded"))
    for expectation, advice in (
        (tiff.Expected(shape=(4, 24, 21), dtype="uint16", example="first.tif"), "one size: SIZE=256 FIT=resize"),
        (tiff.Expected(shape=(4, 24, 20), dtype="uint8", example="first.tif"), "one shape and dtype"),
    ):
        text = refused(lambda expectation=expectation: tiff.read(tmp_path / "chip.tif", expected=expectation))
        assert f"as in first.tif, found (4, 24, 20) uint16. All chips of a store have {advice}" in text


@pytest.mark.parametrize("pages", [4, 200])
def test_a_chain_of_pages_without_an_end_is_refused(tmp_path: Path, refused: Callable, pages: int) -> None:
    data = written(np.zeros((pages, 8, 8), np.uint8), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        middle = tif.pages[pages // 2].offset
    (tmp_path / "loop.tif").write_bytes(next_page(data, pages - 1, middle))
    assert "a chain of pages that does not end" in refused(lambda: tiff.read(tmp_path / "loop.tif"))


@pytest.mark.parametrize(("code", "name"), [(2, "RGB"), (5, "SEPARATED"), (6, "YCBCR")])
def test_fewer_samples_than_colours_are_refused(tmp_path: Path, refused: Callable, code: int, name: str) -> None:
    path = tmp_path / "grey.tif"
    tifffile.imwrite(path, CHUNKY[..., 0].astype(np.uint8), photometric="minisblack")
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages[0].tags["PhotometricInterpretation"].overwrite(code)
    assert f"1 samples per pixel of {4 if code == 5 else 3} colours ({name})" in refused(lambda: tiff.read(path))


@pytest.mark.parametrize("code", [0, 1, 2, 8])
def test_subsampled_jpeg_colours_must_be_ycbcr(tmp_path: Path, refused: Callable, code: int) -> None:
    path = tmp_path / "jpeg.tif"
    tifffile.imwrite(
        path, CHUNKY[..., :3].astype(np.uint8), photometric="ycbcr", compression="jpeg", subsampling=(2, 2)
    )
    assert tiff.read(path).shape[0] == 3
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages[0].tags["PhotometricInterpretation"].overwrite(code)
    assert "subsampled colours" in refused(lambda: tiff.read(path))


def test_a_changed_tag_code_is_refused_because_it_is_out_of_order(tmp_path: Path, refused: Callable) -> None:
    """Code 262 (photometric interpretation) becomes 317 (predictor)."""
    path = tmp_path / "order.tif"
    path.write_bytes(STRIPS.replace(b"\x06\x01\x03\0", b"\x3d\x01\x03\0", 1))
    assert "not in ascending order" in refused(lambda: tiff.read(path))


@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
def test_a_strip_that_holds_more_rows_than_the_image_is_refused(
    tmp_path: Path, refused: Callable, compression: str | None
) -> None:
    """ImageLength becomes 23 instead of 24, in 6 strips of 4 rows. RowsPerStrip and the number of strips still fit."""
    data = written(CHUNKY, photometric="rgb", extrasamples=["unspecified"], rowsperstrip=4, compression=compression)
    (tmp_path / "more.tif").write_bytes(set_tag(data, 257, 23))
    assert "more.tif: expected a valid TIFF" in refused(lambda: tiff.read(tmp_path / "more.tif"))


def test_more_samples_than_bit_counts_are_refused(tmp_path: Path, refused: Callable) -> None:
    data = written(CHUNKY[..., :3].astype(np.uint8), photometric="rgb", compression="webp")
    (tmp_path / "four.tif").write_bytes(set_tag(data, 277, 4))
    assert "tag 258 for 3 samples of 4" in refused(lambda: tiff.read(tmp_path / "four.tif"))


def test_subsampled_jpeg_colours_that_are_called_rgb_are_refused(tmp_path: Path, refused: Callable) -> None:
    values = np.repeat(np.repeat(CHUNKY[:8, :8, :3].astype(np.uint8), 8, axis=0), 8, axis=1)
    data = written(values, photometric="ycbcr", subsampling=(2, 2), compression="jpeg", tile=(64, 64))
    path = tmp_path / "chip.tif"
    path.write_bytes(data)
    assert np.array_equal(tiff.read(path), np.moveaxis(tifffile.imread(path), -1, 0))
    path.write_bytes(set_tag(data, 262, 2))
    assert "chip.tif: expected a valid TIFF" in refused(lambda: tiff.read(path))
