"""Reading past the page cache, as for a store that is larger than memory: the same batches, bounded memory, errors."""

import errno
import os
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from helpers.chips import BANDS

from pipeline import disk_reads, shards
from pipeline.chunks import ChunkReader
from pipeline.inputs import raw_inputs
from pipeline.loader import ChipLoader, eval_loader, train_loader
from preprocess.console import say_once
from preprocess.shard import DamagedChunkError
from preprocess.zarr_store import Store, open_store, shard_path


def large(store: Store, page_cache: int | None = 0) -> Any:
    """A reader whose page cache may keep `page_cache` bytes of the store."""
    if not disk_reads.supported(str(shard_path(store.local_path, 0))):
        pytest.skip("this file system has no O_DIRECT")
    return ChunkReader(store, BANDS, page_cache=page_cache)


def decoded(reader: ChunkReader, chips: np.ndarray) -> np.ndarray:
    pixels = np.empty((len(chips), len(BANDS), 16, 16), np.uint16)
    reader.decode(chips, pixels)
    return pixels


@pytest.mark.parametrize("kind", ["session_store", "plain_store"])
@pytest.mark.parametrize("unit", [4096, 1 << 20])
def test_chips_read_past_the_page_cache_are_those_of_zarr_python(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, kind: str, unit: int
) -> None:
    store: Store = request.getfixturevalue(kind)
    reader, chips = large(store), np.array([299, 4, 17, 256, 0, 4, 255, 18])
    monkeypatch.setattr(disk_reads, "_UNIT", unit)
    monkeypatch.setattr(reader._shards, "_map", lambda shard: pytest.fail("read through the page cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array: Any = zarr.open_group(store.path, mode="r")["tiles"]
        expected = np.stack([array[chip] for chip in chips.tolist()])
    for _ in range(2):
        reader.announce(chips)
        assert np.array_equal(decoded(reader, chips), expected)
        assert not len(reader._shards._past._announced)


def images(loader: ChipLoader) -> list[torch.Tensor]:
    """Copies of all batches; the second epoch is broken off and begun again."""
    made = [batch.images_nchw.clone() for batch in loader.epoch(0)]
    next(loader.epoch(1))
    made += [batch.images_nchw.clone() for batch in loader.epoch(1)]
    loader.close()
    return made


@pytest.mark.parametrize("engine", ["direct", "dali"])
def test_batches_are_equal_however_much_of_the_store_fits_into_memory(session_store: Store, engine: str) -> None:
    chips, inputs = np.arange(300), raw_inputs(session_store, BANDS, np.arange(300))

    def made(page_cache: int | None) -> list[torch.Tensor]:
        options: Any = {"workers": 2, "engine": engine, "page_cache": page_cache}
        train = train_loader(session_store, chips, inputs, batch_size=16, **options)
        test = eval_loader(session_store, chips[::-1], inputs, batch_size=32, **options)
        return [*images(train), *images(test)]

    first_shard = shard_path(session_store.local_path, 0).stat().st_size
    expected = made(None)
    for page_cache in (0, first_shard):
        assert all(torch.equal(*both) for both in zip(made(page_cache), expected, strict=True))


def test_the_first_shards_stay_in_the_page_cache_and_the_others_are_read_past_it(session_store: Store) -> None:
    first_shard = shard_path(session_store.local_path, 0).stat().st_size
    assert large(session_store)._shards._is_past.tolist() == [True, True]
    assert large(session_store, first_shard)._shards._is_past.tolist() == [False, True]
    assert large(session_store, 2 * first_shard)._shards._past is None


def test_a_store_that_is_larger_than_the_free_memory_is_read_past_the_page_cache(
    session_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert large(session_store, None)._shards._past is None
    monkeypatch.setattr(shards, "free_host_bytes", lambda: 10_000)
    assert large(session_store, None)._shards._is_past.all()


def test_memory_is_used_again_after_a_batch_and_after_a_forgotten_announcement(session_store: Store) -> None:
    reader, chips = large(session_store), np.arange(300)
    past = reader._shards._past
    for number in range(6):
        reader.announce(chips)
        if number % 2:
            reader.forget()
        else:
            decoded(reader, chips)
        assert not len(past._announced)
        while not past._free:  # a reading thread may hold it for a moment
            time.sleep(0.001)
    assert len(past._free) == 1


def test_a_file_system_without_o_direct_is_told_and_read_through_the_page_cache(
    session_store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: str) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)

    monkeypatch.setattr(disk_reads, "open_file", refuse)
    say_once.cache_clear()
    reader: Any = ChunkReader(session_store, BANDS, page_cache=0)
    assert reader._shards._past is None
    assert capsys.readouterr().out == (
        f"{session_store.path}: the store is larger than the free memory, and its file system cannot read past the "
        "page cache (O_DIRECT). Chips are read through it, which costs more CPU time.\n"
    )
    chips = np.array([299, 3])
    reader.announce(chips)
    assert np.array_equal(decoded(reader, chips), decoded(ChunkReader(session_store, BANDS), chips))


def test_a_range_that_the_disk_cannot_read_is_an_error_with_the_shard(
    session_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, chips = large(session_store), np.array([299])

    def broken(descriptor: int, *arguments: Any) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(disk_reads, "_read_rows", lambda descriptor, rows, read: None)
    expected = decoded(ChunkReader(session_store, BANDS), chips)
    reader.announce(chips)
    assert np.array_equal(decoded(reader, chips), expected)  # the second try has read it
    for preadv, error, text in (
        (broken, OSError, "Input/output error"),
        (lambda *arguments: 7, DamagedChunkError, "expected bytes .*, found 7"),
    ):
        with monkeypatch.context() as patch:
            reader.announce(chips)
            patch.setattr(os, "preadv", preadv)
            with pytest.raises(error, match=text) as caught:
                decoded(reader, chips)
        assert str(shard_path(session_store.local_path, 1)) in str(caught.value)
        reader.forget()


def test_a_shard_that_is_missing_or_has_changed_is_an_error_where_it_is_read(
    session_store: Store, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(session_store.local_path, tmp_path / "copy.zarr"))
    reader, path = large(open_store(copy)), shard_path(copy, 1)
    data = path.read_bytes()
    for change, text in ((lambda: path.unlink(), "cannot be read"), (lambda: path.write_bytes(data[:-9]), "changed")):
        change()
        reader.announce(np.array([299, 3]))
        decoded(reader, np.array([3]))
        with pytest.raises(DamagedChunkError, match=text):
            decoded(reader, np.array([299]))
