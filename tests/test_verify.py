"""verify finds every kind of damage and names it; info prints what a store contains."""

import errno
import os
import shutil
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import zarr

from preprocess import info, shard, verify, zarr_store
from preprocess.header import read_header
from preprocess.zarr_store import Store


@pytest.fixture
def copy(session_store: Store, tmp_path: Path) -> Path:
    return Path(shutil.copytree(session_store.path, tmp_path / "copy.zarr"))


def findings(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    count = verify.verify(path, jobs=1)
    return count, capsys.readouterr().out


def test_a_complete_store_is_called_complete(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count, text = findings(copy, capsys)
    assert count == 0
    assert "complete and unaltered: 300 chips in 2 shards" in text


def test_a_missing_shard_is_named(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zarr_store.shard_path(copy, 1).unlink()
    count, text = findings(copy, capsys)
    assert count == 1
    assert "copy.zarr/tiles/c/1/0/0/0 is missing (44 chips from t_256)" in text


def test_one_flipped_bit_names_its_chip(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = zarr_store.shard_path(copy, 0)
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    count, text = findings(copy, capsys)
    assert count == 1
    assert "chip t_0 (number 0)" in text
    assert "crc32c" in text


def test_a_damaged_index_names_its_shard(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = zarr_store.shard_path(copy, 1)
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    count, text = findings(copy, capsys)
    assert count == 1
    assert "the shard's index is damaged" in text


def test_a_truncated_shard_is_one_finding(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = zarr_store.shard_path(copy, 0)
    path.write_bytes(path.read_bytes()[:50])
    assert findings(copy, capsys)[0] == 1


def test_a_chip_that_zarr_changed_is_called_altered(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chips = zarr.open_group(copy, mode="r+")["tiles"]
    chips[7, 2, 3, 4] = int(chips[7, 2, 3, 4]) ^ 1
    count, text = findings(copy, capsys)
    assert count == 2
    assert "copy.zarr/tiles/c/0/0/0/0: expected the shard that was converted for this place, found another" in text
    assert "chip t_7 (number 7)" in text
    assert "altered" in text


@pytest.mark.parametrize(
    ("name", "message"), [("labels", "labels"), ("band_sum", "band_sum"), ("checksum", "checksum")]
)
def test_altered_small_arrays_are_named(
    copy: Path, capsys: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    array = zarr.open_group(copy, mode="r+")[name]
    values = np.asarray(array[...])
    values.flat[5] ^= 1
    array[...] = values
    count, text = findings(copy, capsys)
    assert count >= 1
    assert message in text


def test_info_prints_shape_statistics_and_split(session_store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    info.info(session_store.path, "course")
    text = capsys.readouterr().out
    assert "4 bands x 16 x 16 uint16" in text
    for band, mean in zip(session_store.layout.bands, session_store.band_statistics(np.arange(300))[0], strict=True):
        assert f"{band:<20}{mean:>12.3f}" in text
    train, test = 201, 99
    assert f"{'chips':<20}{300:>10}{train:>10}{test:>10}" in text


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.ESTALE])
def test_an_error_of_the_operating_system_is_not_called_damage(
    copy: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def scarce(path: str | Path) -> None:
        raise OSError(code, os.strerror(code), str(path))

    header = read_header(copy)
    for module in ("shard", "verify"):
        monkeypatch.setattr(f"preprocess.{module}.open_regular", scarce)
    with pytest.raises(OSError, match=os.strerror(code)):
        shard.read_index(zarr_store.shard_path(copy, 0), header.layout, 256)
    with pytest.raises(OSError, match=os.strerror(code)):
        verify.verify(copy, jobs=1)
    monkeypatch.setattr("preprocess.header.open_regular", scarce)
    with pytest.raises(OSError, match=os.strerror(code)):
        zarr_store.open_store(copy)


def test_a_shard_that_the_disk_cannot_read_is_a_finding_and_the_others_are_checked(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from preprocess.files import open_regular

    def failing(path: Path) -> BinaryIO:
        if path == zarr_store.shard_path(copy, 0):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return open_regular(path)

    monkeypatch.setattr("preprocess.verify.open_regular", failing)
    data = bytearray(zarr_store.shard_path(copy, 1).read_bytes())
    data[10] ^= 1
    zarr_store.shard_path(copy, 1).write_bytes(data)
    count, text = findings(copy, capsys)
    assert count == 2
    assert f"{zarr_store.shard_path(copy, 0)}: the shard cannot be read (Input/output error)" in text
    assert "chip t_256 (number 256)" in text
