"""The benchmark: records, tables, and the check that refuses to time a row with wrong batches."""

import json
import mmap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from helpers.commands import here, python

from bench import e2e, environments, measure, model, record
from bench.check import WrongBatchError, check, expected_images
from bench.chips import make_chips
from bench.peers import PEERS
from bench.peers_pipelines import Batches
from bench.process_usage import PeakMemory
from bench.remote_generator import Remote, RemoteError
from bench.rows import BASELINE, OURS, PLAIN, Order
from bench.work import BATCH, FLIPS, SEED, Row, RowBatch, Setting, Work
from pipeline.order import augmentation, epoch_order

ROWS = {row.name: row for row in (*OURS, *PLAIN, *PEERS)}
IMAGES = [row for row in ROWS.values() if row.name != "canopy-device-host"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    """128 chips: two batches."""
    return make_chips(tmp_path_factory.mktemp("bench") / "data", 128)


def right_batch(row: Row, work: Work) -> RowBatch:
    """The batch that the row must give, computed by the reference."""
    store = work.store()
    chips = epoch_order(SEED, 0, np.arange(store.num_chips))[:BATCH]
    parameters = augmentation(SEED, 0, chips, height=256, width=256, crop=work.crop, flips=FLIPS)
    images = torch.from_numpy(expected_images(row, work, chips, parameters).astype(np.float32))
    labels = torch.from_numpy(store.labels[chips].astype(np.float32))
    return RowBatch(images, labels, chips, parameters if row.order == "library" else None)


@pytest.mark.slow
@pytest.mark.parametrize(
    "row",
    [ROWS[name] for name in (BASELINE, "canopy-lz4-rgb", "dataloader-pil", "litdata")],
    ids=lambda row: str(row.name),
)
def test_check_accepts_only_the_right_batch(row: Row, work: Work) -> None:
    batch = right_batch(row, work)
    check(row, work, batch)
    pixel = batch.images.clone()
    pixel[5, 0, 3, 3] += 0.01
    chips = batch.chips.copy()
    chips[[0, 1]] = chips[[1, 0]]
    for wrong in (
        batch._replace(images=pixel),
        batch._replace(images=batch.images.double()),
        batch._replace(images=batch.images[:, :, :-1]),
        batch._replace(images=batch.images.flip(0)),
        batch._replace(labels=1 - batch.labels),
        batch._replace(chips=chips),
        batch._replace(chips=np.repeat(batch.chips[:1], BATCH)),
        RowBatch(batch.images[:32], batch.labels[:32], batch.chips[:32]),
    ):
        with pytest.raises(WrongBatchError, match=row.name):
            check(row, work, wrong)


@pytest.mark.slow
def test_a_library_that_shuffles_by_itself_must_shuffle_and_augment(work: Work) -> None:
    row = ROWS["litdata"]
    right = right_batch(row, work)
    assert right.augmentation is not None
    order = np.argsort(right.chips)
    stored = RowBatch(right.images[order], right.labels[order], right.chips[order], right.augmentation.take(order))
    still = replace(right.augmentation, mirror=np.zeros(BATCH, bool))
    outside = replace(right.augmentation, crop_y=right.augmentation.crop_y + 33)
    for wrong in (
        stored,
        right._replace(augmentation=None),
        right._replace(augmentation=still),
        right._replace(augmentation=outside),
    ):
        with pytest.raises(WrongBatchError):
            check(row, work, wrong)


@pytest.mark.slow
@pytest.mark.parametrize("row", OURS, ids=lambda row: str(row.name))
def test_our_rows_give_the_right_first_batch(row: Row, work: Work) -> None:
    batch = next(row.make(work, Setting(workers=1))(0))
    check(row, work, batch)


@pytest.mark.slow
@pytest.mark.parametrize("row", [*PLAIN, ROWS["dataloader-pil"]], ids=lambda row: str(row.name))
def test_plain_rows_give_the_right_first_batch(row: Row, work: Work) -> None:
    check(row, work, next(row.make(work, Setting(workers=0))(0)))


@pytest.mark.parametrize("row", [row for row in PEERS if row.library], ids=lambda row: str(row.name))
def test_a_library_that_is_installed_gives_the_right_first_batch(row: Row, request: pytest.FixtureRequest) -> None:
    if reason := environments.why_not(row.library):
        pytest.skip(f"{row.library}: {reason}")
    work: Work = request.getfixturevalue("work")
    Remote("bench.measure:serve", row.name, work, row.settings[0], python=environments.python(row.library)).close()


@pytest.mark.slow
def test_batches_of_pipelines_follow_the_order_over_epochs(work: Work) -> None:
    batches = Batches(work)
    check(ROWS["spdl"], work, RowBatch(*batches.load(batches.keys(0)[0])))
    for number, epoch in ((0, 0), (3, 1)):
        images, labels, chips = batches.numbered(number)
        by_key = batches.load(batches.keys(epoch)[number % 2])
        assert np.array_equal(images, by_key[0])
        assert np.array_equal(labels, by_key[1])
        assert np.array_equal(chips, by_key[2])


@pytest.mark.slow
def test_chunks_of_other_chips_are_refused(work: Work) -> None:
    row = ROWS["canopy-device-host"]
    batch = next(row.make(work, Setting(workers=1))(0))
    check(row, work, batch)
    assert batch.chunks is not None
    swapped = (batch.chunks[0][::-1], batch.chunks[1][::-1])
    with pytest.raises(WrongBatchError):
        check(row, work, batch._replace(chunks=swapped))


@pytest.mark.slow
def test_persistent_workers_follow_the_epoch(work: Work) -> None:
    epoch = ROWS[BASELINE].make(work, Setting(workers=1, persistent=True))
    for number in (0, 3):
        chips = np.concatenate([batch.chips for batch in epoch(number)])
        assert np.array_equal(chips, epoch_order(SEED, number, np.arange(128)))
    assert list(Order(2)) == [(0, 0), (0, 1)]


@pytest.mark.slow
def test_loader_mode_works_end_to_end(work: Work, tmp_path: Path) -> None:
    names = [BASELINE, "canopy-lz4", "canopy-device-host"]
    done = python(
        "-m", "bench", "ROUNDS=1", "CHIPS=128", f"DATA={work.folder}", f"RESULTS={tmp_path}",
        f"ROWS={','.join(reversed(names))}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("loader-*.json")
    found = json.loads(path.read_text())
    assert {"commit", "versions", "cpu", "cores", "when", "rounds", "limits", "rows", "chips"} <= set(found)
    assert [row["name"] for row in found["rows"]] == names
    for row in found["rows"]:
        assert len(row["samples"]) == 1
        assert row["chips_per_s"] == row["samples"][0] > 0
        assert min(row["cpu_s_per_1000"], row["peak_mib"], row["first_batch_s"], row["stored_bytes"]) > 0
        assert (row["r_sol"] is not None) == (row["name"] == "canopy-lz4")
    assert found["rows"][0]["ratio"] == 1.0
    table = record.table(found)
    assert table in done.stdout
    assert len(table.splitlines()) == 2 + len(found["rows"])


@pytest.mark.slow
def test_a_store_of_the_user_has_rows_of_its_codec_and_no_ratio(work: Work, tmp_path: Path) -> None:
    done = here("bench", "ROUNDS=1", f"STORE={work.stores['none']}", f"RESULTS={tmp_path}")
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("loader-*.json")
    (row,) = json.loads(path.read_text())["rows"]
    assert row["name"] == "canopy-none"
    assert row["ratio"] is None


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("MODE=fast",), "MODE=fast"),
        (("ROUNDS=0",), "ROUNDS=0"),
        (("ROUNDS=x",), "ROUNDS=x"),
        (("CHIPS=100", "DATA=nowhere"), "CHIPS=100"),
        (("STORE=no.zarr",), "no.zarr"),
        (("STORE=.",), "a Zarr v3 group"),
        (("MODE=scale", "STORE=no.zarr"), "MODE=scale"),
    ],
)
def test_bad_values_are_one_line(arguments: tuple[str, ...], named: str) -> None:
    done = here("bench", *arguments)
    assert done.returncode == 2
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_table_shows_why_a_row_was_skipped() -> None:
    rows = [
        {"name": "a", "chips_per_s": 1234.5, "samples": [1234.5], "note": "n"},
        {"name": "b", "skipped": "ImportError: none", "note": ""},
    ]
    assert record.table({"rows": rows}).splitlines() == [
        "| name | chips_per_s | note |", "|---|---|---|", "| a | 1,234 | n |", "| b | - | skipped: ImportError: none |",
    ]  # fmt: skip


def test_a_remote_generator_raises_the_error_of_its_process() -> None:
    with pytest.raises(RemoteError, match="ModuleNotFoundError"):
        Remote("bench.nothing:here")


class Clock:
    """Replaces the module `time`. Only `sleep` advances it."""

    now_s = 100.0

    def perf_counter(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_a_simulated_accelerator_is_busy_except_while_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(e2e, "time", clock)

    def epoch(milliseconds: int) -> Iterator[None]:
        for _ in range(5):
            clock.sleep(milliseconds / 1000)
            yield None

    assert e2e.busy_share(epoch, 64 / 0.02, 0) == pytest.approx(1.0)
    waits_ms, works_ms = 4 * 60, 5 * 20  # the clock starts with the first batch
    assert e2e.busy_share(epoch, 64 / 0.02, 60) == pytest.approx(works_ms / (works_ms + waits_ms))


def test_one_disturbed_try_does_not_choose_a_slower_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = Setting(workers=1), Setting(workers=2)
    rates = iter([0.0, 900.0, 500.0, 950.0, 1700.0])  # the very first pass does not count
    monkeypatch.setattr(measure, "timed_pass", lambda *_, **__: SimpleNamespace(chips_per_s=next(rates)))
    row = Row(name="x", make=lambda work, setting: lambda epoch: iter(()), settings=(slow, fast))
    assert measure.fastest(row, cast(Work, None)) == fast
    assert next(rates, None) is None


def test_ratios_of_model_rows_are_relative_to_the_trainers_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "BLOCK_S", 0.0)
    monkeypatch.setattr(model, "MIN_STEPS", 1)
    monkeypatch.setattr(model, "SIDES", (16,))
    rows = model.run(1)["rows"]
    assert [row["ratio"] for row in rows[:1]] == [1.0]
    assert all(row["name"].startswith("resnet18-16-") and len(row["samples"]) == 1 for row in rows)


def test_memory_counts_touched_pages_but_not_mapped_files(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(64 << 20))
    with PeakMemory() as before:
        time.sleep(0.1)
    with PeakMemory() as mapped:
        assert np.memmap(tmp_path / "file", np.uint8, mode="r").sum() == 0
    # A new mapping, because np.ones can reuse memory of earlier tests.
    with mmap.mmap(-1, 64 << 20) as held, PeakMemory() as touched:
        held.write(bytes(range(256)) * (1 << 18))
    assert mapped.mib - before.mib < 32
    assert 48 < touched.mib - before.mib < 96


def test_only_libraries_of_the_list_get_an_environment(refused: Callable[..., str]) -> None:
    assert "rasterio" in environments.requirements()
    text = refused(lambda: environments.install(["rasterio", "gdal"]))
    assert text.startswith("gdal: expected one of rasterio, tensorstore, ")
