"""Stores and runs of earlier versions (tests/fixtures) can still be opened, verified, resumed, reported and used."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import xxhash
import zarr
from fixtures.make import digests
from helpers.commands import ROOT, here
from helpers.nodata import EMPTY, missing
from safetensors.torch import load_file, save
from tiny import tiny_networks

from pipeline.chunks import ChunkReader
from preprocess.zarr_store import open_store
from train.device import cpu_name
from train.run_folder import versions

VERSIONS = sorted(path.name for path in (ROOT / "tests/fixtures").glob("v*"))


@pytest.fixture(params=VERSIONS)
def fixture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a version. Its runs name their store relative to the project."""
    monkeypatch.chdir(ROOT)
    return Path("tests/fixtures") / request.param


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    """The network of the fixtures, on one thread as when they were made: the order of sums depends on the threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tiny_networks():
        yield
    torch.set_num_threads(threads)


def same_machine(fixture: Path) -> bool:
    """Whether versions and processor are those of the expected digests. Others round differently."""
    expected = json.loads((fixture / "expected.json").read_text())
    return (cpu_name(), versions()) == (expected["device"], expected["versions"])


def copied(fixture: Path, name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fixture / name, tmp_path / name))


@pytest.mark.parametrize("name", ["store.zarr", "plain.zarr"])
def test_a_store_opens_verifies_and_reads_as_plain_zarr_does(fixture: Path, tmp_path: Path, name: str) -> None:
    path = copied(fixture, name, tmp_path)
    store = open_store(path)
    values = np.asarray(zarr.open_group(path, mode="r")["tiles"][...])
    assert store.num_chips == len(values) == 40
    assert store.layout.num_shards(store.num_chips) == 3
    assert [xxhash.xxh3_64_intdigest(np.ascontiguousarray(chip).tobytes()) for chip in values] == (
        store.checksum.tolist()
    )
    valid = np.ones(values.shape, bool) if store.layout.nodata is None else ~missing(values, store.layout.nodata)
    assert np.array_equal(store.band_sum, values.sum(axis=(2, 3), dtype=store.band_sum.dtype, where=valid))
    assert valid.all() or np.array_equal(store.valid_count, valid.sum(axis=(2, 3)))
    reader = ChunkReader(store, store.layout.bands)
    out = np.empty_like(values)
    reader.decode(np.arange(40), out)
    assert out.tobytes() == values.tobytes()
    ended = here("preprocess", "verify", f"STORE={path}")
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_version_3_has_nodata_and_coordinates() -> None:
    store, plain = (open_store(ROOT / "tests/fixtures/v3" / f"{name}.zarr") for name in ("store", "plain"))
    assert (store.version, store.layout.dtype, store.layout.nodata) == (3, "float32", "nan")
    assert (plain.version, plain.layout.dtype, plain.layout.nodata) == (3, "int16", "-9999")
    assert store.valid_count[EMPTY].tolist() == plain.valid_count[EMPTY].tolist() + [0] == [0] * 4
    assert store.transform is not None
    assert store.transform[7].tolist() == [10, 0, 501_120, 0, -10, 5_400_000]
    assert set(store.crs.tolist()) == {"EPSG:32633"}
    values = np.asarray(zarr.open_group(store.path, mode="r")["tiles"][...]).astype(np.float64)
    mean, std = store.band_statistics(np.arange(40))
    assert np.allclose(mean, np.nanmean(values, axis=(0, 2, 3)), rtol=1e-13, atol=0)
    assert np.allclose(std, np.nanstd(values, axis=(0, 2, 3)), rtol=1e-12, atol=0)


def test_a_resumed_run_equals_the_one_that_its_own_version_resumed(fixture: Path, tmp_path: Path) -> None:
    run = copied(fixture, "stopped", tmp_path)
    ended = here("train", f"RESUME={run}")
    assert ended.returncode == 0, ended.stderr
    if same_machine(fixture):
        expected = json.loads((fixture / "expected.json").read_text())["outcome"]
        assert digests(run) | {"weights": ""} == expected | {"weights": ""}
        # Without metadata: versions write different metadata into the model file.
        files = (run / "model.safetensors", fixture / "run" / "model.safetensors")
        assert len({save(load_file(path)) for path in files}) == 1
    with np.load(run / "results.npz") as resumed, np.load(fixture / "run" / "results.npz") as whole:
        assert np.allclose(resumed["logits"], whole["logits"], rtol=1e-3, atol=1e-3)
        assert np.allclose(resumed["testlosses"], whole["testlosses"], rtol=1e-3, atol=1e-3)


def test_a_finished_run_reproduces(fixture: Path, tmp_path: Path) -> None:
    run = copied(fixture, "run", tmp_path)
    ended = here("analysis", "reproduce", f"RUN={run}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ("BIT-IDENTICAL" in ended.stdout) or not same_machine(fixture)


@pytest.mark.usefixtures("empty_figures")
@pytest.mark.parametrize("name", ["run", pytest.param("stopped", marks=pytest.mark.slow)])
def test_a_run_is_drawn_and_reported(fixture: Path, tmp_path: Path, name: str) -> None:
    run = copied(fixture, name, tmp_path)
    for command in ("curves", "report"):
        ended = here("analysis", command, f"RUN={run}")
        assert ended.returncode == 0, ended.stderr
    assert (run / "curves.png").stat().st_size > 0
    with np.load(run / "results.npz") as results:
        assert f"{float(results['mAP']):.4f}" in (run / "report/report.html").read_text()


def test_a_run_predicts_its_saved_scores(fixture: Path, tmp_path: Path) -> None:
    run, chips = copied(fixture, "run", tmp_path), tmp_path / "chips"
    chips.mkdir()
    store = open_store(fixture / "store.zarr")
    values = np.asarray(zarr.open_group(fixture / "store.zarr", mode="r")["tiles"][...])
    with np.load(run / "results.npz") as results:
        names, saved = results["fnames"].tolist(), results["preds"]
    for name, chip in zip(store.names.tolist(), values, strict=True):
        if name in names:
            tifffile.imwrite(
                chips / f"{name}.tif", np.moveaxis(chip, 0, -1), photometric="minisblack", planarconfig=1
            )  # fmt: skip
    out = tmp_path / "scores.csv"
    ended = here("analysis", "predict", f"RUN={run}", f"DATA={chips}", f"OUT={out}")
    assert ended.returncode == 0, ended.stderr
    with open(out, newline="") as file:
        rows = {name: [float(value) for value in values] for name, *values in list(csv.reader(file))[1:]}
    scores = np.array([rows[name] for name in names])
    assert np.array_equal(scores, saved) if same_machine(fixture) else np.allclose(scores, saved, atol=1e-4)
