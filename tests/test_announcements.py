"""Read-ahead by the plan: what is announced, when, and that batches do not depend on it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.buckets import Bucket, bucket_server, proxy
from helpers.chips import BANDS

from pipeline import announcements, page_cache, shards
from pipeline.announcements import watch
from pipeline.chunks import ChunkReader
from pipeline.inputs import raw_inputs
from pipeline.loader import ChipLoader, eval_loader, train_loader
from pipeline.page_cache import Evidence
from pipeline.plans import EvalPlans, TrainPlans
from pipeline.ranges import merge
from preprocess.zarr_store import Store, open_store, shard_path


class Listener:
    """A reader that notes what is announced."""

    def __init__(self, bytes_per_chip: float) -> None:
        self.bytes_per_chip, self.chips = bytes_per_chip, list[int]()

    def announce(self, chips: np.ndarray) -> None:
        self.chips += chips.tolist()

    def forget(self) -> None:
        self.chips.clear()


def plans(count: int, batch: int) -> TrainPlans:
    return TrainPlans(
        chips=np.arange(count), batch_size=batch, seed=3, size=(16, 16), crop=(14, 14), flips="both"
    )  # fmt: skip


@pytest.mark.parametrize(("megabytes", "batch"), [(1, 8), (1, 64), (64, 4), (500, 16), (0.001, 8)])
def test_announced_are_exactly_the_next_chips_of_the_plan(megabytes: float, batch: int) -> None:
    reader = Listener(megabytes * 2**20)
    expected = np.concatenate([plan.chips for plan in plans(300, batch).epoch(2)]).tolist()
    ahead = max(1, min(announcements.AHEAD_CHIPS, int(announcements.AHEAD_BYTES / reader.bytes_per_chip)))
    used = 0
    for plan, other in zip(watch(plans(300, batch).epoch(2), reader), plans(300, batch).epoch(2), strict=True):
        assert np.array_equal(plan.chips, other.chips)
        used += batch
        assert reader.chips == expected[: len(reader.chips)]
        announced = len(reader.chips) - used
        assert min(announced, len(expected) - used) >= min(batch, len(expected) - used)
        assert announced <= ahead + 2 * batch
    assert reader.chips == expected


def test_each_chip_of_a_padded_evaluation_is_announced_as_often_as_it_is_read() -> None:
    reader = Listener(2**20)
    read = [plan.chips for plan in watch(EvalPlans(chips=np.arange(10), batch_size=8).epoch(0), reader)]
    assert reader.chips == np.concatenate(read).tolist()


def images(loader: ChipLoader, epochs: int = 2) -> list[torch.Tensor]:
    """Copies of all batches; the second epoch is broken off and begun again."""
    made = [batch.images_nchw.clone() for epoch in range(epochs) for batch in loader.epoch(epoch)]
    next(loader.epoch(7))
    made += [batch.images_nchw.clone() for batch in loader.epoch(7)]
    loader.close()
    return made


def loaders(store: Store, engine: str = "auto") -> list[ChipLoader]:
    chips, inputs = np.arange(store.num_chips), raw_inputs(store, BANDS, np.arange(store.num_chips))
    return [
        train_loader(store, chips, inputs, batch_size=16, workers=2, engine=engine),
        eval_loader(store, chips[::-1], inputs, batch_size=32, workers=2, engine=engine),
    ]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The ranges (address, bytes) that the OS was asked to read ahead; every announcement is made."""
    ranges: list[tuple[int, int]] = []
    will_need = page_cache.will_need

    def note(addresses: np.ndarray, sizes: np.ndarray) -> None:
        ranges.extend(zip(addresses.tolist(), sizes.tolist(), strict=True))
        will_need(addresses, sizes)

    monkeypatch.setattr(shards, "will_need", note)
    monkeypatch.setattr(Evidence, "says_read", lambda self: True)
    return ranges


@pytest.mark.parametrize("kind", ["session_store", "plain_store"])
def test_the_os_is_asked_for_exactly_the_bytes_of_the_announced_chips(
    request: pytest.FixtureRequest, asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(shards, "DISK_GAP", -1)  # no two ranges are merged
    reader = ChunkReader(request.getfixturevalue(kind), BANDS)
    chips = np.array([299, 4, 17, 256, 0])
    reader.announce(chips)
    reader.forget()
    addresses, sizes, _ = reader.locate(chips)
    first, end = addresses.min(axis=(1, 2)), (addresses + sizes).max(axis=(1, 2))
    assert asked == list(zip(first.tolist(), (end - first).tolist(), strict=True))


@pytest.mark.parametrize("engine", ["direct", "dali"])
def test_a_store_that_is_read_ahead_gives_equal_batches(
    session_store: Store, asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    ahead = [image for loader in loaders(session_store, engine) for image in images(loader)]
    assert asked
    monkeypatch.setattr(ChunkReader, "announce", lambda self, chips: None)
    count = len(asked)
    plain = [image for loader in loaders(session_store, engine) for image in images(loader)]
    assert len(asked) == count
    assert all(torch.equal(one, other) for one, other in zip(ahead, plain, strict=True))


@pytest.fixture(scope="module")
def server() -> Iterator[Bucket]:
    with bucket_server() as server:
        yield server


def test_a_store_in_object_storage_is_read_ahead_and_gives_equal_batches(server: Bucket, session_store: Store) -> None:
    remote = open_store(server.upload(session_store.local_path, "ahead.zarr"))
    there, local = (
        [image for loader in loaders(store) for image in images(loader)] for store in (remote, session_store)
    )
    assert all(torch.equal(one, other) for one, other in zip(there, local, strict=True))


def test_an_announced_range_is_requested_once_and_released_when_it_is_read(
    server: Bucket, session_store: Store
) -> None:
    server.upload(session_store.local_path, "once.zarr")
    with proxy(server) as counted:
        reader: Any = ChunkReader(open_store("s3://chips/once.zarr"), BANDS)
        chips = np.array([7, 290, 20, 7, 8])
        before = len(counted.requests)
        reader.announce(chips)
        assert len(reader._shards._announced) == 4
        pixels, local = (np.empty((5, 4, 16, 16), np.uint16) for _ in range(2))
        reader.decode(chips, pixels)
        assert not len(reader._shards._announced)
        assert len(counted.requests) - before == 2  # chips 7, 8 and 20 lie close together; 290 is in another shard
        reader.announce(chips)
        reader.forget()
        assert not len(reader._shards._announced)
    ChunkReader(session_store, BANDS).decode(chips, local)
    assert np.array_equal(pixels, local)


def test_announcements_stop_while_nothing_is_read_from_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [0, 0]
    monkeypatch.setattr(page_cache, "disk_reads", lambda: tuple(numbers))
    evidence = Evidence()
    assert sum(evidence.says_read() for _ in range(160)) == 1 + 160 // page_cache.SAMPLE
    evidence.reset()
    assert [evidence.says_read() for _ in range(2)] == [True, False]
    numbers[0] += 8  # blocks
    assert [evidence.says_read() for _ in range(6)] == [True] * 5 + [False]
    numbers[1] += 1  # a page fault waited, and no block was counted: the file system does not count them
    assert [evidence.says_read() for _ in range(60)] == [True] * 60


def test_merged_ranges_contain_their_ranges_and_nothing_far_away() -> None:
    random = np.random.default_rng(0)
    for gap in (-1, 0, 5, 100):
        where, starts = random.integers(0, 4, 60), random.integers(0, 2000, 60)
        ends = starts + random.integers(1, 40, 60)
        pieces = merge(where, starts, ends, gap)
        of = pieces.piece_of
        assert np.array_equal(pieces.shards[of], where)
        assert (pieces.starts[of] <= starts).all()
        assert (pieces.ends[of] >= ends).all()
        first_use = [np.flatnonzero(of == piece)[0] for piece in range(len(pieces.shards))]
        assert first_use == sorted(first_use)
        for shard in range(4):
            covered = np.zeros(2100, bool)
            for start, end in zip(starts[where == shard], ends[where == shard], strict=True):
                covered[start:end] = True
            rows = np.flatnonzero(pieces.shards == shard)
            inside = np.zeros(2100, bool)
            for row in rows:
                inside[pieces.starts[row] : pieces.ends[row]] = True
            holes = np.diff(np.flatnonzero(covered)) - 1
            assert inside.sum() == covered.sum() + holes[(holes > 0) & (holes <= gap)].sum()


def test_a_missing_shard_is_no_error_before_it_is_read(session_store: Store, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(session_store.local_path, tmp_path / "copy.zarr"))
    reader = ChunkReader(open_store(copy), BANDS)
    shard_path(copy, 1).unlink()
    reader.announce(np.array([299, 3]))
    reader.forget()
    pixels = np.empty((1, 4, 16, 16), np.uint16)
    reader.decode(np.array([3]), pixels)
