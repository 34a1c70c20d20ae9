"""A shard must be the one that was converted for its place, and its index must point to its chunks."""

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from helpers.chips import to_store, write_chips

from pipeline.chunks import ChunkReader
from preprocess import info, shard, verify, zarr_store
from preprocess.codecs import CODECS
from preprocess.shard import ForeignShardError
from preprocess.zarr_store import Store, open_store


@pytest.fixture
def copy(session_store: Store, tmp_path: Path) -> Path:
    return Path(shutil.copytree(session_store.path, tmp_path / "copy.zarr"))


@pytest.fixture(params=["session_store", "plain_store"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of an LZ4 store, and of one without compression: there the indices of all shards are equal."""
    return Path(shutil.copytree(request.getfixturevalue(request.param).path, tmp_path / "copy.zarr"))


def read_everything(path: Path) -> np.ndarray:
    store = open_store(path)
    layout = store.layout
    pixels = np.empty((store.num_chips, len(layout.bands), layout.height, layout.width), layout.dtype)
    ChunkReader(store, layout.bands).decode(np.arange(store.num_chips), pixels)
    return pixels


def test_swapped_shards_are_named_before_a_chip_is_read(either: Path, refused: Callable) -> None:
    # The shards hold 256 and 44 chips.
    small = shutil.copytree(either, either.with_name("small.zarr"))
    one, other = (zarr_store.shard_path(small, number) for number in (0, 1))
    os.rename(one, small / "x")
    os.rename(other, one)
    os.rename(small / "x", other)
    text = refused(lambda: read_everything(small))
    assert "small.zarr/tiles/c/0/0/0/0" in text


@pytest.mark.parametrize("codec", CODECS)
def test_a_shard_of_another_place_store_or_version_is_named(
    tmp_path: Path, refused: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], codec: str
) -> None:
    monkeypatch.setattr("preprocess.layout.MAX_SHARD_CHIPS", 4)
    chips = write_chips(tmp_path / "tif", count=12)
    path = Path(to_store(chips, tmp_path / "s.zarr", codec=codec).path)
    foreign = Path(to_store(write_chips(tmp_path / "tif2", count=12, seed=1), tmp_path / "f.zarr", codec=codec).path)
    shards = [zarr_store.shard_path(path, number) for number in range(3)]
    undamaged = [file.read_bytes() for file in shards]
    older = bytearray(undamaged[1])  # from an older version of the store: one pixel of its first chip differs
    if codec == "none":
        older[0] ^= 1
        older[512:516] = struct.pack("<I", google_crc32c.value(bytes(older[:512])))
        digest = shard.tail_bytes(open_store(path).layout)
        older[-digest : -digest + 8] = bytes(8)  # the older version had another digest
    for number, data in ((0, undamaged[1]), (2, zarr_store.shard_path(foreign, 2).read_bytes()), (1, bytes(older))):
        if data == undamaged[number]:
            continue
        shards[number].write_bytes(data)
        with pytest.raises(ForeignShardError, match=f"tiles/c/{number}/0/0/0: expected the shard that was converted"):
            read_everything(path)
        assert "expected the shard that was converted for this place" in refused(lambda: info.info(path, "course"))
        assert verify.verify(path, jobs=1) >= 2  # the shard, and its chips
        assert "is altered" in capsys.readouterr().out
        shards[number].write_bytes(undamaged[number])
    read_everything(path)


@pytest.mark.parametrize("pair", [(2**63 - 8, 64), (2**64 - 2, 8), (0, 2**63), (2**62, 2**62), (0, 3), (2**40, 100)])
def test_every_offset_of_an_index_is_checked_before_a_kernel_uses_it(
    copy: Path, refused: Callable, capsys: pytest.CaptureFixture[str], pair: tuple[int, int]
) -> None:
    layout = open_store(copy).layout
    file = zarr_store.shard_path(copy, 1)
    data = bytearray(file.read_bytes())
    start = len(data) - shard.index_bytes(layout)
    data[start : start + 16] = struct.pack("<QQ", *pair)
    data[-4:] = struct.pack("<I", google_crc32c.value(bytes(data[start:-4])))
    file.write_bytes(data)
    assert "the shard's index" in refused(lambda: read_everything(copy))
    assert verify.verify(copy, jobs=1) == 1
    assert "tiles/c/1/0/0/0: the shard's index" in capsys.readouterr().out


def test_bytes_that_belong_to_no_chunk_are_damage(
    either: Path, refused: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = open_store(either).layout
    file = zarr_store.shard_path(either, 1)
    data = file.read_bytes()
    start = len(data) - shard.tail_bytes(layout)
    file.write_bytes(data[:start] + b"more" + data[start:])
    assert "bytes of chunks before the index, found others" in refused(lambda: read_everything(either))
    assert verify.verify(either, jobs=1) == 1
