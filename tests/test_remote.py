"""Stores in object storage, on a local S3 server: the same batches as from disk; errors in one line."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from helpers.buckets import Bucket, bucket_server, proxy
from helpers.chips import BANDS, Chips, to_store, write_chips
from helpers.commands import here
from tiny import outcome, tiny_networks

from pipeline.chunks import ChunkReader
from pipeline.inputs import Inputs, raw_inputs
from pipeline.loader import eval_loader, train_loader
from pipeline.order import augmentation
from preprocess import zarr_store
from preprocess.shard import DamagedChunkError
from preprocess.splits import make_split
from preprocess.zarr_store import Store, open_store


@pytest.fixture(scope="module")
def server() -> Iterator[Bucket]:
    with bucket_server() as server:
        yield server


@pytest.fixture(scope="module")
def bucket(server: Bucket) -> Callable[[Path, str], str]:
    """A function that uploads a folder under a name and returns its address."""
    return server.upload


@pytest.fixture(scope="module")
def remote(bucket: Callable[[Path, str], str], session_store: Store) -> Store:
    return open_store(bucket(session_store.local_path, "lz4.zarr"))


@pytest.fixture(scope="module")
def remote_plain(bucket: Callable[[Path, str], str], plain_store: Store) -> Store:
    return open_store(bucket(plain_store.local_path, "plain.zarr"))


def test_a_remote_store_is_the_same_store(remote: Store, session_store: Store) -> None:
    assert remote.is_remote
    assert remote.fingerprint == session_store.fingerprint
    assert np.array_equal(remote.names, session_store.names)
    assert np.array_equal(make_split("0.8,0.2", remote).train, make_split("0.8,0.2", session_store).train)


@pytest.mark.parametrize("kind", ["remote", "remote_plain"])
@pytest.mark.parametrize("engine", ["direct", "dali"])
@pytest.mark.parametrize("bands", [BANDS, ("red", "green", "blue"), ("nir", "blue")])
def test_batches_equal_numpy(
    request: pytest.FixtureRequest, session_chips: Chips, kind: str, engine: str, bands: tuple[str, ...]
) -> None:
    store: Store = request.getfixturevalue(kind)
    inputs = Inputs(kind="raw", bands=bands, mean=(0.0,) * len(bands), std=(1.0,) * len(bands))
    chips = np.arange(200, 290)
    parameters = augmentation(0, 1, chips, height=16, width=16, crop=(14, 14), flips="dihedral")
    count = 0
    for batch in train_loader(store, chips, inputs, batch_size=30, flips="dihedral", engine=engine).epoch(1):
        for chip, image in zip(batch.chips.tolist(), batch.images_nchw.numpy(), strict=True):
            pixels = session_chips.values[chip][[BANDS.index(band) for band in bands]]
            assert np.array_equal(image, oracle.augment(pixels, parameters, chip - 200, (14, 14)).astype(np.float32))
            count += 1
    assert count == 90


def test_test_batches_equal_those_from_disk(remote: Store, session_store: Store) -> None:
    inputs, chips = raw_inputs(session_store, BANDS, np.arange(300)), np.array([5, 299, 0, 256, 255])
    batches, local = (
        list(eval_loader(store, chips, inputs, batch_size=2).epoch(0)) for store in (remote, session_store)
    )
    assert all(torch.equal(one.images_nchw, other.images_nchw) for one, other in zip(batches, local, strict=True))


def test_a_run_on_a_remote_store_equals_the_run_on_disk(remote: Store, session_store: Store, tmp_path: Path) -> None:
    with tiny_networks():
        for store, name in ((remote, "remote"), (session_store, "local")):
            ended = here("train", "TASK=1", f"STORE={store.path}", f"RUN={tmp_path / name}",
                         "GPU=cpu", "EPOCHS=1", "WEIGHTS=none")  # fmt: skip
            assert ended.returncode == 0, ended.stderr
        ended = here("analysis", "reproduce", f"RUN={tmp_path / 'remote'}")
    assert "BIT-IDENTICAL" in ended.stdout
    assert outcome(tmp_path / "remote") == outcome(tmp_path / "local")
    assert json.loads((tmp_path / "remote/run.json").read_text())["store"]["path"] == "s3://chips/lz4.zarr"


def test_the_index_of_each_shard_takes_one_request(server: Bucket, remote: Store, session_store: Store) -> None:
    with proxy(server) as counted:
        store = open_store("s3://chips/lz4.zarr")
        before = len(counted.requests)
        reader = ChunkReader(store, BANDS)
        requests = counted.requests[before:]
        pixels, local = (np.empty((300, 4, 16, 16), np.uint16) for _ in range(2))
        reader.decode(np.arange(300), pixels)
    shards = [("GET", f"/chips/lz4.zarr/{zarr_store.shard_key(shard)}") for shard in range(2)]
    assert sorted(requests) == [("GET", "/chips/lz4.zarr/shard_digest/c/0"), *shards]
    ChunkReader(session_store, BANDS).decode(np.arange(300), local)
    assert np.array_equal(pixels, local)


def without_progress(text: str) -> list[str]:
    """The lines, less those that only a slow `verify` prints."""
    return [line for line in text.splitlines() if not line.startswith("verify: ")]


@pytest.mark.parametrize(
    "words", [("preprocess", "verify"), ("preprocess", "verify", "JOBS=1"), ("preprocess", "info", "SPLIT=0.8,0.2")]
)
def test_verify_and_info_say_what_they_say_of_the_folder(
    remote: Store, session_store: Store, words: tuple[str, ...]
) -> None:
    there, local = (here(*words, f"STORE={store.path}") for store in (remote, session_store))
    assert (there.returncode, there.stderr) == (local.returncode, local.stderr) == (0, "")
    expected = local.stdout.replace(str(session_store.path), str(remote.path)).replace("MiB on disk", "MiB stored")
    assert without_progress(there.stdout) == without_progress(expected)


def test_the_audit_finds_what_it_finds_in_the_folder(
    bucket: Callable[[Path, str], str], server: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chips = write_chips(tmp_path / "tif", count=30)
    store = to_store(chips, tmp_path / "a.zarr")
    address = bucket(store.local_path, "audited.zarr")
    bucket(chips.folder, "audited")
    monkeypatch.chdir(tmp_path)
    words = ("SPLIT=blocked",)
    local = here("analysis", "audit", f"STORE={store.path}", f"LABELS={chips.csv}", *words)
    there = here("analysis", "audit", f"STORE={address}", "LABELS=s3://chips/audited/tags.csv", *words)
    assert (local.returncode, there.returncode) == (0, 0), there.stderr
    assert there.stdout == local.stdout.replace(str(tmp_path / "a.zarr.audit"), "audited.zarr.audit")
    assert (tmp_path / "audited.zarr.audit/audit.html").is_file()
    assert server.read("audited.zarr.groups.json") == (tmp_path / "a.zarr.groups.json").read_bytes()
    made = [make_split("blocked", each) for each in (open_store(address), store)]
    assert made[0].sha256() == made[1].sha256()


def test_verify_finds_damage_and_missing_shards(
    bucket: Callable[[Path, str], str], session_store: Store, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(session_store.local_path, tmp_path / "copy.zarr"))
    data = bytearray(zarr_store.shard_path(copy, 0).read_bytes())
    data[4] ^= 0x10
    zarr_store.shard_path(copy, 0).write_bytes(data)
    zarr_store.shard_path(copy, 1).unlink()
    address = bucket(copy, "hurt.zarr")
    ended = here("preprocess", "verify", f"STORE={address}", "JOBS=1")
    assert ended.returncode == 1
    first, second, last = ended.stdout.splitlines()
    assert first.startswith(f"bad: chip t_0 (number 0) in {address}/tiles/c/0/0/0/0 is damaged: band 0, chunk 0: crc")
    assert second == f"bad: shard {address}/tiles/c/1/0/0/0 is missing (44 chips from t_256)"
    assert last == f"{address}: 2 findings. Remove the store and convert again."
    assert f"{address}/tiles/c/1/0/0/0: the shard is missing" in here("preprocess", "info", f"STORE={address}").stderr


@pytest.mark.slow
def test_tune_measures_the_store_and_no_sample_on_disk(
    remote: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = here("", "tune", f"STORE={remote.path}", "BATCH=16", "GPU=cpu")
    assert ended.returncode == 0, ended.stderr
    assert {line.split()[0] for line in ended.stdout.splitlines()[:-1]} == {"CODEC=lz4"}
    assert (tmp_path / "tune.json").is_file()


def test_damage_is_named(bucket: Callable[[Path, str], str], session_store: Store, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(session_store.local_path, tmp_path / "copy.zarr"))
    data = bytearray(zarr_store.shard_path(copy, 0).read_bytes())
    data[4] ^= 0x10
    zarr_store.shard_path(copy, 0).write_bytes(data)
    store = open_store(bucket(copy, "damaged.zarr"))
    inputs = raw_inputs(store, BANDS, np.arange(300))
    with pytest.raises(DamagedChunkError, match=r"s3://chips/damaged.zarr/tiles/c/0/0/0/0: chip t_0 is damaged"):
        list(eval_loader(store, np.arange(4), inputs, batch_size=2).epoch(0))


def test_errors_are_one_line(
    bucket: Callable[[Path, str], str], session_store: Store, tmp_path: Path, refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    assert "s3://chips/no.zarr/zarr.json: expected an object, found none" in refused(
        lambda: open_store("s3://chips/no.zarr")
    )
    assert "expected s3://, gs://, az:// or https://" in refused(lambda: open_store("ftp://host/store.zarr"))
    copy = Path(shutil.copytree(session_store.local_path, tmp_path / "copy.zarr"))
    zarr_store.shard_path(copy, 1).unlink()
    store = open_store(bucket(copy, "lacks.zarr"))
    inputs = raw_inputs(store, BANDS, np.arange(300))
    assert "s3://chips/lacks.zarr/tiles/c/1/0/0/0: expected an object, found none" in refused(
        lambda: eval_loader(store, np.arange(4), inputs, batch_size=2)
    )
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "the object store cannot be reached" in refused(lambda: open_store("s3://chips/lz4.zarr"))
