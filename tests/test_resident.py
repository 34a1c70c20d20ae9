"""Batches from a cache equal those read from the store, to the bit. A cache that does not fit falls back."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.chips import BANDS, DTYPES, to_store, write_chips

from pipeline import cache, host_memory
from pipeline.cache import to_device
from pipeline.chunks import ChunkReader
from pipeline.gather import GatherEngine
from pipeline.inputs import course_inputs, raw_inputs
from pipeline.loader import ChipLoader, eval_loader, train_loader
from preprocess import zarr_store
from preprocess.console import say_once
from preprocess.zarr_store import Store, open_store


def batches(loader: ChipLoader, epoch: int) -> list[torch.Tensor]:
    return [batch.images_nchw.clone() for batch in loader.epoch(epoch)]


@pytest.fixture(scope="module", params=["lz4", "none"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Chips of several chunks per band."""
    folder = tmp_path_factory.mktemp("resident")
    return to_store(
        write_chips(folder / "tif", count=20, height=300, width=200), folder / "s.zarr", codec=request.param
    )


@pytest.mark.parametrize("engine", ["direct", "dali"])
@pytest.mark.parametrize("flips", ["both", "dihedral"])
def test_host_cache_gives_the_same_batches(store: Store, engine: str, flips: str) -> None:
    inputs, chips = raw_inputs(store, ("red", "nir", "blue"), np.arange(20)), np.arange(1, 19)
    stream, cached = (
        train_loader(store, chips, inputs, batch_size=6, flips=flips, engine=engine, cache=cache)
        for cache in ("none", "host")
    )
    assert (stream.cache, cached.cache) == ("none", "host")
    for epoch in (0, 1):
        assert all(map(torch.equal, batches(stream, epoch), batches(cached, epoch)))


def test_later_epochs_touch_no_disk_and_loaders_share(tmp_path: Path) -> None:
    store = to_store(write_chips(tmp_path / "tif", count=12), tmp_path / "s.zarr")
    inputs = raw_inputs(store, BANDS, np.arange(12))
    loader = train_loader(store, np.arange(12), inputs, batch_size=4, cache="host")
    first = batches(loader, 0)
    path = zarr_store.shard_path(store.local_path, 0)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert all(map(torch.equal, batches(loader, 0), first))
    other = eval_loader(store, np.arange(12), inputs, batch_size=4, cache="host")  # reading the disk would raise
    assert len(batches(other, 0)) == 3


def test_input_course_and_resizing_from_the_host_cache(session_store: Store) -> None:
    chips = np.arange(40)
    for inputs, test in (
        (course_inputs(session_store, 4), "center"),
        (raw_inputs(session_store, BANDS, chips), "resize"),
    ):
        stream, cached = (
            eval_loader(session_store, chips, inputs, batch_size=8, test=test, cache=cache)
            for cache in ("none", "host")
        )
        assert cached.cache == "host"
        assert all(map(torch.equal, batches(stream, 0), batches(cached, 0)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(40, 40), (30, 50)])
def test_gathered_batches_equal_streamed_ones(tmp_path: Path, dtype: str, size: tuple[int, int]) -> None:
    """The engine of CACHE=device, run on the CPU."""
    folder = write_chips(tmp_path / "tif", count=100, bands=4, height=size[0], width=size[1], dtype=dtype)
    store = to_store(folder, tmp_path / "s.zarr")
    inputs, chips = raw_inputs(store, ("nir", "red", "green"), np.arange(100)), np.arange(3, 97)
    values = to_device(ChunkReader(store, inputs.bands), 100, 2, torch.device("cpu"))
    for flips in ("none", "both", "dihedral"):
        loader = train_loader(store, chips, inputs, batch_size=10, flips=flips, engine="direct")
        crop = (round(size[0] * 7 / 8), round(size[1] * 7 / 8))
        gathered = GatherEngine(values, inputs, crop=crop, dtype=torch.float32, nodata=None)
        for epoch in (0, 1):
            images = [images for _, images in gathered.epoch(loader.plans(epoch))]
            assert all(map(torch.equal, images, batches(loader, epoch)))
            assert images[0].is_contiguous(memory_format=torch.channels_last)
    loader = eval_loader(store, chips, inputs, batch_size=10)
    whole = [images for _, images in gathered.epoch(loader.plans(0))]
    assert all(map(torch.equal, whole, batches(loader, 0)))
    half = GatherEngine(values, inputs, crop=crop, dtype=torch.float16, nodata=None)
    assert all(
        torch.equal(one, other.half())
        for (_, one), other in zip(half.epoch(loader.plans(0)), batches(loader, 0), strict=True)
    )


def test_too_big_is_one_line_and_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], refused: Callable[..., str]
) -> None:
    store = to_store(write_chips(tmp_path / "tif", count=12), tmp_path / "s.zarr")
    inputs = raw_inputs(store, BANDS, np.arange(12))
    monkeypatch.setattr(cache, "free_host_bytes", lambda: 40_000)
    capsys.readouterr()
    say_once.cache_clear()
    loader = train_loader(store, np.arange(12), inputs, batch_size=4, cache="device")
    assert loader.cache == "none"
    assert capsys.readouterr().out == (
        "cache=device needs a GPU; using cache=host instead.\n"
        "cache=host: the chips need 0.0 GiB, more than 50% of the 0.0 GiB of free memory. "
        "Reading the store in every epoch instead.\n"
    )
    assert len(batches(loader, 0)) == 3
    assert "cache=ram: expected one of none, host, device." in refused(
        lambda: train_loader(store, np.arange(12), inputs, batch_size=4, cache="ram")
    )


def test_free_memory_is_what_the_system_says() -> None:
    assert 2**28 < host_memory.free_host_bytes() < 2**50


def test_damage_is_found_while_filling(tmp_path: Path, refused: Callable[..., str]) -> None:
    store = to_store(write_chips(tmp_path / "tif", count=12, seed=9), tmp_path / "s.zarr")
    path = zarr_store.shard_path(store.local_path, 0)
    data = bytearray(path.read_bytes())
    data[4] ^= 1
    path.write_bytes(data)
    store = open_store(store.path)
    inputs = raw_inputs(store, BANDS, np.arange(12))
    assert "t_0 is damaged" in refused(lambda: train_loader(store, np.arange(12), inputs, batch_size=4, cache="host"))
