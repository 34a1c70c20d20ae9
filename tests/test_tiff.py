"""tiff.read against tifffile's own values, for every layout, and against damaged files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from preprocess import tiff
from preprocess.presets import PRESETS

CHUNKY = np.random.default_rng(0).integers(0, 65536, (24, 20, 4), dtype=np.uint16)
PLANAR = np.ascontiguousarray(np.moveaxis(CHUNKY, -1, 0))


@pytest.mark.parametrize(
    ("values", "options"),
    [
        (CHUNKY, {"photometric": "rgb", "extrasamples": ["assocalpha"]}),
        (CHUNKY, {"photometric": "rgb", "extrasamples": ["unspecified"], "rowsperstrip": 5}),
        (CHUNKY, {"photometric": "minisblack", "planarconfig": "contig"}),
        (CHUNKY, {"photometric": "rgb", "extrasamples": ["assocalpha"], "compression": "lzw"}),
        (CHUNKY, {"photometric": "rgb", "extrasamples": ["assocalpha"], "compression": "zstd"}),
        (CHUNKY, {"photometric": "rgb", "extrasamples": ["assocalpha"], "compression": "packbits"}),
        (
            CHUNKY,
            {
                "photometric": "rgb",
                "extrasamples": ["assocalpha"],
                "compression": "deflate",
                "predictor": True,
                "tile": (16, 16),
            },
        ),
        (PLANAR, {"photometric": "rgb", "planarconfig": "separate", "extrasamples": ["assocalpha"]}),
        (PLANAR, {"photometric": "minisblack"}),  # a page a band
        (CHUNKY, {"photometric": "rgb", "extrasamples": ["assocalpha"], "byteorder": ">"}),
        (CHUNKY[..., 0], {"photometric": "minisblack"}),
        (CHUNKY[..., :1], {"photometric": "minisblack"}),
        (CHUNKY[..., :3].astype(np.uint8), {"photometric": "rgb"}),
        (
            np.concatenate([CHUNKY] * 4, axis=-1),
            {"photometric": "minisblack", "planarconfig": "contig"},
        ),
    ],
)
def test_values_are_exact_in_every_layout(tmp_path: Path, values: np.ndarray, options: dict) -> None:
    path = tmp_path / "chip.tif"
    tifffile.imwrite(path, values, **options)
    expected = values[None] if values.ndim == 2 else values if values is PLANAR else np.moveaxis(values, -1, 0)
    found = tiff.read(path)
    assert found.dtype == values.dtype
    assert found.flags.c_contiguous
    assert np.array_equal(found, expected)


def test_band_and_row_order_equal_tifffile(tmp_path: Path) -> None:
    path = tmp_path / "chip.tif"
    tifffile.imwrite(path, CHUNKY, photometric="rgb", extrasamples=["assocalpha"])
    assert np.array_equal(tiff.read(path), np.moveaxis(tifffile.imread(path), -1, 0))


@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
@pytest.mark.parametrize("keep", [0.5, 0.999])
def test_truncated_file_is_named(tmp_path: Path, refused: Callable, compression: str | None, keep: float) -> None:
    path = tmp_path / "cut.tif"
    tifffile.imwrite(path, CHUNKY, photometric="rgb", extrasamples=["assocalpha"], compression=compression)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    text = refused(lambda: tiff.read(path))
    assert "cut.tif" in text
    assert "damaged" in text


@pytest.mark.parametrize("data", [b"", b"II", b"GIF89a not a TIFF at all", b"\x89PNG\r\n\x1a\n" + b"\0" * 64])
def test_what_is_no_tiff_is_named(tmp_path: Path, refused: Callable, data: bytes) -> None:
    path = tmp_path / "other.tif"
    path.write_bytes(data)
    text = refused(lambda: tiff.read(path))
    assert "other.tif" in text
    assert "not a TIFF" in text or "damaged" in text


@pytest.mark.parametrize("dtype", ["float64", "int32", "uint32", "int8", "complex64"])
def test_other_dtypes_are_refused(tmp_path: Path, refused: Callable, dtype: str) -> None:
    path = tmp_path / "chip.tif"
    tifffile.imwrite(path, CHUNKY.astype(dtype), photometric="minisblack", planarconfig="contig")
    assert f"expected uint8, uint16, int16 or float32 values, found {dtype}" in refused(lambda: tiff.read(path))


def test_a_stack_of_images_is_no_chip(tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.stack([CHUNKY] * 3), photometric="rgb", extrasamples=["assocalpha"])
    assert "one image" in refused(lambda: tiff.read(path))


def test_planet_v1_is_refused_by_the_preset_only(tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "v1.tif"
    tifffile.imwrite(path, CHUNKY, photometric="rgb", extrasamples=["unassalpha"], rowsperstrip=4)
    assert tiff.read(path).shape == (4, 24, 20)
    assert "v1" in refused(lambda: tiff.read(path, PRESETS["planet"].check_page))


def test_flipped_bytes_in_a_compressed_file_do_not_pass_unseen(tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "bad.tif"
    tifffile.imwrite(path, CHUNKY, photometric="rgb", extrasamples=["assocalpha"], compression="deflate")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = b"\xff" * 40
    path.write_bytes(data)
    assert "bad.tif" in refused(lambda: tiff.read(path))


def test_a_reader_that_knows_the_layout_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files alike but for the pixels are parsed once; another byte, length or compression makes it look again."""
    rng = np.random.default_rng(0)
    values = [rng.integers(0, 2**16, (24, 20, 4), dtype=np.uint16) for _ in range(4)]
    paths = [tmp_path / f"{index}.tif" for index in range(8)]
    settings: dict[str, object] = {"photometric": "rgb", "extrasamples": ["assocalpha"]}
    for path, value in zip(paths[:4], values, strict=True):
        tifffile.imwrite(path, value, **settings)
    tifffile.imwrite(paths[4], values[0], **settings, description="another byte")
    tifffile.imwrite(paths[5], values[1], **settings, compression="lzw")
    tifffile.imwrite(paths[6], values[2], **settings, byteorder=">")
    paths[7].write_bytes(paths[3].read_bytes() + b"more")
    opened: list[str] = []
    real = tifffile.TiffFile
    monkeypatch.setattr(
        tifffile, "TiffFile", lambda *args, **kwargs: opened.append(Path(kwargs["name"]).name) or real(*args, **kwargs)
    )
    reader = tiff.Reader()
    for index in (0, 1, 2, 3, 4, 0, 5, 6, 1, 7, 3, 2):
        expected = np.moveaxis(values[index % 4 if index < 7 else 3], -1, 0)
        assert np.array_equal(reader.read(paths[index]), expected)
    assert opened == [f"{index}.tif" for index in (0, 4, 0, 5, 6, 1, 7, 3)]


def test_a_reader_that_knows_the_layout_refuses_a_cut_file(tmp_path: Path, refused: Callable) -> None:
    reader = tiff.Reader()
    for name in ("whole.tif", "cut.tif"):
        tifffile.imwrite(tmp_path / name, np.ones((24, 20), np.uint16), photometric="minisblack")
    data = (tmp_path / "cut.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[:-100])
    reader.read(tmp_path / "whole.tif")
    assert "cut.tif: expected a whole TIFF" in refused(lambda: reader.read(tmp_path / "cut.tif"))
    assert np.array_equal(reader.read(tmp_path / "whole.tif"), np.ones((1, 24, 20), np.uint16))
