"""tiff.read returns the values that tifffile reads, for every layout and codec."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from helpers.tiffs import CHUNKY, PLANAR
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from tiff_mutations import whole_files

from preprocess import tiff


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
        (PLANAR, {"photometric": "minisblack"}),  # one page per band
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


@pytest.mark.parametrize("dtype", ["float64", "int32", "uint32", "int8", "complex64"])
def test_other_dtypes_are_refused(tmp_path: Path, refused: Callable, dtype: str) -> None:
    path = tmp_path / "chip.tif"
    tifffile.imwrite(path, CHUNKY.astype(dtype), photometric="minisblack", planarconfig="contig")
    assert f"expected uint8, uint16, int16 or float32 values, found {dtype}" in refused(lambda: tiff.read(path))


def test_a_reader_that_knows_the_layout_reads_the_same_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that differ only in their pixels are parsed once. Any other difference makes the reader parse again."""
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


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["uint8", "uint16", "int16", "float32"]), st.integers(1, 5), st.integers(1, 40), st.integers(1, 40),
    st.sampled_from([None, "lzw", "deflate", "zstd", "packbits", "lzma"]), st.booleans(), st.booleans(),
    st.sampled_from(["chunky", "planes", "pages"]), st.sampled_from(["whole", "strips", "tiles"]),
    st.sampled_from("<>"), st.booleans(), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_any_layout_has_the_values_that_tifffile_reads(
    tmp_path: Path, dtype: str, bands: int, height: int, width: int, compression: str | None, predictor: bool,
    bigtiff: bool, order: str, cut: str, byteorder: str, noise: bool, seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (bands, height, width, np.dtype(dtype).itemsize), np.uint8)
    values = raw.view(dtype)[..., 0] if dtype != "float32" else rng.normal(size=(bands, height, width)).astype(dtype)
    values = values if noise else np.sort(values, axis=-1)
    options: dict = {"photometric": "minisblack", "compression": compression}
    options |= {"predictor": True} if predictor and compression and compression != "packbits" else {}
    options |= {"strips": {"rowsperstrip": 7}, "tiles": {"tile": (16, 32)}, "whole": {}}[cut]
    if bands == 1:
        stored = values[0]
    elif order == "chunky":
        stored, options = np.moveaxis(values, 0, -1), {**options, "planarconfig": "contig"}
    else:
        assume(order == "planes" or not bands == height == width)
        stored, options = values, {**options, **({"planarconfig": "separate"} if order == "planes" else {})}
    path = tmp_path / "chip.tif"
    tifffile.imwrite(path, stored, byteorder=byteorder, bigtiff=bigtiff, metadata=None, **options)
    assert np.array_equal(tifffile.imread(path).reshape(stored.shape), stored)
    expectation = tiff.Expected(shape=values.shape, dtype=dtype)
    found = tiff.read(path, expected=expectation)
    assert found.dtype == dtype
    assert np.array_equal(found, values)


@pytest.mark.parametrize("bits", [2, 4, 9, 12, 15])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_packed_bits_have_the_values_that_tifffile_reads(tmp_path: Path, bits: int, byteorder: str) -> None:
    path = tmp_path / "chip.tif"
    values = (CHUNKY[..., :3] % 2**bits).astype(np.uint8 if bits <= 8 else np.uint16)
    tifffile.imwrite(path, values, photometric="rgb", bitspersample=bits, byteorder=byteorder)
    assert np.array_equal(tiff.read(path), np.moveaxis(tifffile.imread(path), -1, 0))
    if byteorder == "<" or bits <= 8:  # tifffile packs the bytes of big-endian words in the wrong order
        assert np.array_equal(tiff.read(path), np.moveaxis(values, -1, 0))


@pytest.mark.parametrize("whole", whole_files(), ids=lambda whole: whole.name)
def test_every_codec_in_strips_tiles_and_pages_has_the_values_that_tifffile_reads(
    tmp_path: Path, whole: object
) -> None:
    path = tmp_path / "chip.tif"
    path.write_bytes(whole.data)  # type: ignore[attr-defined]
    assert np.array_equal(tiff.read(path), whole.values)  # type: ignore[attr-defined]


def test_palette_indices_are_refused(tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "palette.tif"
    colors = np.zeros((3, 256), np.uint16)
    tifffile.imwrite(path, CHUNKY[..., 0].astype(np.uint8), photometric="palette", colormap=colors)
    assert "found a palette" in refused(lambda: tiff.read(path))
    assert "gdal_translate -expand rgb" in refused(lambda: tiff.read(path))


@pytest.mark.parametrize("dtype", ["int8", "uint32", "int32", "uint64", "float16", "float64", "complex64", "bool"])
def test_unsupported_dtypes_are_refused_with_a_remedy(tmp_path: Path, refused: Callable, dtype: str) -> None:
    path = tmp_path / "chip.tif"
    tifffile.imwrite(path, (CHUNKY[..., 0] % 2).astype(dtype), photometric="minisblack")
    text = refused(lambda: tiff.read(path))
    assert f"values, found {dtype}" in text
    target = {"f": "Float32", "i": "Int16"}.get(dtype[0], "UInt16")
    assert f"gdal_translate -ot {target}" in text


@pytest.mark.parametrize("compression", [None, "packbits"])
def test_a_predictor_that_libtiff_ignores_and_tifffile_undoes_is_refused(
    tmp_path: Path, refused: Callable, compression: str | None
) -> None:
    path, values = tmp_path / "chip.tif", np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(values).save(path, compression=compression, tiffinfo={317: 2})
    assert np.array_equal(np.asarray(Image.open(path)), values)  # Pillow reads with libtiff
    assert not np.array_equal(tifffile.imread(path), values)
    text = refused(lambda: tiff.read(path))
    assert "expected a predictor only with LZW, deflate, LZMA or ZSTD compression, found one with" in text
