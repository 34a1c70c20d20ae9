"""Stores converted into a bucket: the bytes of a local conversion, resumed after any stop, one of two conversions."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import zarr
from helpers.buckets import FAULTS, Bucket, bucket_server, one_in_ten, proxy
from helpers.chips import BANDS, Chips, conversion
from helpers.files import tree

from preprocess import remote
from preprocess.addresses import Address
from preprocess.commands import ConversionSettings
from preprocess.convert import convert
from preprocess.shares import Share
from preprocess.zarr_store import Store, open_store


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with bucket_server() as bucket:
        yield bucket


def settings_for(chips: Chips, name: str, **changes: object) -> ConversionSettings:
    words = {"data": chips.folder, "labels": chips.csv, "store": Address(f"s3://chips/{name}"), "bands": BANDS}
    return conversion(**{**words, **changes})


def test_the_bytes_are_those_of_a_local_conversion(
    bucket: Bucket, session_chips: Chips, session_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    convert(settings_for(session_chips, "same.zarr"))
    lines = capsys.readouterr().out
    assert bucket.tree("same.zarr") == tree(session_store.local_path)
    assert bucket.keys("same.zarr.partial") == []
    assert "s3://chips/same.zarr: 300 chips, 3 classes (a,b,c), bands blue, green, red, nir" in lines
    convert(settings_for(session_chips, "same.zarr"))
    assert "the store is complete (300 chips, unchanged files). Nothing to do." in capsys.readouterr().out


@pytest.mark.slow
def test_worker_processes_write_the_same_bytes(
    bucket: Bucket, session_chips: Chips, session_store: Store
) -> None:  # fmt: skip
    convert(settings_for(session_chips, "jobs.zarr", jobs=2))
    assert bucket.tree("jobs.zarr") == tree(session_store.local_path)


@pytest.mark.slow
def test_from_a_bucket_to_a_bucket(bucket: Bucket, session_chips: Chips, session_store: Store) -> None:
    data = Address(bucket.upload(session_chips.folder, "source"))
    convert(settings_for(session_chips, "both.zarr", data=data, labels=data / "tags.csv"))
    store = open_store("s3://chips/both.zarr")
    assert store.fingerprint == session_store.fingerprint
    local = tree(session_store.local_path)
    assert {key for key, data in bucket.tree("both.zarr").items() if data != local[key]} == {
        "source_mtime_ns/c/0", "zarr.json"}  # fmt: skip


def test_shards_and_progress_are_one_put_each_and_the_commit_is_last(bucket: Bucket, session_chips: Chips) -> None:
    with proxy(bucket) as counted:
        convert(settings_for(session_chips, "order.zarr"))
    puts = [path.removeprefix("/chips/order.zarr") for method, path in counted.requests if method == "PUT"]
    assert len(puts) == len(set(puts)) + 1  # the settings twice: does the server refuse a second one?
    assert puts[:3] == [".partial/plan.json", ".partial/plan.json", ".partial/plan.npz"]
    assert puts[3:7] == ["/tiles/c/0/0/0/0", ".partial/progress/0.npz", "/tiles/c/1/0/0/0", ".partial/progress/1.npz"]
    assert puts[-1] == "/zarr.json"


@pytest.mark.parametrize("fatal", ["tiles/c/1/0/0/0", "progress/1.npz", "labels/c/0/0", "/zarr.json"])
def test_a_stopped_conversion_resumes(
    bucket: Bucket, session_chips: Chips, session_store: Store, capsys: pytest.CaptureFixture[str],
    refused: Callable[..., str], fatal: str,
) -> None:  # fmt: skip
    name = f"stopped-{fatal.replace('/', '-')}.zarr"
    write, write_new = remote.Objects.write, remote.Objects.write_new

    def stop(self: remote.Objects, key: str, data: bytes) -> None:
        if self.name(key).endswith(fatal) and "partial/zarr.json" not in key:
            raise KeyboardInterrupt
        write(self, key, data)

    def stop_new(self: remote.Objects, key: str, data: bytes) -> bool:
        if self.name(key).endswith(fatal):
            raise KeyboardInterrupt
        return write_new(self, key, data)

    with (
        mock.patch.object(remote.Objects, "write", stop),
        mock.patch.object(remote.Objects, "write_new", stop_new),
        pytest.raises(KeyboardInterrupt),
    ):
        convert(settings_for(session_chips, name))
    done = 2 if fatal in ("labels/c/0/0", "/zarr.json") else 1
    assert refused(lambda: open_store(f"s3://chips/{name}")) == (
        f"s3://chips/{name}: the conversion is not finished ({done} shards are written in {name}.partial). "
        "Run the same `make zarr` command again: it continues where it stopped."
    )
    convert(settings_for(session_chips, name))
    assert f"resuming: {[0, 256, 300][done]} of 300 chips are done" in capsys.readouterr().out
    assert bucket.tree(name) == tree(session_store.local_path)
    assert bucket.keys(f"{name}.partial") == []


def test_a_stop_after_the_commit_leaves_a_complete_store(
    bucket: Bucket, session_chips: Chips, session_store: Store
) -> None:  # fmt: skip
    with mock.patch.object(remote.Objects, "remove", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        convert(settings_for(session_chips, "late.zarr"))
    assert open_store("s3://chips/late.zarr").fingerprint == session_store.fingerprint
    assert bucket.keys("late.zarr.partial") != []
    convert(settings_for(session_chips, "late.zarr"))
    assert bucket.keys("late.zarr.partial") == []


def test_plain_zarr_reads_the_store(bucket: Bucket, session_chips: Chips) -> None:
    convert(settings_for(session_chips, "by-zarr.zarr"))
    from obstore.store import from_url

    group = zarr.open_group(zarr.storage.ObjectStore(from_url("s3://chips/by-zarr.zarr"), read_only=True), mode="r")
    assert np.array_equal(group["tiles"][290:], session_chips.values[290:])


def test_another_plan_is_refused_in_one_line(
    bucket: Bucket, session_chips: Chips, refused: Callable[..., str]
) -> None:  # fmt: skip
    with mock.patch("preprocess.write.convert_shard", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        convert(settings_for(session_chips, "two.zarr"))
    assert refused(lambda: convert(settings_for(session_chips, "two.zarr", codec="none"))) == (
        "s3://chips/two.zarr.partial: started with other settings (CODEC: lz4, now none). Use those again. To start "
        "again, stop that conversion and remove all objects below s3://chips/two.zarr.partial and s3://chips/two.zarr."
    )


def test_of_two_that_start_together_one_plan_wins(
    bucket: Bucket, session_chips: Chips, refused: Callable[..., str]
) -> None:
    create = remote.Objects.create
    codecs = iter(["none"])

    def late(self: remote.Objects, key: str, data: bytes) -> bool:
        if key == "plan.json" and (codec := next(codecs, None)):  # the other one is faster by a moment
            convert(settings_for(session_chips, "race.zarr", codec=codec), share=Share(1, 2))
        return create(self, key, data)

    with mock.patch.object(remote.Objects, "create", late):
        text = refused(lambda: convert(settings_for(session_chips, "race.zarr")))
    assert "started with other settings (CODEC: none, now lz4)" in text


def test_a_second_conversion_with_the_same_plan_joins(
    bucket: Bucket, session_chips: Chips, session_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    from preprocess.write import convert_shard

    others = iter([None])

    def slow(task: object) -> None:
        if next(others, 0) is None:  # while the first works, the second does everything
            convert(settings_for(session_chips, "joined.zarr"))
        convert_shard(task)  # type: ignore[arg-type]

    with mock.patch("preprocess.write.convert_shard", slow):
        convert(settings_for(session_chips, "joined.zarr"))
    assert "the store is complete" in capsys.readouterr().out
    assert bucket.tree("joined.zarr") == tree(session_store.local_path)
    assert bucket.keys("joined.zarr.partial") == []


def test_shares_convert_a_store_together(bucket: Bucket, session_chips: Chips, session_store: Store) -> None:
    for number in (2, 1):
        convert(settings_for(session_chips, "shares.zarr"), share=Share(number, 2))
    convert(settings_for(session_chips, "shares.zarr"))
    assert bucket.tree("shares.zarr") == tree(session_store.local_path)


def test_other_objects_are_never_overwritten(bucket: Bucket, session_chips: Chips, refused: Callable[..., str]) -> None:
    bucket.client.put_object(Bucket="chips", Key="full.zarr/notes.txt", Body=b"mine")
    assert refused(lambda: convert(settings_for(session_chips, "full.zarr"))) == (
        "s3://chips/full.zarr: expected nothing below this address, found notes.txt. Choose another STORE, or remove "
        "what is there."
    )
    assert bucket.keys("full.zarr") == ["full.zarr/notes.txt"]


def test_a_server_without_conditional_put_is_noticed(
    bucket: Bucket, session_chips: Chips, session_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    with proxy(bucket) as server:
        server.hidden = ("If-None-Match", "If-Match")
        convert(settings_for(session_chips, "old.zarr"))
    assert capsys.readouterr().out.splitlines()[0] == (
        "s3://chips/old.zarr: the server does not support conditional PUT (If-None-Match). Start only one conversion "
        "into this store: a second one would not be noticed."
    )
    assert bucket.tree("old.zarr") == tree(session_store.local_path)


def convert_with_faults(bucket: Bucket, chips: Chips, name: str, fault: Callable[[int], str | None]) -> list[str]:
    """Convert from bucket to bucket without and with faults: the stores must be equal. Returns the faults."""
    data = Address(bucket.upload(chips.folder, f"{name}-chips"))
    words = {"data": data, "labels": data / "tags.csv"}
    convert(settings_for(chips, f"{name}-quiet.zarr", **words))
    with proxy(bucket, fault) as server:
        convert(settings_for(chips, f"{name}.zarr", **words))
        assert open_store(f"s3://chips/{name}.zarr").num_chips == len(chips.values)
    assert bucket.tree(f"{name}.zarr") == bucket.tree(f"{name}-quiet.zarr")
    assert bucket.keys(f"{name}.zarr.partial") == []
    return server.faults


def test_every_eighth_request_may_fail(bucket: Bucket, chips: Chips) -> None:
    faults = convert_with_faults(
        bucket, chips, "eighth", lambda number: FAULTS[number // 8 % len(FAULTS)] if number % 8 == 3 else None
    )
    assert set(faults) == set(FAULTS)


@pytest.mark.slow
def test_a_tenth_of_all_requests_may_fail(bucket: Bucket, session_chips: Chips) -> None:
    faults = convert_with_faults(bucket, session_chips, "tenth", one_in_ten)
    assert len(faults) > 20
    assert set(faults) == set(FAULTS)


def test_a_damaged_plan_is_named(bucket: Bucket, session_chips: Chips, refused: Callable[..., str]) -> None:
    bucket.client.put_object(Bucket="chips", Key="hurt.zarr.partial/plan.json", Body=b"{")
    assert refused(lambda: convert(settings_for(session_chips, "hurt.zarr"))).startswith(
        "s3://chips/hurt.zarr.partial/plan.json: damaged."
    )
    bucket.client.put_object(Bucket="chips", Key="hurt.zarr.partial/plan.json", Body=json.dumps({}).encode())
    assert "started with other settings" in refused(lambda: convert(settings_for(session_chips, "hurt.zarr")))


@pytest.mark.slow
def test_changed_files_are_converted_again(
    bucket: Bucket, session_chips: Chips, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Address(bucket.upload(session_chips.folder, "changing"))
    words = {"data": data, "labels": session_chips.csv}
    convert(settings_for(session_chips, "changing.zarr", **words), share=Share(1, 2))
    bucket.client.upload_file(str(session_chips.folder / "t_9.tif"), "chips", "changing/t_7.tif")
    convert(settings_for(session_chips, "changing.zarr", **words))
    assert f"changed: size or time of 1 source files (first {data}/t_7.tif). Converting shard 0 again." in (
        capsys.readouterr().out
    )
    store = open_store("s3://chips/changing.zarr")
    assert store.checksum[7] == store.checksum[9]


@pytest.mark.slow
def test_dask_workers_convert_into_a_bucket(bucket: Bucket, session_chips: Chips, session_store: Store) -> None:
    pytest.importorskip("distributed", reason="CLUSTER needs the package distributed")
    convert(settings_for(session_chips, "dask.zarr"), cluster="local:2")
    assert bucket.tree("dask.zarr") == tree(session_store.local_path)
    assert bucket.keys("dask.zarr.partial") == []
