"""`make bench MODE=shapes`: chips of each shape and dtype, the limit, and the rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from helpers.doc_blocks import ROOT

from bench import limits, shapes
from bench.check import check
from bench.chips import PLANET, Shape, chip, make_shape
from bench.limits import BareLoader
from bench.loader import check_limits, r_sol
from bench.measure import Pass, find, serve_quickly
from bench.work import SEED, Setting, Work
from pipeline.order import epoch_order
from preprocess.console import UserError

TINY = {
    "uint8": Shape(side=16, bands=("red", "green", "blue"), dtype="uint8"),
    "uint16": Shape(side=24, bands=tuple("abcdefghijklm")),
    "int16": Shape(side=16, dtype="int16"),
    "float32": Shape(side=16, dtype="float32"),
}
BATCH = 8


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Work]:
    """dtype -> 20 tiny chips."""
    return {name: make_shape(tmp_path_factory.mktemp(name) / "data", 20, shape, BATCH) for name, shape in TINY.items()}


@pytest.mark.parametrize("dtype", TINY)
def test_a_store_holds_the_chips_of_its_shape(works: dict[str, Work], dtype: str) -> None:
    work, shape = works[dtype], TINY[dtype]
    for codec in ("lz4", "none"):
        chips: Any = zarr.open_group(work.stores[codec], mode="r")["tiles"]
        found = np.asarray(chips[:])
        assert found.dtype == dtype
        assert np.array_equal(found, np.stack([np.moveaxis(chip(index, shape), -1, 0) for index in range(20)]))
    assert np.array_equal(tifffile.imread(work.folder / "tif" / "chip_7.tif"), chip(7, shape))


def test_chips_of_other_dtypes_have_the_values_of_planets_levels() -> None:
    small = Shape(side=32)
    values = chip(3, small)
    assert np.array_equal(chip(3, Shape(side=32, dtype="int16")), values)
    assert np.array_equal(chip(3, Shape(side=32, dtype="uint8")), np.minimum(values // 32, 255))
    assert np.allclose(chip(3, Shape(side=32, dtype="float32")) * 10_000, values)


@pytest.mark.parametrize("name", ["canopy-lz4", "canopy-none", "dataloader-tifffile", "dataloader-npy-memmap"])
@pytest.mark.parametrize("dtype", TINY)
def test_each_row_gives_the_right_first_batch(works: dict[str, Work], dtype: str, name: str) -> None:
    row, work = find(name), works[dtype]
    workers = 1 if name.startswith("canopy") else 0
    batch = next(row.make(work, Setting(workers=workers))(0))
    assert len(batch.chips) == BATCH
    check(row, work, batch)


def test_a_row_that_serves_quickly_gives_its_setting_and_then_rates(works: dict[str, Work]) -> None:
    rounds = serve_quickly("canopy-lz4", works["uint8"], 0.0, 0.0)
    setting, timed = next(rounds), rounds.send(0)
    assert isinstance(setting, Setting)
    assert setting.workers in (1, 2)
    assert isinstance(timed, Pass)
    assert timed.chips_per_s > 0


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("codec", ["lz4", "none"])
def test_the_bare_loader_writes_every_byte_of_a_batch(
    works: dict[str, Work], codec: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MIN_S", 0.0)
    work = works["uint16"]
    bare = BareLoader(work, codec, work.bands, threads)
    for batch in bare._batches:
        batch[:] = np.nan
    for scratch, line in bare._memory:
        scratch[:] = line[:] = 1
    assert bare.rate(0) > 0
    written = bare._batches[: 20 // BATCH]
    assert all(np.isfinite(batch).all() for batch in written)


def test_the_bare_loader_decodes_the_chunks_that_it_times(works: dict[str, Work]) -> None:
    work = works["uint16"]
    store = work.store("lz4")
    bare = BareLoader(work, "lz4", work.bands, 1)
    scratch, _ = bare._memory[0]
    last = epoch_order(SEED, 0, np.arange(20))[20 // BATCH * BATCH - 1]
    planes = scratch.reshape(len(work.bands), store.layout.itemsize, -1)
    values = planes[:, 0].astype(np.uint16) | planes[:, 1].astype(np.uint16) << 8
    chips: Any = zarr.open_group(store.path, mode="r")["tiles"]
    assert np.array_equal(values, np.asarray(chips[last]).reshape(13, -1))


def test_a_row_above_its_limit_stops_the_benchmark() -> None:
    assert r_sol([50.0, 60.0, 90.0], [100.0, 100.0, 100.0]) == 0.6
    assert r_sol([50.0], []) is None
    check_limits([{"name": "peer", "r_sol": None}, {"name": "skipped"}, {"name": "good", "r_sol": 1.02}])
    with pytest.raises(UserError, match=r"^canopy-none: expected at most the speed of light, found 1\.25 of it"):
        check_limits([{"name": "canopy-none", "r_sol": 1.25}])


def test_a_batch_of_large_chips_is_smaller() -> None:
    assert {str(shape): shapes.batch_size(shape) for shape, _ in shapes.SHAPES} == {
        "32 x 32 x 3 uint8": 64, "64 x 64 x 13 uint16": 64, "120 x 120 x 12 uint16": 64, str(PLANET): 64,
        "256 x 256 x 4 int16": 64, "256 x 256 x 4 float32": 64, "512 x 512 x 3 uint8": 16, "1024 x 1024 x 4 uint16": 4,
    }  # fmt: skip
    assert all(count >= 4 * shapes.batch_size(shape) for shape, count in shapes.SHAPES)


def test_the_printed_table_has_a_line_per_shape() -> None:
    rows = [
        {"shape": shape, "loader": loader, "batch": 64, "chips_per_s": 1234.5 * (place + 1), "ratio_to_best_peer": 3.14,
         "r_sol": 0.777 if loader.startswith("canopy") else None}
        for place, shape in enumerate(("32 x 32 x 3 uint8", "64 x 64 x 13 uint16"))
        for loader in shapes.ROWS
    ]  # fmt: skip
    assert shapes.table({"rows": rows}).splitlines()[2:] == [
        "| 32 x 32 x 3 uint8 | 64 | 1,234 | 3.1 | 0.78 | 1,234 | 3.1 | 0.78 | 1,234 | 1,234 |",
        "| 64 x 64 x 13 uint16 | 64 | 2,469 | 3.1 | 0.78 | 2,469 | 3.1 | 0.78 | 2,469 | 2,469 |",
    ]


def test_the_newest_record_has_its_table_in_the_docs() -> None:
    page = (ROOT / "docs" / "results.md").read_text()
    for path in sorted((ROOT / "bench" / "results").glob("shapes-*.json"))[-1:]:
        assert shapes.table(json.loads(path.read_text())) in page
        assert f"`bench/results/{path.name}`" in page


@pytest.mark.slow
def test_the_mode_makes_a_row_per_shape_and_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "SHAPES", ((TINY["float32"], 20),))
    monkeypatch.setattr(shapes, "batch_size", lambda shape: BATCH)
    monkeypatch.setattr(shapes, "TRY_S", 0.0)
    monkeypatch.setattr(shapes, "PASS_S", 0.0)
    rows = shapes.run(tmp_path, 2)["rows"]
    assert [row["loader"] for row in rows] == list(shapes.ROWS)
    peers = np.array([row["samples"] for row in rows if not row["limit_samples"]])
    for row in rows:
        assert len(row["samples"]) == 2
        assert row["ratio_to_best_peer"] == pytest.approx(np.median(np.array(row["samples"]) / peers.max(axis=0)))
        assert (row["r_sol"] is not None) == row["loader"].startswith("canopy")
    json.dumps(rows)
