"""Local shards: one map per file, no open descriptor, plain reads beyond the map limit; changed files are refused."""

import errno
import gc
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from helpers.chips import BANDS, Chips, to_store, write_chips

from pipeline import mapped_files
from pipeline.chunks import ChunkReader
from preprocess import zarr_store
from preprocess.shard import DamagedChunkError
from preprocess.zarr_store import Store, open_store

COUNT = 150


@pytest.fixture(autouse=True)
def no_maps_of_earlier_tests() -> None:
    gc.collect()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Chips, Path]:
    """150 chips in 150 shards."""
    folder = tmp_path_factory.mktemp("many")
    chips = write_chips(folder / "tif", count=COUNT)
    with mock.patch("preprocess.layout.MAX_SHARD_CHIPS", 1):
        store = to_store(chips, folder / "s.zarr")
    assert store.layout.num_shards(COUNT) == COUNT
    return chips, folder / "s.zarr"


def decode(reader: ChunkReader, chips: np.ndarray) -> np.ndarray:
    out = np.zeros((len(chips), len(BANDS), 16, 16), np.uint16)
    reader.decode(chips, out)
    return out


def maps_of(path: Path) -> list[str]:
    """The lines in /proc/self/maps that name a file below `path`."""
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if f"{path}/" in line]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_shard_stays_open_and_all_readers_share_one_map_of_each(many: tuple[Chips, Path]) -> None:
    chips, path = many
    before = descriptors()
    readers = [ChunkReader(open_store(path), BANDS) for _ in range(3)]
    for reader in readers:
        assert np.array_equal(decode(reader, np.arange(COUNT)), chips.values)
    assert descriptors() == before
    assert len(maps_of(path)) == COUNT
    del reader, readers
    assert maps_of(path) == []


def test_the_bytes_stay_valid_while_their_owner_exists(many: tuple[Chips, Path]) -> None:
    _, path = many
    reader = ChunkReader(open_store(path), BANDS)
    addresses, sizes, owner = reader.locate(np.arange(3))
    expected = [mapped_files.ctypes.string_at(int(a), int(s)) for a, s in zip(addresses.flat, sizes.flat, strict=True)]
    del reader
    assert [
        mapped_files.ctypes.string_at(int(a), int(s)) for a, s in zip(addresses.flat, sizes.flat, strict=True)
    ] == expected
    assert len(maps_of(path)) == 3
    del owner
    assert maps_of(path) == []


LIMITED = """
import sys
from pathlib import Path
import numpy as np
import pipeline
from pipeline.inputs import raw_inputs
from pipeline.loader import eval_loader, train_loader
from preprocess.zarr_store import open_store
from preprocess.verify import verify

path, values = Path(sys.argv[1]), np.load(sys.argv[2])
store = open_store(path)
chips = np.arange(store.num_chips)
inputs = raw_inputs(store, store.layout.bands, chips)
loaders = [
    train_loader(store, chips, inputs, batch_size=10, crop=(16, 16), flips="none"),
    eval_loader(store, chips, inputs, batch_size=10, crop=(16, 16)),
    eval_loader(store, chips, inputs, batch_size=10, crop=(16, 16)),
]
mean, std = (np.array(part, np.float32)[:, None, None] for part in (inputs.mean, inputs.std))
expected = (values - mean) * (np.float32(1) / std)
for loader in loaders:
    for batch in loader.epoch(0):
        assert (batch.images_nchw.numpy() == expected[batch.chips]).all()
    loader.close()
assert verify(path, jobs=1) == 0
"""


def test_a_store_of_more_shards_than_open_files_is_read_and_verified(many: tuple[Chips, Path], tmp_path: Path) -> None:
    chips, path = many
    np.save(tmp_path / "values.npy", chips.values)
    ended = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path), str(tmp_path / "values.npy")],
        capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("code", ["MAX_MAPS", errno.ENOMEM, errno.ENODEV])
def test_shards_that_cannot_be_mapped_are_read(
    many: tuple[Chips, Path], monkeypatch: pytest.MonkeyPatch, code: str | int
) -> None:
    """A batch has mapped and unmapped shards, in any order and more than once."""
    written, path = many
    reader = ChunkReader(open_store(path), BANDS)
    decode(reader, np.arange(0, 100, 7))
    if code == "MAX_MAPS":
        monkeypatch.setattr(mapped_files, "MAX_MAPS", 20)
    else:
        monkeypatch.setattr(mapped_files, "MappedFile", mock.Mock(side_effect=OSError(code, "no")))
    before = descriptors()
    for seed in range(3):
        chips = np.random.default_rng(seed).integers(0, COUNT, 60)
        assert np.array_equal(decode(reader, chips), written.values[chips])
    assert descriptors() == before
    assert len(maps_of(path)) == (20 if code == "MAX_MAPS" else 15)


def test_another_error_of_the_system_is_raised_with_the_file(
    many: tuple[Chips, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path = many
    reader = ChunkReader(open_store(path), BANDS)
    monkeypatch.setattr(mapped_files, "MappedFile", mock.Mock(side_effect=OSError(errno.EIO, "Input/output error")))
    with pytest.raises(OSError, match="Input/output error") as error:
        decode(reader, np.array([7]))
    assert error.value.filename == str(zarr_store.shard_path(path, 7))


def test_a_store_that_was_converted_again_is_not_read_from_the_old_map(tmp_path: Path) -> None:
    path, readers = tmp_path / "s.zarr", []
    for seed in range(3):
        chips = write_chips(tmp_path / f"tif{seed}", seed=seed)
        if path.exists():
            shutil.rmtree(path)
        readers.append((ChunkReader(to_store(chips, path, codec="none"), BANDS), chips))
        assert np.array_equal(decode(readers[-1][0], np.arange(12)), chips.values)
    for reader, chips in readers:  # the old readers still read the store that they opened
        assert np.array_equal(decode(reader, np.arange(12)), chips.values)


def cut(path: Path) -> None:
    os.truncate(path, 100)


def append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def replace_by_a_file_of_the_same_size(path: Path) -> None:
    data = bytearray(path.read_bytes())
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("can_map", [True, False])
@pytest.mark.parametrize("change", [cut, append, replace_by_a_file_of_the_same_size])
def test_a_shard_that_changes_between_its_index_and_its_chips_is_refused(
    tmp_path: Path, plain_store: Store, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], can_map: bool
) -> None:
    copy = Path(shutil.copytree(plain_store.path, tmp_path / "copy.zarr"))
    if not can_map:
        monkeypatch.setattr(mapped_files, "MAX_MAPS", 0)
    reader = ChunkReader(open_store(copy), BANDS)
    change(zarr_store.shard_path(copy, 1))
    decode(reader, np.array([3]))
    with pytest.raises(DamagedChunkError, match=r"tiles/c/1/0/0/0: the shard has changed since it was opened"):
        decode(reader, np.array([299]))


def pipe(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def dangling_link(path: Path) -> None:
    path.symlink_to("nothing")


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("make", "kind"),
    [(pipe, "a named pipe"), (folder, "a folder"), (dangling_link, "No such file"), (device, "a device")],
)
def test_a_shard_that_is_not_a_regular_file_is_named_at_once(
    tmp_path: Path, session_store: Store, make: Callable[[Path], None], kind: str
) -> None:
    copy = Path(shutil.copytree(session_store.path, tmp_path / "copy.zarr"))
    path = zarr_store.shard_path(copy, 1)
    path.unlink()
    make(path)
    with pytest.raises(DamagedChunkError, match=rf"tiles/c/1/0/0/0: the shard cannot be read \({kind}"):
        ChunkReader(open_store(copy), BANDS)


def test_a_forked_process_reads_mapped_and_new_shards(many: tuple[Chips, Path]) -> None:
    chips, path = many
    reader = ChunkReader(open_store(path), BANDS)
    decode(reader, np.arange(10))
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(decode(reader, np.arange(20)), chips.values[:20]) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert np.array_equal(decode(reader, np.arange(20)), chips.values[:20])


CUT_WHILE_MAPPED = """
import os, sys
from pathlib import Path
import numpy as np
from pipeline.chunks import ChunkReader
from preprocess.zarr_store import open_store, shard_path

store = open_store(Path(sys.argv[1]))
reader = ChunkReader(store, store.layout.bands)
out = np.empty((1, 4, 64, 64), np.uint16)
reader.decode(np.array([0]), out)
os.truncate(shard_path(store.path, 0), 0)
reader.decode(np.array([0]), out)
"""


def test_a_shard_that_is_cut_while_it_is_mapped_ends_in_one_line(tmp_path: Path) -> None:
    store = to_store(write_chips(tmp_path / "tif", height=64, width=64), tmp_path / "s.zarr", codec="none")
    ended = subprocess.run(
        [sys.executable, "-c", CUT_WHILE_MAPPED, str(store.path)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [mapped_files.BUS_ERROR.decode().strip()]
