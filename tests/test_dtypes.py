"""Chips of uint8, uint16, int16 and float32, from the TIFF to the batch, held to tifffile, numpy, numcodecs and zarr.

Whole runs of int16 and float32, with predict, export, audit and report, are in `test_dtypes_runs`.
"""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import imagecodecs
import numcodecs
import numpy as np
import oracle
import pytest
import tifffile
import torch
import zarr
from helpers.chips import BANDS, DTYPES, Chips, to_store, write_chips, write_csv
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from nvidia.dali import fn, pipeline_def, types

from analysis.pictures import stretch
from pipeline.chunks import ChunkReader
from pipeline.graph import GraphSpec, eval_graph, inflate_chips, train_graph
from pipeline.inputs import Inputs, raw_inputs
from pipeline.loader import eval_loader, train_loader
from pipeline.order import augmentation
from preprocess import shard, verify, zarr_store
from preprocess.band_statistics import _ordered_sum, band_statistics, band_sums
from preprocess.convert import convert
from preprocess.layout import Layout, plan_layout
from preprocess.plan import Request
from preprocess.shard_writer import Encoder
from preprocess.zarr_store import Store, open_store

ALL = pytest.mark.parametrize("dtype", DTYPES)
CODECS = pytest.mark.parametrize("codec", ["lz4", "none"])


def layout_of(values: np.ndarray, codec: str = "lz4", chunk_rows: int | None = None) -> Layout:
    bands, height, width = values.shape
    return Layout(
        bands=tuple(f"band{index + 1}" for index in range(bands)), height=height, width=width, dtype=values.dtype.name,
        codec=codec, chunk_rows=chunk_rows or height, shard_tiles=4,
    )  # fmt: skip


def any_bits(dtype: str) -> st.SearchStrategy[np.ndarray]:
    """Chips of any bits: for float32 NaN of every kind among them."""
    bits = st_numpy.arrays(f"u{np.dtype(dtype).itemsize}", st.tuples(*(st.integers(1, 9) for _ in range(3))))
    return bits.map(lambda array: array.view(dtype))


def write_one(folder: Path, values: np.ndarray, **how: object) -> Path:
    """A folder of one chip, `c.tif`, with its CSV."""
    folder.mkdir()
    tifffile.imwrite(folder / "c.tif", values, photometric="minisblack", **how)  # type: ignore[arg-type]
    write_csv(folder / "tags.csv", [("c", "a")])
    return folder


# --- store -----------------------------------------------------------------------------------------------------------


@CODECS
@ALL
def test_plain_zarr_reads_what_tifffile_reads(tmp_path: Path, dtype: str, codec: str) -> None:
    chips = write_chips(tmp_path / "tif", count=5, height=300, width=100, dtype=dtype)
    store = to_store(chips, tmp_path / "s.zarr", codec=codec)
    stored = np.asarray(zarr.open_group(store.path, mode="r")["tiles"][...])
    read = [tifffile.imread(chips.folder / f"t_{index}.tif") for index in range(5)]
    assert stored.dtype == read[0].dtype == dtype
    assert stored.tobytes() == np.ascontiguousarray(np.moveaxis(read, -1, 1)).tobytes()
    assert verify.verify(store.local_path, jobs=1) == 0


@pytest.mark.parametrize(
    "how",
    [
        {"planarconfig": "separate"}, {"planarconfig": "contig", "byteorder": ">"}, {"compression": "zlib"},
        {"compression": "zlib", "predictor": True}, {"tile": (16, 16)}, {"rowsperstrip": 7},
    ],
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_however_the_tiff_was_written(tmp_path: Path, dtype: str, how: dict[str, object]) -> None:
    values = write_chips(tmp_path / "unused", count=1, height=40, width=33, dtype=dtype).values[0]
    stored = values if how.get("planarconfig") == "separate" else np.moveaxis(values, 0, -1)
    folder = write_one(tmp_path / "tif", stored, **{"planarconfig": "contig", **how})
    store = to_store(Chips(folder, folder / "tags.csv", values[None], ["a"]), tmp_path / "s.zarr")
    assert np.asarray(zarr.open_group(store.path)["tiles"][0]).tobytes() == values.tobytes()


@pytest.mark.parametrize("name", ["float32_reflectance", "int16_s2_l2a"])
def test_files_of_other_tools_are_read_exactly(tmp_path: Path, shared: Path, name: str) -> None:
    path = shared / "faults" / "tif" / f"{name}.tif"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    (tmp_path / "tif").mkdir()
    shutil.copy(path, tmp_path / "tif" / "c.tif")
    write_csv(tmp_path / "tif" / "tags.csv", [("c", "a")])
    convert(Request(data=tmp_path / "tif", labels=tmp_path / "tif" / "tags.csv", store=tmp_path / "s.zarr"))
    expected = tifffile.imread(path)
    expected = expected if expected.shape[0] < expected.shape[-1] else np.moveaxis(expected, -1, 0)
    (found,) = np.asarray(zarr.open_group(tmp_path / "s.zarr")["tiles"][...])
    assert (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())


@CODECS
@ALL
@given(data=st.data())
def test_any_bits_come_back_and_numcodecs_reads_the_chunks(dtype: str, codec: str, data: st.DataObject) -> None:
    values = data.draw(any_bits(dtype))
    divisors = [rows for rows in range(1, values.shape[1] + 1) if values.shape[1] % rows == 0]
    layout = layout_of(values, codec, data.draw(st.sampled_from(divisors)))
    encoded, sizes, _ = Encoder(layout).encode(values)
    buffer = np.frombuffer(encoded, np.uint8)
    offsets = np.cumsum(sizes) - sizes
    out = np.empty_like(values)
    scratch = shard.decode_scratch(layout, len(layout.bands))
    shard.decode_chip(buffer, offsets, sizes, layout, out, scratch)
    assert out.tobytes() == values.tobytes()
    if codec == "lz4":
        chunks = [bytes(buffer[at : at + size - 4]) for at, size in zip(offsets.tolist(), sizes.tolist(), strict=True)]
        shuffle = numcodecs.Shuffle(layout.itemsize)
        assert b"".join(bytes(shuffle.decode(numcodecs.LZ4().decode(chunk))) for chunk in chunks) == values.tobytes()


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_the_same_store_whatever_jobs(tmp_path: Path, dtype: str) -> None:
    chips = write_chips(tmp_path / "tif", count=9, bands=3, height=31, width=17, dtype=dtype)
    one, two = (to_store(chips, tmp_path / f"{jobs}.zarr", jobs=jobs).local_path for jobs in (1, 2))
    for path in sorted(path for path in one.rglob("*") if path.is_file()):
        assert path.read_bytes() == (two / path.relative_to(one)).read_bytes()


# --- sums ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
@given(data=st.data())
def test_integer_sums_are_exact(dtype: str, data: st.DataObject) -> None:
    values = data.draw(any_bits(dtype))
    total, squares = band_sums(values, layout_of(values))
    whole = values.astype(object)
    assert total.tolist() == whole.sum(axis=(1, 2)).tolist()
    assert squares.tolist() == (whole**2).sum(axis=(1, 2)).tolist()


def test_sums_of_the_smallest_int16_are_exact() -> None:
    values = np.full((1, 256, 256), -32768, np.int16)
    total, squares = band_sums(values, plan_layout(bands=("a",), height=256, width=256, dtype="int16", codec="lz4"))
    assert (int(total[0]), int(squares[0])) == (-32768 * 65536, 32768**2 * 65536)


def in_order(values: list[float]) -> float:
    """The documented order with Python's own additions: no vectors, no numpy."""
    while len(values) > 32:
        half = (len(values) + 1) // 2
        values = [values[k] + values[half + k] if half + k < len(values) else values[k] for k in range(half)]
    return math.fsum(values)


@given(st_numpy.arrays(np.float32, st.integers(1, 300), elements=st.floats(width=32, allow_infinity=False)))
def test_float_sums_are_added_in_one_order_on_every_machine(values: np.ndarray) -> None:
    found = _ordered_sum(values.astype(np.float64), np.empty(len(values)))
    expected = in_order(values.astype(np.float64).tolist())
    assert found == expected or (math.isnan(found) and math.isnan(expected))


@pytest.mark.parametrize("offset", [0.0, 0.3, 1e6, -1e9])
@pytest.mark.parametrize("spread", [1e-3, 1.0, 1000.0])
def test_float_statistics_equal_two_passes_in_float64(offset: float, spread: float) -> None:
    """From sums of squares the variance of 1e6 +- 1 is wrong by up to 39 %."""
    rng = np.random.default_rng(0)
    values = rng.normal(offset, spread, (40, 2, 48, 40)).astype(np.float32)
    values[7] += np.float32(spread)
    layout = layout_of(values[0])
    total, squares = (np.array(part) for part in zip(*(band_sums(chip, layout) for chip in values), strict=True))
    assert total.dtype == squares.dtype == np.float64
    chips = np.array([0, 7, 11, 39, 20])
    mean, std = band_statistics(layout, total, squares, chips)
    wide = values[chips].astype(np.float64)
    exact = [Fraction(0), Fraction(0)]
    for band in range(2):
        exact[band] = sum(map(Fraction, wide[:, band].ravel().tolist()), Fraction(0)) / wide[:, band].size
    assert np.allclose(mean, [float(value) for value in exact], rtol=1e-15, atol=0)
    two_pass = np.sqrt(((wide - np.array(exact, np.float64)[:, None, None]) ** 2).mean(axis=(0, 2, 3)))
    assert np.allclose(std, two_pass, rtol=1e-13, atol=0)


def test_sums_of_a_large_chip_are_added_in_blocks() -> None:
    values = np.random.default_rng(0).normal(1e6, 1, (1, 700, 800)).astype(np.float32)
    total, squares = band_sums(values, layout_of(values))
    wide = values.astype(np.float64)
    exact = sum(map(Fraction, wide.ravel().tolist()), Fraction(0))
    assert total[0] == float(exact)
    assert np.isclose(squares[0], ((wide - float(exact / wide.size)) ** 2).sum(), rtol=1e-13, atol=0)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(1, 50), st.integers(1, 50))
def test_a_constant_float_band_has_std_zero(value: float, chips: int, side: int) -> None:
    values = np.full((1, side, side), value, np.float32)
    layout = layout_of(values)
    total, squares = (np.repeat(part[None], chips, axis=0) for part in band_sums(values, layout))
    mean, std = band_statistics(layout, total, squares, np.arange(chips))
    assert (mean[0], std[0]) == (np.float64(np.float32(value)), 0.0)


def test_int16_statistics_of_negative_values(tmp_path: Path) -> None:
    chips = write_chips(tmp_path / "tif", count=9, dtype="int16")
    store = to_store(chips, tmp_path / "s.zarr")
    assert (store.band_sum.dtype, store.band_sumsq.dtype) == (np.int64, np.uint64)
    assert (store.band_sum < 0).any()
    wide = chips.values.astype(np.float64)
    mean, std = store.band_statistics(np.arange(9))
    assert np.allclose(mean, wide.mean(axis=(0, 2, 3)), rtol=1e-14)
    assert np.allclose(std, wide.std(axis=(0, 2, 3)), rtol=1e-12)


# --- values that are not finite --------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["lz4", "none"])
@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ([np.nan], "1 NaN and 0 infinite values of 768 (the first in band 2, row 3, column 4)"),
        ([np.inf], "0 NaN and 1 infinite values of 768 (the first in band 2, row 3, column 4)"),
        ([np.inf, -np.inf, np.nan], "1 NaN and 2 infinite values of 768 (the first in band 2, row 3, column 4)"),
    ],
)
def test_a_chip_with_values_that_are_not_finite_is_refused(
    tmp_path: Path, refused: Callable[..., str], codec: str, wrong: list[float], found: str
) -> None:
    chips = write_chips(tmp_path / "tif", count=6, bands=3, dtype="float32")
    for index in (4, 5):
        chips.values[index, 1, 3, 4 : 4 + len(wrong)] = wrong
        tifffile.imwrite(chips.folder / f"t_{index}.tif", chips.values[index], photometric="minisblack",
                         planarconfig="separate")  # fmt: skip
    line = refused(lambda: to_store(chips, tmp_path / "s.zarr", codec=codec))
    advice = "Replace them, or leave the chip out of the CSV."
    assert line == f"{chips.folder / 't_4.tif'}: expected finite values, found {found}. {advice}"
    assert not (tmp_path / "s.zarr").exists()


def test_the_largest_and_the_smallest_floats_are_finite(tmp_path: Path) -> None:
    limits = np.finfo(np.float32)
    values = np.zeros((1, 1, 8, 8), np.float32)
    values[0, 0, 0, :6] = (
        limits.max,
        limits.min,
        limits.smallest_subnormal,
        -limits.smallest_subnormal,
        -0.0,
        limits.tiny,
    )
    values[0, 0, 1:] = limits.max
    chips = write_one(tmp_path / "tif", values[0, 0])
    store = to_store(Chips(chips, chips / "tags.csv", values, ["a"]), tmp_path / "s.zarr")
    assert np.isfinite(store.band_statistics(np.arange(1))).all()
    whole = Inputs(kind="raw", bands=("band1",), mean=(0.0,), std=(1.0,))
    for engine in ("direct", "dali"):
        for batch in eval_loader(store, np.arange(1), whole, batch_size=1, crop=(8, 8), engine=engine).epoch(0):
            assert batch.images_nchw.numpy().tobytes() == values.tobytes()


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Chips, dict[str, Store]]]:
    """dtype -> 24 chips of several chunks a band, and their stores by codec."""
    made = {}
    for dtype in DTYPES:
        folder = tmp_path_factory.mktemp(dtype)
        chips = write_chips(folder / "tif", count=24, height=300, width=220, dtype=dtype, seed=2)
        made[dtype] = chips, {c: to_store(chips, folder / f"{c}.zarr", codec=c) for c in ("lz4", "none")}
    return made


@pytest.mark.parametrize("cache", ["none", "host"])
@pytest.mark.parametrize("engine", ["direct", "dali"])
@CODECS
@ALL
def test_both_engines_equal_the_oracle_to_the_bit(
    stores: dict[str, tuple[Chips, dict[str, Store]]], dtype: str, codec: str, engine: str, cache: str
) -> None:
    folder, made = stores[dtype]
    store, crop, bands = made[codec], (261, 190), ("nir", "green")
    chips = np.arange(1, 24, 2)
    inputs = raw_inputs(store, bands, chips)
    loader = train_loader(
        store, chips, inputs, batch_size=4, seed=5, flips="dihedral", crop=crop, engine=engine, cache=cache
    )
    assert loader.engine == engine
    draws = augmentation(5, 3, chips, height=300, width=220, crop=crop, flips="dihedral")
    mean, std = (np.float32(part).reshape(-1, 1, 1) for part in (inputs.mean, inputs.std))
    seen = 0
    for batch in loader.epoch(3):
        for chip, image in zip(batch.chips.tolist(), batch.images_nchw.numpy(), strict=True):
            pixels = folder.values[chip][[BANDS.index(band) for band in bands]]
            moved = oracle.augment(pixels, draws, int(np.flatnonzero(chips == chip)[0]), crop).astype(np.float32)
            assert np.array_equal(image, (moved - mean) * (np.float32(1) / std))
            seen += 1
    assert seen == len(chips)


@ALL
def test_chunk_tables_for_the_gpu_decode_on_the_cpu(
    stores: dict[str, tuple[Chips, dict[str, Store]]], dtype: str
) -> None:
    """What `graph.inflate_chips` does, with imagecodecs' LZ4 and numpy, from the same table."""
    chips, made = stores[dtype]
    reader = ChunkReader(made["lz4"], ("red", "blue"))
    layout = reader.layout
    encoded = np.zeros((3, reader.max_span_bytes), np.uint8)
    offsets, sizes = (np.zeros((3, reader.chunks_per_chip), np.int32) for _ in range(2))
    reader.copy_encoded(np.array([5, 0, 23]), encoded, offsets, sizes, np.zeros(3, np.int64))
    for row, chip in enumerate((5, 0, 23)):
        planes = [
            imagecodecs.lz4_decode(encoded[row, at : at + size].tobytes(), out=layout.chunk_bytes, header=False)
            for at, size in zip(offsets[row].tolist(), sizes[row].tolist(), strict=True)
        ]
        shuffled = np.frombuffer(b"".join(planes), np.uint8).reshape(len(planes), layout.itemsize, -1)
        values = np.ascontiguousarray(shuffled.transpose(0, 2, 1)).view(dtype).reshape(2, 300, 220)
        assert values.tobytes() == chips.values[chip][[2, 0]].tobytes()


@ALL
def test_the_gpu_graph_joins_the_inflated_bytes(stores: dict[str, tuple[Chips, dict[str, Store]]], dtype: str) -> None:
    """`graph.inflate_chips` on the CPU: what inflate would give comes from the store's chunks, all else is DALI's."""
    chips, made = stores[dtype]
    layout = made["lz4"].layout
    spec = GraphSpec(
        layout=layout, inputs=Inputs(kind="raw", bands=BANDS, mean=(0.0,) * 4, std=(1.0,) * 4), crop=(300, 220),
        flips="dihedral", test="center", decode="device", dtype="float16", batch_size=3, threads=1, device_id=None,
    )  # fmt: skip
    chunks = chips.values[:3].reshape(3, -1, layout.chunk_rows * layout.width)
    inflated = np.ascontiguousarray(chunks.view(np.uint8).reshape(*chunks.shape, layout.itemsize).swapaxes(2, 3))

    @pipeline_def(batch_size=3, num_threads=1, device_id=None)
    def graph() -> object:
        node = fn.external_source(lambda: inflated, batch=True, dtype=types.UINT8, ndim=3)
        with mock.patch.object(fn.decoders, "inflate", lambda *_, **given: asked.append(given) or node):
            return inflate_chips(spec, SimpleNamespace(gpu=lambda: None), None, None)

    asked: list[dict[str, object]] = []
    (out,) = graph().run()
    values = np.asarray(out.as_tensor())
    assert values.dtype == dtype
    assert values.tobytes() == chips.values[:3].tobytes()
    assert asked[0]["shape"] == list(inflated.shape[2:])
    for make in (train_graph, eval_graph):
        for test in ("center", "resize"):
            assert b"Inflate" in bytes(make(replace(spec, test=test), None).serialize())


@ALL
def test_resized_tests_are_near_torchs(stores: dict[str, tuple[Chips, dict[str, Store]]], dtype: str) -> None:
    chips, made = stores[dtype]
    inputs = Inputs(kind="raw", bands=("red",), mean=(0.0,), std=(1.0,))
    (batch,) = eval_loader(made["lz4"], np.array([3]), inputs, batch_size=1, test="resize", crop=(150, 110)).epoch(0)
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(chips.values[3][None, 2:3].astype(np.float64)), size=(150, 110), mode="bilinear",
        antialias=True,
    )  # fmt: skip
    assert (batch.images_nchw - exact).abs().max() < 0.02 * np.ptp(chips.values[3][2].astype(np.float64))


# --- damage, pages ---------------------------------------------------------------------------------------------------


@CODECS
@ALL
def test_verify_finds_a_flipped_bit_an_altered_chip_and_an_altered_sum(
    tmp_path: Path, dtype: str, codec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chips = write_chips(tmp_path / "tif", count=6, dtype=dtype)
    store = to_store(chips, tmp_path / "s.zarr", codec=codec).local_path
    flipped, altered, summed = (Path(shutil.copytree(store, tmp_path / f"{n}.zarr")) for n in ("flip", "alter", "sum"))
    path = zarr_store.shard_path(flipped, 0)
    data = bytearray(path.read_bytes())
    offsets, _ = shard.read_index(path, open_store(store).layout, 6)
    data[int(offsets[3, 1, 0]) + 9] ^= 16
    path.write_bytes(data)
    pixels = zarr.open_group(altered, mode="r+")["tiles"]
    pixels[4, 2, 3, 4] = pixels[4, 2, 3, 5]
    array = zarr.open_group(summed, mode="r+")["band_sum"]
    array[2, 1] = array[2, 1] + 1
    for path, said in ((flipped, "chip t_3 (number 3)"), (altered, "chip t_4 (number 4)"), (summed, "band_sum")):
        assert verify.verify(path, jobs=1) > 0
        assert said in capsys.readouterr().out


@ALL
def test_pictures_of_any_dtype_are_stretched_without_a_warning(dtype: str) -> None:
    rng = np.random.default_rng(0)
    if dtype == "float32":
        values = rng.normal(0.2, 0.05, (3, 2, 40, 40)).astype(np.float32)
        values[:, 0, :8] = np.finfo(np.float32).max * rng.choice([-1, 1], (3, 8, 40))
    else:
        values = rng.choice([np.iinfo(dtype).min, np.iinfo(dtype).max, 7], (3, 2, 40, 40)).astype(dtype)
    low, high = np.percentile(values.astype(np.longdouble), (1, 99), axis=(0, 2, 3), keepdims=True)
    expected = np.clip((values.astype(np.longdouble) - low) / (high - low), 0, 1) * 255
    assert np.abs(stretch(values) - expected).max() <= 0.5 + 1e-9
    assert not stretch(np.full((1, 1, 5, 5), 3, dtype)).any()
