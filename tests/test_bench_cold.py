"""`make bench MODE=cold`: files leave the page cache, the server waits, and each row has its share of warm."""

import json
import time
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch
from helpers.chips import BANDS
from helpers.doc_blocks import ROOT

from bench import cold, cold_files
from bench.chips import Shape, make_shape
from bench.latency_server import latency_server
from pipeline.inputs import raw_inputs
from pipeline.loader import eval_loader
from preprocess.console import UserError
from preprocess.zarr_store import Store, open_store


def test_a_dropped_file_is_not_in_the_page_cache_and_a_read_one_is(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1 << 20))
    cold_files.drop(path)
    if cold_files.cached_share(path):
        pytest.skip("this file system keeps its files in memory")
    with open(path, "rb") as file:
        file.read(1)
    assert cold_files.cached_share(tmp_path) > 0
    path.read_bytes()
    assert cold_files.cached_share(path) == 1
    assert cold_files.disk_bytes_per_s(tmp_path) > 0


def test_files_that_stay_in_the_page_cache_stop_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    monkeypatch.setattr(cold_files, "drop", lambda path: None)
    monkeypatch.setattr(cold_files.time, "sleep", lambda seconds: None)
    with pytest.raises(UserError, match=r"100% of it lie in the page cache after they were dropped"):
        cold_files.disk_bytes_per_s(tmp_path)


def test_the_server_gives_the_batches_of_the_folder_and_waits_before_each_answer(session_store: Store) -> None:
    inputs, chips = raw_inputs(session_store, BANDS, np.arange(300)), np.array([5, 299, 0, 256, 255])

    def batches(store: Store) -> list[torch.Tensor]:
        loader = eval_loader(store, chips, inputs, batch_size=2)
        made = [batch.images_nchw.clone() for batch in loader.epoch(0)]
        loader.close()
        return made

    with latency_server(session_store.local_path.parent, 0.02):
        started = time.perf_counter()
        remote = open_store(f"s3://chips/{session_store.local_path.name}")
        assert time.perf_counter() - started >= 0.02
        assert all(torch.equal(*both) for both in zip(batches(remote), batches(session_store), strict=True))
        with pytest.raises(UserError, match="expected an object, found none"):
            open_store("s3://chips/no.zarr")


ROWS = [
    {"name": name, "chips_per_s": 4321.4, "warm_chips_per_s": 5000.0, "share_of_warm": 0.864,
     "share_of_disk": None if name == cold.STORAGE else 0.5, "share_of_limit": None,
     "cpu_s_per_1000": 0.3, "warm_cpu_s_per_1000": 0.25}
    for name in cold.ROWS
]  # fmt: skip


def test_the_printed_table_has_a_line_per_row() -> None:
    lines = cold.table({"rows": ROWS}).splitlines()[2:]
    assert lines == [
        f"| {name} | 4,321 | 5,000 | 0.86 | {'-' if name == cold.STORAGE else '0.50'} | - | 0.30 | 0.25 |"
        for name in cold.ROWS
    ]


def test_the_newest_record_has_its_table_in_the_docs() -> None:
    page = (ROOT / "docs" / "results.md").read_text()
    for path in sorted((ROOT / "bench" / "results").glob("cold-*.json"))[-1:]:
        assert cold.table(json.loads(path.read_text())) in page
        assert f"`bench/results/{path.name}`" in page


@pytest.mark.slow
def test_the_mode_makes_a_row_per_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = tmp_path / "file"
    probe.write_bytes(bytes(1 << 20))
    cold_files.drop(probe)
    if cold_files.cached_share(probe):
        pytest.skip("this file system keeps its files in memory")
    work = make_shape(tmp_path / "data", 20, Shape(side=16), batch=8)
    monkeypatch.setattr(cold, "ROWS", ("canopy-lz4", "canopy-none-first", cold.STORAGE))
    monkeypatch.setattr(cold, "PASS_S", 0.0)
    result = cold.run(work, 1)
    assert [row["name"] for row in result["rows"]] == list(cold.ROWS)
    for row in result["rows"]:
        ratios = [one / other for one, other in zip(row["samples"], row["warm_samples"], strict=True)]
        assert row["share_of_warm"] == median(ratios)
        assert row["mapped_mib"] > 0
        assert (row["share_of_disk"] is None) == (row["name"] == cold.STORAGE)
        assert (row["share_of_limit"] is None) == (row["name"] == cold.STORAGE)
    ours, storage = result["rows"][0], result["rows"][-1]
    assert storage["warm_samples"] == ours["warm_samples"]
    assert storage["warm_cpu_s_per_1000"] == ours["warm_cpu_s_per_1000"]
    assert ours["share_of_limit"] >= ours["share_of_disk"]
    json.dumps(result)
