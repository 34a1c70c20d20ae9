"""make audit with JOBS and CLUSTER: whoever reads the pixels, every file and every line is that of one process."""

import hashlib
import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from helpers.chips import to_store, write_chips
from helpers.clusters import cluster
from helpers.commands import here
from helpers.files import tree

from analysis import feature_runs
from analysis.commands import AuditSettings
from analysis.feature_runs import FeatureRun
from analysis.features import Features, read_features
from preprocess.addresses import Location
from preprocess.engine import Pool
from preprocess.shard import DamagedChunkError
from preprocess.zarr_store import Store, open_store, shard_path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """520 chips of noise in three shards, the last of them short; two chips are equal."""
    folder = tmp_path_factory.mktemp("audited")
    chips = write_chips(folder / "tif", count=520, height=8, width=8)
    values = np.random.default_rng(0).integers(0, 60_000, (519, 8, 8, 4), np.uint16)
    for index in range(520):
        tifffile.imwrite(folder / f"tif/t_{index}.tif", values[index % 519], photometric="minisblack", planarconfig=1)
    return to_store(chips, folder / "chips.zarr")


@dataclass(frozen=True)
class Backwards(Pool):
    """Runs the tasks in this process, the last one first, each as one task per shard."""

    def run(self, function: Callable, tasks: Sequence[Any], *, needs: Location) -> Iterator[Any]:
        assert isinstance(needs, Path)
        assert needs.is_file()
        yield from map(function, [part for task in reversed(tasks) for part in task.parts()])


def same(one: Features, two: Features) -> bool:
    names = [field.name for field in fields(one) if field.name != "folder"]
    return all(getattr(one, name).tobytes() == getattr(two, name).tobytes() for name in names)


@pytest.mark.parametrize("num_bytes", [1, 7 * 512, 1 << 30])
def test_features_do_not_depend_on_the_block_in_which_a_chip_is_read(
    store: Store, monkeypatch: pytest.MonkeyPatch, num_bytes: int
) -> None:
    whole = read_features(store)
    monkeypatch.setattr(feature_runs, "BLOCK_BYTES", num_bytes)
    assert same(read_features(store), whole)


def test_features_do_not_depend_on_the_order_and_the_length_of_the_runs(store: Store) -> None:
    assert same(read_features(store, Backwards(1)), read_features(store))


def test_a_task_is_small_and_each_shard_is_in_one_task(store: Store) -> None:
    runs = feature_runs.feature_runs(store, store.place, workers=2)
    assert [shard for run in runs for shard in range(run.first, run.last + 1)] == [0, 1, 2]
    assert len(pickle.dumps(runs[0])) - len(str(store.path)) < 250


def test_a_store_that_changes_during_the_audit_is_refused(store: Store, refused: Callable[..., str]) -> None:
    run = FeatureRun(store=str(store.path), digest="of another store", first=0, last=0, mean=(0.0,) * 4, std=(1.0,) * 4)
    assert "the store has changed since the command started" in refused(lambda: feature_runs.read_run(run))


def test_jobs_beside_cluster_is_refused(store: Store, refused: Callable[..., str]) -> None:
    words = [f"STORE={store.path}", "CLUSTER=local:2", "JOBS=2"]
    line = refused(lambda: AuditSettings.from_words(words, "audit"))
    assert line == "JOBS has no effect with CLUSTER; leave it out."


def audited(store: Store, *words: str) -> tuple[dict[str, str], list[str]]:
    """(SHA-256 of the files, lines) of an audit. Lines of progress depend on the time that it takes."""
    ended = here("analysis", "audit", f"STORE={store.path}", *words)
    assert (ended.returncode, ended.stderr) == (0, "")
    folder, groups = Path(f"{store.path}.audit"), Path(f"{store.path}.groups.json")
    files = {**tree(folder), groups.name: groups.read_bytes()}
    shutil.rmtree(folder)
    groups.unlink()
    lines = [line for line in ended.stdout.splitlines() if not line.startswith("audit: ")]
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}, lines


@pytest.mark.slow
def test_an_audit_by_processes_or_dask_workers_writes_the_same_files(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = audited(store, "JOBS=1")
    assert len(plain[0]) > 3
    monkeypatch.setattr(feature_runs, "_POOL_BYTES", 0)  # as for a store of some gigabytes
    assert audited(store, "JOBS=2") == plain
    assert audited(store, "CLUSTER=local:2") == plain
    with cluster(tmp_path / "cluster", workers=2) as running:
        assert audited(store, f"CLUSTER={running.file}") == plain


@pytest.mark.slow
def test_a_damaged_chip_is_the_same_line_and_is_not_tried_again(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "chips.zarr")
    damaged = shard_path(tmp_path / "chips.zarr", 2)
    data = bytearray(damaged.read_bytes())
    data[100] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(DamagedChunkError) as error:
        read_features(open_store(tmp_path / "chips.zarr"))
    ended = here("analysis", "audit", f"STORE={tmp_path / 'chips.zarr'}", "CLUSTER=local:2")
    assert (ended.returncode, ended.stderr) == (2, f"error: {error.value}\n")


@pytest.mark.slow
def test_a_worker_that_is_killed_in_the_middle_changes_nothing(store: Store, tmp_path: Path) -> None:
    """One worker is killed after the first result; another takes its tasks."""
    whole = read_features(store)
    with cluster(tmp_path / "cluster", workers=2) as running, running.engine() as engine:

        @dataclass(frozen=True)
        class Killing(Pool):
            def run(self, function: Callable, tasks: Sequence[Any], *, needs: Location) -> Iterator[Any]:
                many = [part for task in tasks for part in task.parts()] * 20
                for number, result in enumerate(engine.run(function, many, needs=needs)):
                    if number == 0:
                        running.workers[0].kill()
                    yield result

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("preprocess.console.Progress.update", lambda *arguments: None)
            assert same(read_features(store, Killing(2)), whole)


def test_a_task_names_its_shards() -> None:
    run = FeatureRun(store="s3://chips/a.zarr", digest="", first=0, last=1, mean=(), std=())
    assert [str(each) for each in (run, *run.parts())] == [
        "s3://chips/a.zarr: shards 0 to 1", "s3://chips/a.zarr: shard 0", "s3://chips/a.zarr: shard 1",
    ]  # fmt: skip
