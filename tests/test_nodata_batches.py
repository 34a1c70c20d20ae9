"""Batches of chips with nodata from every engine: equal to numpy to the bit, 0 where a pixel is nodata."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import oracle
import pytest
import torch
from helpers.chips import BANDS, DTYPES, Chips, to_store, write_chips
from helpers.nodata import EMPTY, KINDS, missing, write_chip, write_nodata
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.cache import to_device
from pipeline.chunks import ChunkReader
from pipeline.gather import GatherEngine
from pipeline.graph import GraphSpec, eval_graph, train_graph
from pipeline.inputs import Inputs, course_inputs, raw_inputs
from pipeline.loader import eval_loader, train_loader
from pipeline.order import augmentation
from preprocess.layout import plan_layout
from preprocess.shard import read_index
from preprocess.zarr_store import Store, shard_path

ALL = pytest.mark.parametrize(("dtype", "nodata"), KINDS)
HEIGHT, WIDTH, CROP = 300, 220, (261, 190)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], SimpleNamespace]:
    """(dtype, nodata) -> 12 chips of several chunks per band, and their stores by codec."""
    made = {}
    for dtype, nodata in KINDS:
        folder = tmp_path_factory.mktemp(dtype)
        chips = write_nodata(folder / "tif", dtype, nodata, height=HEIGHT, width=WIDTH)
        made[dtype, nodata] = SimpleNamespace(
            chips=chips, nodata=nodata,
            lz4=to_store(chips, folder / "lz4.zarr", codec="lz4", nodata=nodata),
            none=to_store(chips, folder / "none.zarr", codec="none", nodata=nodata),
        )  # fmt: skip
    return made


def expected_image(chip: np.ndarray, nodata: str, inputs: Inputs) -> np.ndarray:
    """(bands, height, width) stored values -> float32, with one rounding per step, and 0 for nodata."""
    mean, std = (np.float32(values).reshape(-1, 1, 1) for values in (inputs.mean, inputs.std))
    with np.errstate(over="ignore"):  # nodata of -3.4e38 divided by a small std
        return np.where(missing(chip, nodata), np.float32(0), (chip.astype(np.float32) - mean) * (np.float32(1) / std))


@pytest.mark.parametrize("codec", ["lz4", "none"])
@pytest.mark.parametrize(("engine", "cache"), [("direct", "none"), ("direct", "host"), ("dali", "none")])
@ALL
def test_engines_equal_the_oracle_to_the_bit(
    stores: dict[tuple[str, str], SimpleNamespace], dtype: str, nodata: str, engine: str, cache: str, codec: str
) -> None:
    made = stores[dtype, nodata]
    store, bands, chips = getattr(made, codec), ("nir", "green"), np.arange(12)
    inputs = raw_inputs(store, bands, chips)
    loader = train_loader(
        store, chips, inputs, batch_size=4, seed=5, flips="dihedral", crop=CROP, engine=engine, cache=cache
    )
    assert (loader.engine, loader.cache) == (engine, cache)
    parameters = augmentation(5, 3, chips, height=HEIGHT, width=WIDTH, crop=CROP, flips="dihedral")
    seen = 0
    for batch in loader.epoch(3):
        for chip, image in zip(batch.chips.tolist(), batch.images_nchw.numpy(), strict=True):
            pixels = made.chips.values[chip][[BANDS.index(band) for band in bands]]
            assert np.array_equal(
                image, expected_image(oracle.augment(pixels, parameters, chip, CROP), nodata, inputs)
            )  # fmt: skip
            assert chip != EMPTY or not image.any()
            seen += 1
    assert seen == 12


@ALL
def test_gathered_batches_equal_streamed_ones(
    stores: dict[tuple[str, str], SimpleNamespace], dtype: str, nodata: str
) -> None:
    store = stores[dtype, nodata].lz4
    inputs = raw_inputs(store, ("nir", "red"), np.arange(12))
    values = to_device(ChunkReader(store, inputs.bands), 12, 2, torch.device("cpu"))
    loader = train_loader(store, np.arange(12), inputs, batch_size=4, crop=CROP, engine="direct")
    engine = GatherEngine(values, inputs, crop=CROP, dtype=torch.float32, nodata=store.layout.nodata)
    for (_, images), batch in zip(engine.epoch(loader.plans(1)), loader.epoch(1), strict=True):
        assert torch.equal(images, batch.images_nchw)


@st.composite
def requests(draw: st.DrawFn) -> tuple[tuple[str, str], str, list[str], np.ndarray, tuple[int, int], int]:
    """(kind, codec, bands, chips, crop, seed)."""
    return (
        draw(st.sampled_from(KINDS)), draw(st.sampled_from(("lz4", "none"))),
        draw(st.lists(st.sampled_from(BANDS), min_size=1, max_size=5)),
        np.array(draw(st.lists(st.integers(0, 11), min_size=1, max_size=4, unique=True))),
        (draw(st.integers(1, HEIGHT)), draw(st.integers(1, WIDTH))), draw(st.integers(0, 99)),
    )  # fmt: skip


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=requests(), mean=st.floats(-1000, 10_000), scale=st.floats(0.001, 10))
def test_any_request_equals_numpy(
    stores: dict[tuple[str, str], SimpleNamespace],
    request: tuple[tuple[str, str], str, list[str], np.ndarray, tuple[int, int], int], mean: float, scale: float,
) -> None:  # fmt: skip
    (dtype, nodata), codec, bands, chips, crop, seed = request
    made = stores[dtype, nodata]
    reader = ChunkReader(getattr(made, codec), tuple(bands))
    parameters = augmentation(seed, 0, chips, height=HEIGHT, width=WIDTH, crop=crop, flips="both")
    images = np.full((len(chips), *crop, len(bands)), np.nan, np.float32)
    means, scales = (np.float32(value) + np.arange(len(bands), dtype=np.float32) for value in (mean, scale))
    reader.augment(chips, parameters, images, means, scales)
    for row, chip in enumerate(chips.tolist()):
        pixels = made.chips.values[chip][[BANDS.index(band) for band in bands]]
        moved = np.moveaxis(oracle.augment(pixels, parameters, row, crop), 0, -1)
        with np.errstate(over="ignore"):
            scaled = (moved.astype(np.float32) - means) * scales
        assert np.array_equal(images[row], np.where(missing(moved, nodata), np.float32(0), scaled))


@ALL
def test_a_resize_mixes_in_the_mean_beside_nodata(
    stores: dict[tuple[str, str], SimpleNamespace], tmp_path: Path, dtype: str, nodata: str
) -> None:
    """TEST=resize equals the resize of float32 chips that have the mean in the place of nodata."""
    made = stores[dtype, nodata]
    inputs = raw_inputs(made.lz4, BANDS, np.arange(12))
    mean = np.float32(inputs.mean).reshape(-1, 1, 1)
    filled = np.where(missing(made.chips.values, nodata), mean, made.chips.values.astype(np.float32))
    copies = write_chips(tmp_path / "tif", count=12, dtype="float32")
    for index, chip in enumerate(filled):
        write_chip(tmp_path / "tif" / f"t_{index}.tif", chip)
    plain = to_store(Chips(copies.folder, copies.csv, filled, copies.tags), tmp_path / "s.zarr")
    pairs = zip(
        *(
            eval_loader(store, np.arange(12), inputs, batch_size=4, test="resize", crop=(150, 110)).epoch(0)
            for store in (made.lz4, plain)
        ),
        strict=True,
    )
    for ours, theirs in pairs:
        assert torch.equal(ours.images_nchw, theirs.images_nchw)
        assert torch.isfinite(ours.images_nchw).all()
    assert not ours.images_nchw.isnan().any()


@pytest.mark.parametrize("count", [3, 4])
def test_course_inputs_fill_colours_where_nir_is_nodata(tmp_path: Path, count: int) -> None:
    chips = write_nodata(tmp_path / "tif", "uint16", "0", height=24, width=20, share=0.2)
    store = to_store(chips, tmp_path / "s.zarr", nodata="0")
    inputs = course_inputs(store, count)
    mean, std = (np.float32(values).reshape(-1, 1, 1) for values in (inputs.mean, inputs.std))
    for batch in eval_loader(store, np.arange(12), inputs, batch_size=4, crop=(24, 20)).epoch(0):
        for chip, image in zip(batch.chips.tolist(), batch.images_nchw.numpy(), strict=True):
            values = chips.values[chip]
            gone = missing(values, "0")
            gone[:3] |= gone[3]
            scaled = (oracle.pil_course(values).astype(np.float32)[:count] - mean) * (np.float32(1) / std)
            assert np.array_equal(image, np.where(gone[:count], np.float32(0), scaled))


def test_float16_images_are_0_where_a_pixel_is_nodata(stores: dict[tuple[str, str], SimpleNamespace]) -> None:
    made = stores["float32", "nan"]
    inputs = raw_inputs(made.lz4, BANDS, np.arange(12))
    loader = eval_loader(made.lz4, np.arange(12), inputs, batch_size=4, crop=(HEIGHT, WIDTH), dtype=torch.float16)
    for batch in loader.epoch(0):
        gone = missing(made.chips.values[batch.chips], "nan")
        assert torch.isfinite(batch.images_nchw).all()
        assert not batch.images_nchw.numpy()[gone].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_gpu_graphs_with_nodata_are_constructed(dtype: str) -> None:
    spec = GraphSpec(
        layout=plan_layout(bands=BANDS, height=64, width=64, dtype=dtype, codec="lz4", nodata="7"),
        inputs=Inputs(kind="raw", bands=("red", "nir"), mean=(1.0,) * 2, std=(2.0,) * 2), crop=(56, 56),
        flips="dihedral", test="center", decode="device", dtype="float16", batch_size=8, threads=2, device_id=None,
    )  # fmt: skip
    specs = [spec, replace(spec, test="resize")]
    if dtype == "float32":
        specs += [replace(each, layout=replace(spec.layout, nodata="nan")) for each in specs]
    if dtype == "uint16":
        specs.append(replace(spec, inputs=Inputs(kind="course", bands=BANDS[:3], mean=(1.0,) * 3, std=(2.0,) * 3)))
    for each in specs:
        for make in (train_graph, eval_graph):
            serialised = bytes(make(each, None).serialize())
            assert b"Inflate" in serialised
            assert b"Reinterpret" in serialised


def test_a_store_without_nodata_has_the_graph_that_it_had() -> None:
    spec = GraphSpec(
        layout=plan_layout(bands=BANDS, height=64, width=64, dtype="uint8", codec="lz4"),
        inputs=Inputs(kind="raw", bands=BANDS, mean=(1.0,) * 4, std=(2.0,) * 4), crop=(56, 56), flips="none",
        test="center", decode="device", dtype="float16", batch_size=8, threads=2, device_id=None,
    )  # fmt: skip
    serialised = bytes(train_graph(spec, None).serialize())
    assert b"Reinterpret" not in serialised
    assert b"ArithmeticGenericOp" not in serialised


def test_bands_of_a_batch_are_chosen_with_their_nodata(tmp_path: Path) -> None:
    """A pixel that is nodata in one band keeps its values in the others."""
    chips = write_nodata(tmp_path / "tif", "uint8", "0", empty=False)
    store: Store = to_store(chips, tmp_path / "s.zarr", nodata="0")
    inputs = raw_inputs(store, ("red",), np.arange(12))
    (batch,) = eval_loader(store, np.arange(12), inputs, batch_size=12, crop=(16, 16)).epoch(0)
    assert np.array_equal(batch.images_nchw.numpy()[:, 0] == 0, missing(chips.values, "0")[:, 2])


def test_a_damaged_chip_with_nodata_is_named(tmp_path: Path, refused: Callable[..., str]) -> None:
    chips = write_nodata(tmp_path / "tif", "float32", "nan")
    store = to_store(chips, tmp_path / "s.zarr", nodata="nan")
    path = shard_path(store.local_path, 0)
    data = bytearray(path.read_bytes())
    offsets, _ = read_index(path, store.layout, 12)
    data[int(offsets[6, 2, 0]) + 9] ^= 16
    path.write_bytes(data)
    inputs = raw_inputs(store, BANDS, np.arange(12))
    loader = eval_loader(store, np.arange(12), inputs, batch_size=12, engine="direct")
    assert "chip t_6 is damaged" in refused(lambda: next(loader.epoch(0)))
