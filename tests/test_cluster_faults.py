"""What a command does if Dask's workers or its scheduler fail, or are of another version."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import distributed
import numpy as np
import pytest
from helpers import cluster_tasks
from helpers.chips import BANDS, Chips, conversion, to_store, write_chips
from helpers.clusters import Cluster, cluster
from helpers.commands import ROOT
from helpers.files import tree

from preprocess.cluster import connect
from preprocess.cluster_run import LIMITS, foreign_worker
from preprocess.cluster_setting import ClusterAddress
from preprocess.cluster_worker import attempt, own_versions
from preprocess.console import IncompleteError, StoppedError, UserError
from preprocess.convert import convert
from preprocess.files import partial_path
from preprocess.partial_store import prepare
from preprocess.plan import make_plan
from preprocess.plan_file import plan_path, shard_runs
from preprocess.verify import verify
from preprocess.write import convert_shards
from preprocess.zarr_store import Store, shard_path

pytestmark = pytest.mark.slow
SEEN = ROOT / "README.md"  # a file that all workers see


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A scheduler and two workers."""
    with cluster(tmp_path_factory.mktemp("cluster") / "files", workers=2) as running:
        yield running


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Chips, Store]:
    """1,300 chips in six shards, and their store."""
    folder = tmp_path_factory.mktemp("many")
    chips = write_chips(folder / "tif", count=1300, height=8, width=8)
    return chips, to_store(chips, folder / "whole.zarr")


def test_an_external_scheduler_and_two_workers_make_the_same_bytes(
    two: Cluster, many: tuple[Chips, Store], tmp_path: Path
) -> None:
    chips, whole = many
    settings = conversion(data=chips.folder, labels=chips.csv, store=tmp_path / "s.zarr", bands=BANDS)
    convert(settings, cluster=str(two.file))
    assert tree(tmp_path / "s.zarr") == tree(Path(whole.path))


def test_relative_paths_name_the_same_files_in_workers_of_another_folder(
    two: Cluster, many: tuple[Chips, Store], tmp_path: Path
) -> None:
    chips, whole = many
    data = os.path.relpath(chips.folder, tmp_path)
    convert = ["zarr", f"DATA={data}", f"LABELS={data}/tags.csv", "STORE=s.zarr", "BANDS=blue,green,red,nir"]
    for words in (convert, ["verify", "STORE=s.zarr"]):
        ended = subprocess.run(
            [sys.executable, "-m", "preprocess", *words, f"CLUSTER={two.file}"],
            cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (ended.returncode, ended.stderr) == (0, "")
    assert tree(tmp_path / "s.zarr") == tree(Path(whole.path))


def test_every_task_twice_makes_the_same_bytes(two: Cluster, many: tuple[Chips, Store], tmp_path: Path) -> None:
    """Two workers begin each shard at the same time."""
    chips, whole = many
    settings = conversion(data=chips.folder, labels=chips.csv, store=tmp_path / "s.zarr", bands=BANDS)
    root = partial_path(tmp_path / "s.zarr")
    root.mkdir()
    work = prepare(root, make_plan(settings), alone=True)
    runs = [run for run in shard_runs(root, work, list(range(6)), workers=2) for _ in range(2)]
    with two.engine() as engine:
        assert len(list(engine.run(convert_shards, runs, needs=plan_path(root)))) == 12
    assert list((root / "temporary").iterdir()) == []
    convert(settings)
    assert tree(tmp_path / "s.zarr") == tree(Path(whole.path))


def test_verify_finds_the_same_damage(
    two: Cluster, many: tuple[Chips, Store], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(many[1].path, tmp_path / "s.zarr")
    damaged = shard_path(tmp_path / "s.zarr", 3)
    data = bytearray(damaged.read_bytes())
    data[100] ^= 1
    damaged.write_bytes(data)
    shard_path(tmp_path / "s.zarr", 5).unlink()
    counts, lines = [], []
    for name in (None, str(two.file)):
        counts.append(verify(tmp_path / "s.zarr", jobs=1, cluster=name))
        lines.append(sorted(capsys.readouterr().out.splitlines()))
    assert counts == [2, 2]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("task", [cluster_tasks.fail, cluster_tasks.not_reached])
def test_a_task_that_fails_twice_succeeds(two: Cluster, tmp_path: Path, task: Callable[..., int]) -> None:
    with two.engine() as engine:
        results = engine.run(task, [(tmp_path, number, 2) for number in range(4)], needs=SEEN)
        assert sorted(results) == [0, 1, 2, 3]


def test_a_task_that_fails_three_times_is_named_and_the_others_are_done(two: Cluster, tmp_path: Path) -> None:
    tasks = [(tmp_path, number, 99 if number == 2 else 0) for number in range(8)]
    with two.engine() as engine, pytest.raises(IncompleteError, match=r"2, 99\) failed 3 times .*disk") as error:
        list(engine.run(cluster_tasks.fail, tasks, needs=SEEN))
    assert error.value.exit_code == 1
    assert len(list(tmp_path.glob("2.*"))) == 3
    assert sorted(path.name for path in tmp_path.glob("[0-9].1")) == [f"{number}.1" for number in range(8)]


def test_a_mistake_of_the_user_is_not_tried_again(two: Cluster, tmp_path: Path) -> None:
    with two.engine() as engine, pytest.raises(UserError, match="chip 0 is bad") as error:
        list(engine.run(cluster_tasks.refuse, [(tmp_path, 0)], needs=SEEN))
    assert error.value.exit_code == 2
    assert len(list(tmp_path.iterdir())) == 1


def test_a_slow_task_is_sent_to_an_idle_worker_too(two: Cluster, tmp_path: Path) -> None:
    with two.engine() as engine:
        results = list(engine.run(cluster_tasks.first_is_slow, [(tmp_path, n) for n in range(40)], needs=SEEN))
    assert sorted(results) == [(number, "fast") for number in range(40)]


def test_a_worker_that_does_not_see_the_files_is_refused_by_name(two: Cluster, tmp_path: Path) -> None:
    with two.engine() as engine, pytest.raises(UserError, match=r"worker tcp://127.0.0.1:\d+: it does not see .*gone"):
        list(engine.run(cluster_tasks.double, [1], needs=tmp_path / "gone"))


def test_a_worker_with_other_code_is_refused_by_name(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "preprocess", tmp_path / "other" / "preprocess")
    with open(tmp_path / "other" / "preprocess" / "shard.py", "a") as file:
        file.write("# another version\n")
    with cluster(tmp_path / "files", workers=1) as running:
        running.start_worker(place=tmp_path / "other")
        running.wait_for_workers(2)
        with running.engine() as engine, pytest.raises(UserError, match=r"worker tcp://127.0.0.1:\d+: exp") as error:
            list(engine.run(cluster_tasks.double, range(20), needs=SEEN))
    assert f"(here {own_versions()['canopy']})" in str(error.value)


def test_no_workers_end_the_command_with_code_75(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chips: Chips, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(LIMITS, "no_workers_s", 1.0)
    settings = conversion(data=chips.folder, labels=chips.csv, store=tmp_path / "s.zarr", bands=BANDS)
    with cluster(tmp_path / "files", workers=0) as running:
        with pytest.raises(StoppedError, match="no Dask workers for 1 s") as error:
            convert(settings, cluster=str(running.file))
        assert error.value.exit_code == 75
        running.start_worker()
        monkeypatch.setattr(LIMITS, "no_workers_s", 60.0)
        convert(settings, cluster=str(running.file))
    assert (tmp_path / "s.zarr").exists()


def test_a_worker_that_joins_later_with_other_versions_does_nothing_and_is_named(two: Cluster) -> None:
    with distributed.Client(scheduler_file=str(two.file), set_as_default=False) as client:
        outcome = client.submit(attempt, cluster_tasks.double, 1, {**own_versions(), "numpy": "1.0"}).result()
    assert outcome.kind == "foreign"
    assert str(foreign_worker(outcome.value["address"], outcome.value, {**own_versions(), "numpy": "1.0"})) == (
        f"worker {outcome.value['address']}: expected the versions of this command, found numpy {np.__version__} (here "
        "1.0). Install the same there."
    )


def test_a_task_that_kills_its_workers_ends_the_command_with_code_75(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LIMITS, "allowed_kills", 0)
    with connect(ClusterAddress(local=1)) as engine, pytest.raises(StoppedError, match="were killed") as error:
        list(engine.run(cluster_tasks.end_the_process, [1], needs=SEEN))
    assert error.value.exit_code == 75


def test_a_scheduler_that_starts_after_the_command_is_waited_for(
    two: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is missing at first, then that of a scheduler that has ended, then the right one."""
    two.wait_for_workers(2)
    file, said = tmp_path / "scheduler.json", []

    def next_file(line: str) -> None:
        said.append(line)
        text = two.file.read_text()
        ended = json.dumps(json.loads(text) | {"address": "tcp://127.0.0.1:9"})
        file.write_text(ended if len(said) == 1 else text)
        # A busy machine needs seconds to reach the right one.
        monkeypatch.setattr("preprocess.cluster._ONE_FILE_S", 0.1 if len(said) == 1 else LIMITS.connect_s)

    monkeypatch.setattr("preprocess.cluster.say_once", next_file)
    with connect(ClusterAddress(file=file)) as engine:
        assert engine.workers == 2
    assert len(said) == 2


def test_a_scheduler_that_does_not_answer_is_one_line(
    tmp_path: Path, refused: Callable[..., str], chips: Chips
) -> None:
    settings = conversion(data=chips.folder, labels=chips.csv, store=tmp_path / "s.zarr")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LIMITS, "connect_s", 1.0)
        assert "no scheduler answers" in refused(lambda: convert(settings, cluster="tcp://127.0.0.1:9"))
