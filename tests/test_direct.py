"""The direct engine equals DALI's graph to the bit, and numpy; no batch is overwritten while it is referenced."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
import zarr
from helpers.chips import BANDS, DTYPES, to_store, write_chips
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import direct
from pipeline.chunks import ChunkReader
from pipeline.inputs import course_inputs, raw_inputs
from pipeline.loader import eval_loader, train_loader
from pipeline.order import Augmentation
from preprocess.zarr_store import Store, open_store


@pytest.fixture(scope="module")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Store]:
    """Stores by (dtype, codec, size, bands), each made once; some sizes have one chunk per band, some several."""
    made: dict[tuple[object, ...], Store] = {}

    def make(dtype: str, codec: str, size: tuple[int, int], bands: int) -> Store:
        key = (dtype, codec, size, bands)
        if key not in made:
            folder = tmp_path_factory.mktemp("direct")
            chips = write_chips(
                folder / "tif", count=10, bands=bands, height=size[0], width=size[1], dtype=dtype, seed=1
            )
            made[key] = to_store(chips, folder / "s.zarr", codec=codec)
        return made[key]

    return make


@pytest.mark.parametrize("codec", ["lz4", "none"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("size", "bands"), [((16, 16), 4), ((300, 200), 3), ((300, 300), 4), ((21, 40), 1), ((40, 40), 2), ((33, 33), 7)]
)
@pytest.mark.parametrize("flips", ["none", "both", "dihedral"])
def test_train_batches_equal_the_graphs(
    make_store: Callable[..., Store], codec: str, dtype: str, size: tuple[int, int], bands: int, flips: str
) -> None:
    store = make_store(dtype, codec, size, bands)
    order = tuple(np.random.default_rng(bands).permutation(store.layout.bands).tolist())
    inputs = raw_inputs(store, order, np.arange(store.num_chips))
    for epoch in (0, 3):
        direct, graph = (
            [
                (batch.images_nchw.clone(), batch.labels, batch.chips)
                for batch in train_loader(store, np.arange(10), inputs, batch_size=5, flips=flips, engine=engine).epoch(
                    epoch
                )
            ]
            for engine in ("direct", "dali")
        )
        for (ours, labels, chips), (images, other_labels, other_chips) in zip(direct, graph, strict=True):
            assert torch.equal(ours, images)
            assert torch.equal(labels, other_labels)
            assert np.array_equal(chips, other_chips)


@pytest.mark.parametrize("kind", ["session_store", "plain_store"])
def test_test_batches_equal_the_graphs(request: pytest.FixtureRequest, kind: str) -> None:
    store: Store = request.getfixturevalue(kind)
    inputs = raw_inputs(store, BANDS, np.arange(store.num_chips))
    chips = np.array([3, 299, 7, 3, 250, 0, 1])
    for crop in ((14, 14), (13, 16), (1, 1), (16, 16)):
        loaders = [
            eval_loader(store, chips, inputs, batch_size=4, crop=crop, engine=engine) for engine in ("direct", "dali")
        ]
        assert [loader.engine for loader in loaders] == ["direct", "dali"]
        for ours, graphs in zip(*(loader.epoch(0) for loader in loaders), strict=True):
            assert torch.equal(ours.images_nchw, graphs.images_nchw)
            assert ours.num_valid == graphs.num_valid


@st.composite
def requests(draw: st.DrawFn) -> tuple[tuple[object, ...], list[str], np.ndarray, Augmentation, tuple[int, int]]:
    """(store, bands, chips, augmentation parameters, crop): any request that `augment` accepts."""
    size, num_bands = draw(st.sampled_from((((16, 16), 4), ((150, 260), 3), ((200, 200), 2), ((7, 40), 1))))
    kind = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(("lz4", "none"))), size, num_bands
    names = BANDS if num_bands == 4 else ("red", "green", "blue") if num_bands == 3 else ("band1", "band2")[:num_bands]
    bands = draw(st.lists(st.sampled_from(names), min_size=1, max_size=5))
    square = size[0] == size[1] and draw(st.booleans())
    height = draw(st.integers(1, size[0]))
    crop = (height, height if square else draw(st.integers(1, size[1])))
    chips = draw(st.lists(st.integers(0, 9), min_size=1, max_size=6))

    def each(values: st.SearchStrategy, dtype: type) -> np.ndarray:
        return np.array(draw(st.lists(values, min_size=len(chips), max_size=len(chips))), dtype)

    parameters = Augmentation(
        flip_rows=each(st.booleans(), bool),
        transpose=each(st.booleans() if square else st.just(False), bool),
        crop_y=each(st.integers(0, size[0] - crop[0]), np.int32),
        crop_x=each(st.integers(0, size[1] - crop[1]), np.int32),
        mirror=each(st.booleans(), bool),
    )
    return kind, bands, np.array(chips), parameters, crop


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=requests(), mean=st.floats(-1000, 10_000), scale=st.floats(0.001, 10))
def test_any_request_equals_numpy(
    make_store: Callable[..., Store], request: tuple[Any, ...], mean: float, scale: float
) -> None:
    """Any chips, bands, crops and flips, to the bit: float32 with one rounding per step."""
    kind, bands, chips, parameters, crop = request
    store = make_store(*kind)
    values = zarr.open_group(store.path, mode="r")["tiles"][...]
    reader = ChunkReader(store, tuple(bands))
    images = np.full((len(chips), *crop, len(bands)), np.nan, np.float32)
    means, scales = (np.float32(value) + np.arange(len(bands), dtype=np.float32) for value in (mean, scale))
    reader.augment(chips, parameters, images, means, scales)
    for row, chip in enumerate(chips.tolist()):
        pixels = values[chip][[store.layout.bands.index(band) for band in bands]]
        moved = np.moveaxis(oracle.augment(pixels, parameters, row, crop), 0, -1).astype(np.float32)
        assert np.array_equal(images[row], (moved - means) * scales)


def test_a_held_batch_is_not_overwritten(session_store: Store) -> None:
    inputs = raw_inputs(session_store, BANDS, np.arange(300))
    loader = train_loader(session_store, np.arange(300), inputs, batch_size=10, engine="direct")
    held = [batch.images_nchw for batch in loader.epoch(0)]
    copies = [batch.images_nchw.clone() for batch in loader.epoch(0)]
    assert len({images.data_ptr() for images in held}) == 30
    assert all(torch.equal(one, other) for one, other in zip(held, copies, strict=True))
    # Memory without references is used again: an epoch whose batches are dropped allocates nothing.
    before = {images.data_ptr() for images in held}
    del held
    assert {batch.images_nchw.data_ptr() for batch in loader.epoch(1)} - before == set()
    assert len({batch.images_nchw.untyped_storage().data_ptr() for batch in loader.epoch(2)}) <= 5


@pytest.mark.parametrize(("batch_size", "count"), [(1, 5), (7, 3), (64, 2)])
def test_batches_that_are_made_together_are_each_their_own(
    session_store: Store, monkeypatch: pytest.MonkeyPatch, batch_size: int, count: int
) -> None:
    """However many batches share one piece of memory: the same images, and none changes while it is held."""
    inputs, chips = raw_inputs(session_store, BANDS, np.arange(300)), np.arange(299)
    bytes_per_batch = 4 * batch_size * 14 * 14 * len(BANDS)

    def batches(joined: int) -> list[tuple[torch.Tensor, np.ndarray, int]]:
        monkeypatch.setattr(direct, "JOINED_BYTES", joined * bytes_per_batch)
        train = train_loader(session_store, chips, inputs, batch_size=batch_size, engine="direct")
        test = eval_loader(session_store, chips, inputs, batch_size=batch_size, engine="direct")
        every = (batch for loader in (train, test) for batch in loader.epoch(1))
        return [(batch.images_nchw, batch.chips, batch.num_valid) for batch in every]

    for (ours, *place), (alone, *other_place) in zip(batches(count), batches(1), strict=True):
        assert torch.equal(ours, alone)
        assert np.array_equal(place[0], other_place[0])
        assert place[1] == other_place[1]


def test_batches_are_channels_last(session_store: Store) -> None:
    inputs = raw_inputs(session_store, BANDS, np.arange(300))
    batch = next(iter(train_loader(session_store, np.arange(300), inputs, batch_size=10).epoch(0)))
    assert batch.images_nchw.is_contiguous(memory_format=torch.channels_last)
    assert batch.images_nchw.dtype is torch.float32


def test_requests_that_the_direct_engine_cannot_serve_use_dali_or_are_refused(
    session_store: Store, refused: Callable[..., str]
) -> None:
    chips = np.arange(300)
    raw, course = raw_inputs(session_store, BANDS, chips), course_inputs(session_store, 4)
    assert train_loader(session_store, chips, raw, batch_size=8).engine == "direct"
    assert train_loader(session_store, chips, course, batch_size=8).engine == "dali"
    assert eval_loader(session_store, chips, raw, batch_size=8, test="resize").engine == "dali"
    assert eval_loader(session_store, chips, raw, batch_size=8, dtype=torch.float16).engine == "dali"
    line = refused(lambda: eval_loader(session_store, chips, course, batch_size=8, test="resize", engine="direct"))
    assert line == "engine=direct: needs raw inputs and no resizing. Choose auto."
    assert "expected one of" in refused(lambda: eval_loader(session_store, chips, raw, batch_size=8, engine="gpu"))


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    from preprocess import zarr_store
    from preprocess.shard import DamagedChunkError

    chips = write_chips(tmp_path / "tif", count=6)
    store = to_store(chips, tmp_path / "s.zarr")
    path = zarr_store.shard_path(store.local_path, 0)
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    store = open_store(store.path)
    loader = train_loader(store, np.arange(6), raw_inputs(store, BANDS, np.arange(6)), batch_size=2, engine="direct")
    with pytest.raises(DamagedChunkError, match=r"chip t_0 is damaged .*band 0, chunk 0: crc32c"):
        list(loader.epoch(0))
