"""tiff.read refuses damaged bytes: cut files, flipped bits, broken segments, decompression bombs."""

from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from helpers.tiffs import CHUNKY, PLANAR, STRIPS, written
from tiff_mutations import damage, only_pixels, set_tag, whole_files

from preprocess import tiff


@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
@pytest.mark.parametrize("keep", [0.5, 0.999])
def test_a_truncated_file_is_named(tmp_path: Path, refused: Callable, compression: str | None, keep: float) -> None:
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, CHUNKY, photometric="rgb", extrasamples=["assocalpha"], compression=compression)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    text = refused(lambda: tiff.read(path))
    assert "cut.tif" in text
    assert "damaged" in text


@pytest.mark.parametrize("data", [b"", b"II", b"GIF89a not a TIFF at all", b"\x89PNG\r\n\x1a\n" + b"\0" * 64])
def test_a_file_that_is_not_a_tiff_is_named(tmp_path: Path, refused: Callable, data: bytes) -> None:
    path = tmp_path / "other.tif"
    path.write_bytes(data)
    text = refused(lambda: tiff.read(path))
    assert "other.tif" in text
    assert "not a TIFF" in text or "damaged" in text


def test_flipped_bytes_in_a_compressed_file_are_detected(tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "bad.tif"
    tifffile.imwrite(path, CHUNKY, photometric="rgb", extrasamples=["assocalpha"], compression="deflate")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = b"\xff" * 40
    path.write_bytes(data)
    assert "bad.tif" in refused(lambda: tiff.read(path))


def test_a_reader_that_knows_the_layout_refuses_a_cut_file(tmp_path: Path, refused: Callable) -> None:
    reader = tiff.Reader()
    for name in ("whole.tif", "cut.tif"):
        tifffile.imwrite(tmp_path / name, np.ones((24, 20), np.uint16), photometric="minisblack")
    data = (tmp_path / "cut.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[:-100])
    reader.read(tmp_path / "whole.tif")
    assert "cut.tif: expected a valid TIFF" in refused(lambda: reader.read(tmp_path / "cut.tif"))
    assert np.array_equal(reader.read(tmp_path / "whole.tif"), np.ones((1, 24, 20), np.uint16))


def test_a_damaged_file_is_refused_or_differs_only_in_its_own_damaged_pixels(tmp_path: Path) -> None:
    """The reader reads the undamaged file first. None of its values may appear in place of damaged ones."""
    rng = np.random.default_rng(5)
    files = whole_files()
    path, outcomes = tmp_path / "damaged.tif", {"refused": 0, "same": 0, "pixels": 0}
    for _ in range(600):
        whole = files[int(rng.integers(len(files)))]
        _, data, touched = damage(whole, rng)
        reader, expectation = tiff.Reader(), tiff.Expected(shape=whole.values.shape, dtype=whole.values.dtype.name)
        path.write_bytes(whole.data)
        assert np.array_equal(reader.read(path, expected=expectation), whole.values)
        path.write_bytes(data)
        try:
            found = reader.read(path, expected=expectation)
        except tiff.ChipError:
            outcomes["refused"] += 1
            continue
        if np.array_equal(found, whole.values):
            outcomes["same"] += 1
        else:
            restored = bytearray(data)
            for start, stop in whole.pixels:
                restored[start:stop] = whole.data[start:stop]
            path.write_bytes(restored)
            assert only_pixels(whole, touched) or np.array_equal(tiff.read(path, expected=expectation), whole.values)
            outcomes["pixels"] += 1
    assert min(outcomes.values()) > 20


def jpeg_file(data: bytes) -> bytes:
    """A chip of 3 bands whose only strip is these bytes."""
    values = np.zeros((64, 48, 3), np.uint8)
    return written(
        iter([data]), shape=values.shape, dtype="uint8", photometric="ycbcr", compression="jpeg", rowsperstrip=64
    )  # type: ignore[arg-type]


@pytest.fixture
def jpeg() -> bytes:
    ramp = np.random.default_rng(0).integers(-6, 7, (64, 48, 3)).cumsum(axis=1) + 128
    return bytes(imagecodecs.jpeg8_encode(np.clip(ramp, 0, 255).astype(np.uint8), level=90))


def test_a_whole_jpeg_strip_is_what_tifffile_reads(tmp_path: Path, jpeg: bytes) -> None:
    path = tmp_path / "chip.tif"
    path.write_bytes(jpeg_file(jpeg))
    assert np.array_equal(tiff.read(path), np.moveaxis(tifffile.imread(path), -1, 0))


def test_cut_jpeg_data_is_refused_with_and_without_its_end_marker(
    tmp_path: Path, refused: Callable, jpeg: bytes
) -> None:
    path = tmp_path / "cut.tif"
    start = jpeg.index(b"\xff\xda") + 14
    for stop in range(start, len(jpeg) - 4, 97):
        for end in (b"", b"\xff\xd9"):
            path.write_bytes(jpeg_file(jpeg[:stop].rstrip(b"\xff") + end))
            assert "cut.tif: expected a valid TIFF" in refused(lambda: tiff.read(path))


def test_a_log_record_of_tifffile_refuses_only_the_file_that_its_thread_reads(
    tmp_path: Path, refused: Callable
) -> None:
    """Threads read undamaged files and, at the same time, files for which tifffile logs an error."""
    from concurrent.futures import ThreadPoolExecutor

    (tmp_path / "whole.tif").write_bytes(STRIPS)
    (tmp_path / "bad.tif").write_bytes(set_tag(STRIPS, 279, count=5))

    def outcome(name: str) -> bool:
        try:
            return np.array_equal(tiff.read(tmp_path / name), PLANAR)
        except tiff.ChipError:
            return False

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(outcome, ["whole.tif", "bad.tif"] * 100))
    assert results == [True, False] * 100


def test_a_first_chip_above_the_limit_is_refused_with_the_limit(tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "bomb.tif"
    tifffile.imwrite(path, np.zeros((12000, 12000), np.uint8), compression="zstd", photometric="minisblack")
    assert path.stat().st_size < 2**20
    assert "expected a chip of at most 128 MiB decoded" in refused(lambda: tiff.read(path))


@pytest.mark.parametrize("compression", ["lzw", "deflate", "zstd", "lzma", "packbits"])
def test_a_segment_that_decodes_to_too_many_bytes_is_refused(
    tmp_path: Path, refused: Callable, compression: str
) -> None:
    encode = {
        "lzw": imagecodecs.lzw_encode, "deflate": imagecodecs.zlib_encode, "zstd": imagecodecs.zstd_encode,
        "lzma": imagecodecs.lzma_encode, "packbits": imagecodecs.packbits_encode,
    }[compression]  # fmt: skip
    data = written(
        iter([encode(bytes(2**17))]), shape=(64, 48, 3), dtype="uint8", photometric="rgb", compression=compression,
        rowsperstrip=64,
    )  # type: ignore[arg-type]  # fmt: skip
    (tmp_path / "more.tif").write_bytes(data)
    assert "more.tif: expected a valid TIFF" in refused(lambda: tiff.read(tmp_path / "more.tif"))


def test_a_png_block_with_one_wrong_byte_is_refused_and_nothing_is_printed(
    tmp_path: Path, refused: Callable, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.tif"
    data = written(CHUNKY[..., :3], photometric="rgb", compression="png")
    start, count = data.index(b"IDAT") + 4, 200
    for at in range(start, start + count, 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        assert "bad.tif" in refused(lambda: tiff.read(path))
    assert capfd.readouterr() == ("", "")
