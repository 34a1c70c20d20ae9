"""tiff.read against tifffile's own values, for every layout, and against damaged files."""

import io
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tiff_mutations import damage, next_page, only_pixels, set_tag, whole_files

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
    assert "cut.tif: expected a valid TIFF" in refused(lambda: reader.read(tmp_path / "cut.tif"))
    assert np.array_equal(reader.read(tmp_path / "whole.tif"), np.ones((1, 24, 20), np.uint16))


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
    wanted = tiff.Expected(shape=values.shape, dtype=dtype)
    found = tiff.read(path, expected=wanted)
    assert found.dtype == dtype
    assert np.array_equal(found, values)


@pytest.mark.parametrize("bits", [2, 4, 9, 12, 15])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_packed_bits_are_tifffiles_values(tmp_path: Path, bits: int, byteorder: str) -> None:
    path = tmp_path / "chip.tif"
    values = (CHUNKY[..., :3] % 2**bits).astype(np.uint8 if bits <= 8 else np.uint16)
    tifffile.imwrite(path, values, photometric="rgb", bitspersample=bits, byteorder=byteorder)
    assert np.array_equal(tiff.read(path), np.moveaxis(tifffile.imread(path), -1, 0))
    if byteorder == "<" or bits <= 8:  # tifffile packs the bytes of big-endian words in the wrong order
        assert np.array_equal(tiff.read(path), np.moveaxis(values, -1, 0))


WHOLE = whole_files()


@pytest.mark.parametrize("whole", WHOLE, ids=lambda whole: whole.name)
def test_every_codec_and_cut_has_the_values_that_tifffile_reads(tmp_path: Path, whole: object) -> None:
    path = tmp_path / "chip.tif"
    path.write_bytes(whole.data)  # type: ignore[attr-defined]
    assert np.array_equal(tiff.read(path), whole.values)  # type: ignore[attr-defined]


def test_a_damaged_file_is_refused_or_reads_the_same_but_for_its_own_pixel_bytes(tmp_path: Path) -> None:
    """After each chip another, so that nothing of an earlier one could be left."""
    rng = np.random.default_rng(5)
    path, outcomes = tmp_path / "damaged.tif", {"refused": 0, "same": 0, "pixels": 0}
    for _ in range(600):
        whole = WHOLE[int(rng.integers(len(WHOLE)))]
        _, data, touched = damage(whole, rng)
        reader, wanted = tiff.Reader(), tiff.Expected(shape=whole.values.shape, dtype=whole.values.dtype.name)
        path.write_bytes(whole.data)
        assert np.array_equal(reader.read(path, expected=wanted), whole.values)
        path.write_bytes(data)
        try:
            found = reader.read(path, expected=wanted)
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
            assert only_pixels(whole, touched) or np.array_equal(tiff.read(path, expected=wanted), whole.values)
            outcomes["pixels"] += 1
    assert min(outcomes.values()) > 20


@pytest.fixture
def strips() -> bytes:
    """A file of 6 strips of 4 rows, LZW."""
    return written(CHUNKY, photometric="rgb", extrasamples=["unspecified"], rowsperstrip=4, compression="lzw")


def written(values: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)  # type: ignore[arg-type]
    return file.getvalue()


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
def test_a_strip_that_is_nowhere_or_not_whole_is_refused(
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


def test_all_byte_counts_zero_is_no_chip_of_zeros(tmp_path: Path, refused: Callable, strips: bytes) -> None:
    for at in range(6):
        strips = set_tag(strips, 279, 0, at=at)
    (tmp_path / "sparse.tif").write_bytes(strips)
    assert "segment 0 of 6 is missing" in refused(lambda: tiff.read(tmp_path / "sparse.tif"))


@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
def test_an_unknown_planar_configuration_gives_no_pixels_of_the_chip_before(
    tmp_path: Path, refused: Callable, compression: str | None
) -> None:
    reader = tiff.Reader()
    data = written(CHUNKY, photometric="rgb", extrasamples=["unspecified"], compression=compression)
    (tmp_path / "whole.tif").write_bytes(data)
    (tmp_path / "three.tif").write_bytes(set_tag(data, 284, 3))
    reader.read(tmp_path / "whole.tif")
    assert "three.tif" in refused(lambda: reader.read(tmp_path / "three.tif"))
    assert np.array_equal(reader.read(tmp_path / "whole.tif"), PLANAR)


def test_two_strips_in_one_place_are_refused(tmp_path: Path, refused: Callable, strips: bytes) -> None:
    with tifffile.TiffFile(io.BytesIO(strips)) as tif:
        offsets = tif.pages.first.dataoffsets
    (tmp_path / "twice.tif").write_bytes(set_tag(strips, 273, offsets[1], at=4))
    assert "overlap" in refused(lambda: tiff.read(tmp_path / "twice.tif"))


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


def test_what_tifffile_logs_is_an_error_of_that_file_and_of_that_thread_only(
    tmp_path: Path, refused: Callable, strips: bytes
) -> None:
    """Two threads, one reading whole files and one reading files about which tifffile complains."""
    from concurrent.futures import ThreadPoolExecutor

    (tmp_path / "whole.tif").write_bytes(strips)
    (tmp_path / "bad.tif").write_bytes(set_tag(strips, 279, count=5))

    def outcome(name: str) -> bool:
        try:
            return np.array_equal(tiff.read(tmp_path / name), PLANAR)
        except tiff.ChipError:
            return False

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(outcome, ["whole.tif", "bad.tif"] * 100))
    assert results == [True, False] * 100


@pytest.mark.parametrize("compression", [None, "lzw", "zstd"])
@pytest.mark.parametrize("code", [256, 257])
def test_a_size_with_one_bit_flipped_costs_no_memory_and_no_time(
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


def test_a_first_chip_above_the_limit_is_refused_with_the_limit(tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "bomb.tif"
    tifffile.imwrite(path, np.zeros((12000, 12000), np.uint8), compression="zstd", photometric="minisblack")
    assert path.stat().st_size < 2**20
    assert "expected a chip of at most 128 MiB decoded" in refused(lambda: tiff.read(path))


@pytest.mark.parametrize("compression", ["lzw", "deflate", "zstd", "lzma", "packbits"])
def test_a_segment_that_decodes_to_more_than_it_should_is_refused(
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


def test_what_is_wanted_is_compared_before_a_value_is_decoded(
    tmp_path: Path, refused: Callable, monkeypatch: pytest.MonkeyPatch, strips: bytes
) -> None:
    (tmp_path / "chip.tif").write_bytes(strips)
    monkeypatch.setattr(tiff.tiff_segments, "decode", lambda *_: pytest.fail("decoded"))
    for wanted in (
        tiff.Expected(shape=(4, 24, 21), dtype="uint16", example="first.tif"),
        tiff.Expected(shape=(4, 24, 20), dtype="uint8", example="first.tif"),
    ):
        text = refused(lambda wanted=wanted: tiff.read(tmp_path / "chip.tif", expected=wanted))
        assert "as in first.tif, found (4, 24, 20) uint16. All chips of a store have one shape and dtype" in text


@pytest.mark.parametrize("pages", [4, 200])
def test_a_chain_of_pages_without_an_end_is_refused(tmp_path: Path, refused: Callable, pages: int) -> None:
    data = written(np.zeros((pages, 8, 8), np.uint8), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        middle = tif.pages[pages // 2].offset
    (tmp_path / "loop.tif").write_bytes(next_page(data, pages - 1, middle))
    assert "a chain of pages that does not end" in refused(lambda: tiff.read(tmp_path / "loop.tif"))


@pytest.mark.parametrize("kind", ["shaped", "imagej", "ome"])
def test_pages_that_a_description_counts_and_the_file_has_not(tmp_path: Path, refused: Callable, kind: str) -> None:
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


def test_a_description_left_from_the_picture_that_a_chip_was_cut_from_is_no_contradiction(tmp_path: Path) -> None:
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


def test_overviews_and_masks_are_no_bands(tmp_path: Path) -> None:
    path = tmp_path / "cog.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(CHUNKY, photometric="rgb", extrasamples=["unspecified"], metadata=None)
        file.write(CHUNKY[::2, ::2], photometric="rgb", extrasamples=["unspecified"], subfiletype=1, metadata=None)
        file.write(CHUNKY[..., 0] > 5, subfiletype=4, photometric="mask", metadata=None)
    with tifffile.TiffFile(path) as tif:
        assert len(tif.pages) == 3
    assert np.array_equal(tiff.read(path), PLANAR)


def test_pages_of_two_sizes_are_no_chip(tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "two.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(CHUNKY[..., 0], photometric="minisblack", metadata=None)
        file.write(CHUNKY[::2, ::2, 0], photometric="minisblack", metadata=None)
    assert "expected one image with one or more bands, found pages of (24, 20)" in refused(lambda: tiff.read(path))


@pytest.mark.parametrize(("code", "name"), [(2, "RGB"), (5, "SEPARATED"), (6, "YCBCR")])
def test_fewer_samples_than_colours_are_damage(tmp_path: Path, refused: Callable, code: int, name: str) -> None:
    path = tmp_path / "grey.tif"
    tifffile.imwrite(path, CHUNKY[..., 0].astype(np.uint8), photometric="minisblack")
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages[0].tags["PhotometricInterpretation"].overwrite(code)
    assert f"1 samples per pixel of {4 if code == 5 else 3} colours ({name})" in refused(lambda: tiff.read(path))


@pytest.mark.parametrize("code", [0, 1, 2, 8])
def test_subsampled_jpeg_colours_are_ycbcr_or_damage(tmp_path: Path, refused: Callable, code: int) -> None:
    path = tmp_path / "jpeg.tif"
    tifffile.imwrite(
        path, CHUNKY[..., :3].astype(np.uint8), photometric="ycbcr", compression="jpeg", subsampling=(2, 2)
    )
    assert tiff.read(path).shape[0] == 3
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages[0].tags["PhotometricInterpretation"].overwrite(code)
    assert "subsampled colours" in refused(lambda: tiff.read(path))


def test_a_palettes_places_are_no_values(tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "palette.tif"
    colors = np.zeros((3, 256), np.uint16)
    tifffile.imwrite(path, CHUNKY[..., 0].astype(np.uint8), photometric="palette", colormap=colors)
    assert "found a palette" in refused(lambda: tiff.read(path))
    assert "gdal_translate -expand rgb" in refused(lambda: tiff.read(path))


@pytest.mark.parametrize("dtype", ["int8", "uint32", "int32", "uint64", "float16", "float64", "complex64", "bool"])
def test_dtypes_that_are_not_read_come_with_a_remedy(tmp_path: Path, refused: Callable, dtype: str) -> None:
    path = tmp_path / "chip.tif"
    tifffile.imwrite(path, (CHUNKY[..., 0] % 2).astype(dtype), photometric="minisblack")
    text = refused(lambda: tiff.read(path))
    assert f"values, found {dtype}" in text
    assert f"gdal_translate -ot {'Float32' if dtype.startswith('float') else 'UInt16'}" in text


def test_an_array_of_rows_columns_bands_that_was_written_as_pages(tmp_path: Path, refused: Callable) -> None:
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
def test_axes_in_a_files_own_description_decide(tmp_path: Path, axes: str, first: int) -> None:
    values = np.random.default_rng(0).integers(0, 2**16, (8, 8, 8), dtype=np.uint16)
    path = tmp_path / "cube.tif"
    tifffile.imwrite(path, values, photometric="minisblack", metadata={"axes": axes})
    assert np.array_equal(tiff.read(path), np.moveaxis(values, first, 0))


def test_pages_that_may_be_rows_or_bands_are_asked_about(tmp_path: Path, refused: Callable) -> None:
    values = np.random.default_rng(0).integers(0, 2**16, (8, 8, 8), dtype=np.uint16)
    path = tmp_path / "cube.tif"
    tifffile.imwrite(path, values, photometric="minisblack")
    for wanted in (tiff.ANY, tiff.Expected(num_bands=8), tiff.Expected(shape=(8, 8, 8))):
        assert "AXES=YXS" in refused(lambda wanted=wanted: tiff.read(path, expected=wanted))
    assert np.array_equal(tiff.read(path, expected=tiff.Expected(axes="SYX")), values)
    assert np.array_equal(tiff.read(path, expected=tiff.Expected(axes="YXS")), np.moveaxis(values, -1, 0))


@pytest.mark.parametrize(
    ("values", "options", "is_rgb"),
    [
        (CHUNKY[..., :3], {"photometric": "rgb"}, True),
        (PLANAR[:3], {"photometric": "rgb", "planarconfig": "separate"}, True),
        (CHUNKY[..., :3].astype(np.uint8), {"photometric": "ycbcr", "compression": "jpeg"}, True),
        (CHUNKY[..., :3], {"photometric": "minisblack", "planarconfig": "contig"}, False),
        (CHUNKY[..., :3].astype(np.uint8), {"photometric": "cielab"}, False),
        (PLANAR[:3], {"photometric": "minisblack"}, False),
        (PLANAR[:3], {"photometric": "minisblack", "planarconfig": "separate"}, False),
        (CHUNKY, {"photometric": "rgb", "extrasamples": ["unspecified"]}, False),
        (CHUNKY[..., :3], {"photometric": "rgb", "extratags": [(42112, 2, 0, "GDAL", True)]}, False),
    ],
)
def test_three_samples_are_colours_only_if_the_file_says_so(
    tmp_path: Path, values: np.ndarray, options: dict, is_rgb: bool
) -> None:
    path = tmp_path / "chip.tif"
    if "extratags" in options:
        options = {**options, "extratags": [(42112, 2, 0, gdal_names("B02", "B03", "B04"), True)]}
    tifffile.imwrite(path, values, metadata=None, **options)
    assert tiff.read_facts(path).is_rgb is is_rgb


def gdal_names(*names: str) -> str:
    """As GDAL writes band descriptions into tag 42112."""
    items = "".join(
        f'  <Item name="DESCRIPTION" sample="{index}" role="description">{name}</Item>\n'
        for index, name in enumerate(names)
    )
    return f"<GDALMetadata>\n{items}</GDALMetadata>\n"


@pytest.mark.parametrize(
    ("text", "dtype", "nodata"),
    [("65535", "uint16", "65535"), ("0", "uint8", "0"), ("-9999", "uint16", None), ("300", "uint8", None),
     ("nan", "uint16", None), ("-9999", "int16", "-9999"), ("-9999.5", "float32", "-9999.5"),
     ("nan", "float32", None), ("inf", "uint8", None), ("1e4", "uint16", "10000"), ("none", "uint16", None)],
)  # fmt: skip
def test_nodata_is_a_value_that_the_dtype_can_hold(tmp_path: Path, text: str, dtype: str, nodata: str | None) -> None:
    path = tmp_path / "chip.tif"
    tags = [(42113, 2, 0, text, True)]
    tifffile.imwrite(path, CHUNKY[..., 0].astype(dtype), photometric="minisblack", extratags=tags)
    assert tiff.read_facts(path).nodata == nodata
    assert np.array_equal(tiff.read(path)[0], CHUNKY[..., 0].astype(dtype))


def test_a_tag_whose_code_was_changed_is_out_of_order(tmp_path: Path, refused: Callable, strips: bytes) -> None:
    """262, the photometric interpretation, as 317, a predictor."""
    path = tmp_path / "order.tif"
    path.write_bytes(strips.replace(b"\x06\x01\x03\0", b"\x3d\x01\x03\0", 1))
    assert "not in ascending order" in refused(lambda: tiff.read(path))


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


@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
def test_a_strip_that_holds_more_rows_than_the_file_says_is_refused(
    tmp_path: Path, refused: Callable, compression: str | None
) -> None:
    """ImageLength 24 -> 23, in 6 strips of 4 rows; RowsPerStrip and the number of strips still fit."""
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
