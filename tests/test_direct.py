"""The compiled pass equals DALI's graph to the bit, and the oracle; a batch's memory is its own while it is held."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from conftest import BANDS, DTYPES, to_store, write_chips

from pipeline.inputs import Inputs, course_inputs, raw_inputs
from pipeline.loader import eval_loader, train_loader
from pipeline.order import augmentation
from preprocess.schema import Store, open_store


@pytest.fixture(scope="module")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Store]:
    """Stores by (dtype, codec, size, bands), made once: sizes with one chunk a band and with several."""
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
    inputs = raw_inputs(store, order, np.arange(store.num_tiles))
    for epoch in (0, 3):
        direct, graph = (
            [
                (batch.images_nchw.clone(), batch.labels, batch.tiles)
                for batch in train_loader(store, np.arange(10), inputs, batch_size=5, flips=flips, engine=engine).epoch(
                    epoch
                )
            ]
            for engine in ("direct", "dali")
        )
        for (ours, labels, tiles), (images, other_labels, other_tiles) in zip(direct, graph, strict=True):
            assert torch.equal(ours, images)
            assert torch.equal(labels, other_labels)
            assert np.array_equal(tiles, other_tiles)


@pytest.mark.parametrize("kind", ["session_store", "plain_store"])
def test_test_batches_equal_the_graphs(request: pytest.FixtureRequest, kind: str) -> None:
    store: Store = request.getfixturevalue(kind)
    inputs = raw_inputs(store, BANDS, np.arange(store.num_tiles))
    tiles = np.array([3, 299, 7, 3, 250, 0, 1])
    for crop in ((14, 14), (13, 16), (1, 1), (16, 16)):
        loaders = [
            eval_loader(store, tiles, inputs, batch_size=4, crop=crop, engine=engine) for engine in ("direct", "dali")
        ]
        assert [loader.engine for loader in loaders] == ["direct", "dali"]
        for ours, graphs in zip(*(loader.epoch(0) for loader in loaders), strict=True):
            assert torch.equal(ours.images_nchw, graphs.images_nchw)
            assert ours.num_valid == graphs.num_valid


def test_random_requests_equal_numpy(tmp_path: Path) -> None:
    """Random ids, bands, crops and flips: to the bit, unscaled and scaled."""
    chips = write_chips(tmp_path / "tif", count=20, bands=4, height=150, width=260, seed=5)
    rng = np.random.default_rng(0)
    for codec in ("lz4", "none"):
        store = to_store(chips, tmp_path / f"{codec}.zarr", codec=codec)
        for trial in range(12):
            bands = tuple(rng.choice(BANDS, rng.integers(1, 5), replace=False).tolist())
            crop = (int(rng.integers(1, 151)), int(rng.integers(1, 261)))
            tiles = np.unique(rng.integers(0, 20, 12))
            plain = Inputs(kind="raw", bands=bands, mean=(0.0,) * len(bands), std=(1.0,) * len(bands))
            scaled = raw_inputs(store, bands, tiles)
            draws = augmentation(trial, 2, tiles, height=150, width=260, crop=crop, flips="dihedral")
            row_of = {int(tile): row for row, tile in enumerate(tiles)}
            for inputs in (plain, scaled):
                loader = train_loader(
                    store, tiles, inputs, batch_size=3, seed=trial, flips="dihedral", crop=crop, engine="direct"
                )
                for batch in loader.epoch(2):
                    for tile, image in zip(batch.tiles.tolist(), batch.images_nchw.numpy(), strict=True):
                        chip = chips.values[tile][[BANDS.index(band) for band in bands]]
                        moved = oracle.augment(chip, draws, row_of[tile], crop).astype(np.float32)
                        if inputs is scaled:  # in float32, with one rounding a step
                            mean, std = (np.float32(part).reshape(-1, 1, 1) for part in (inputs.mean, inputs.std))
                            moved = (moved - mean) * (np.float32(1) / std)
                        assert np.array_equal(image, moved)


def test_a_held_batch_is_not_overwritten(session_store: Store) -> None:
    inputs = raw_inputs(session_store, BANDS, np.arange(300))
    loader = train_loader(session_store, np.arange(300), inputs, batch_size=10, engine="direct")
    held = [batch.images_nchw for batch in loader.epoch(0)]
    copies = [batch.images_nchw.clone() for batch in loader.epoch(0)]
    assert len({images.data_ptr() for images in held}) == 30
    assert all(torch.equal(one, other) for one, other in zip(held, copies, strict=True))
    # Given back, the memory serves again: an epoch whose batches are dropped makes nothing new.
    before = {images.data_ptr() for images in held}
    del held
    assert {batch.images_nchw.data_ptr() for batch in loader.epoch(1)} - before == set()
    assert len({batch.images_nchw.data_ptr() for batch in loader.epoch(2)}) <= 5


def test_batches_are_channels_last(session_store: Store) -> None:
    inputs = raw_inputs(session_store, BANDS, np.arange(300))
    batch = next(iter(train_loader(session_store, np.arange(300), inputs, batch_size=10).epoch(0)))
    assert batch.images_nchw.is_contiguous(memory_format=torch.channels_last)
    assert batch.images_nchw.dtype is torch.float32


def test_what_it_cannot_do_takes_the_graph_or_is_refused(session_store: Store, refused: Callable[..., str]) -> None:
    tiles = np.arange(300)
    raw, course = raw_inputs(session_store, BANDS, tiles), course_inputs(session_store, 4)
    assert train_loader(session_store, tiles, raw, batch_size=8).engine == "direct"
    assert train_loader(session_store, tiles, course, batch_size=8).engine == "dali"
    assert eval_loader(session_store, tiles, raw, batch_size=8, test="resize").engine == "dali"
    assert eval_loader(session_store, tiles, raw, batch_size=8, dtype=torch.float16).engine == "dali"
    line = refused(lambda: eval_loader(session_store, tiles, course, batch_size=8, test="resize", engine="direct"))
    assert line == "engine=direct: expected one of auto, direct, dali, and INPUT=raw, TEST=center."
    assert "expected one of" in refused(lambda: eval_loader(session_store, tiles, raw, batch_size=8, engine="gpu"))


def test_damage_is_named(tmp_path: Path) -> None:
    from preprocess import schema
    from preprocess.shard import DamagedChunkError

    chips = write_chips(tmp_path / "tif", count=6)
    store = to_store(chips, tmp_path / "s.zarr")
    path = schema.shard_path(store.local_path, 0)
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    store = open_store(store.path)
    loader = train_loader(store, np.arange(6), raw_inputs(store, BANDS, np.arange(6)), batch_size=2, engine="direct")
    with pytest.raises(DamagedChunkError, match=r"tile t_0 is damaged .*band 0, chunk 0: crc32c"):
        list(loader.epoch(0))
