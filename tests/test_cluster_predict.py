"""make predict CLUSTER=...: Dask workers score blocks of chips, and every file is that of the plain command."""

import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from helpers.chips import BANDS, to_store, write_chips
from helpers.clusters import Cluster, cluster
from helpers.commands import ROOT, train
from helpers.files import tree
from tiny import tiny_networks

from analysis import cluster_scores, predict
from analysis.chip_folder import Files
from analysis.cluster_scores import BlockTask, score_block
from analysis.commands import PredictSettings
from analysis.raster_folder import RasterReader, window_files
from analysis.score_plan import PLAN, ScorePlan, read_plan
from preprocess.addresses import Location
from preprocess.console import UserError
from preprocess.engine import Pool
from preprocess.file_patterns import read_pattern
from preprocess.layout import plan_layout
from preprocess.window_cut import Cut


def trained_run(folder: Path, *words: str) -> SimpleNamespace:
    """A run, and a folder with 48 chips of which two cannot be used."""
    chips = write_chips(folder / "tif", count=48, height=32, width=32)
    to_store(chips, folder / "chips.zarr")
    ended = train(folder / "chips.zarr", folder / "run", "EPOCHS=1", "BATCH=16", "CROP_SHARE=1", "TEST_BATCH=6", *words)
    assert ended.returncode == 0, ended.stderr
    (chips.folder / "t_10.tif").write_bytes(b"no TIFF")
    damaged = chips.folder / "t_30.tif"
    damaged.write_bytes(damaged.read_bytes()[:600])
    return SimpleNamespace(run=folder / "run", tif=chips.folder)


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    with tiny_networks():
        yield trained_run(tmp_path_factory.mktemp("tiny_predict"))


@pytest.fixture(scope="module")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """With a ResNet, because workers are other processes."""
    return trained_run(tmp_path_factory.mktemp("predict"))


def score(run: SimpleNamespace, folder: Path, cluster: str | None = None, *, block: int = 1) -> dict[str, bytes]:
    """The files of a prediction in blocks of `block` batches."""
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "BLOCK_BATCHES", block)
        bad = predict.predict(
            run.run, run.tif, folder / "out.csv", bands=None, gpu="cpu", tta=False, cluster=cluster
        )  # fmt: skip
    assert bad == 2
    return tree(folder)


@dataclass(frozen=True)
class Backwards(Pool):
    """Runs tasks in this process, the last one first, each after pickling."""

    def run(self, function: Callable, tasks: Sequence[Any], *, needs: Location) -> Iterator[Any]:
        assert isinstance(needs, Path)
        assert needs.is_file()
        for task in reversed(tasks):
            data = pickle.dumps(task)
            assert len(data) - len(task.folder) < 300
            yield pickle.loads(pickle.dumps(function(pickle.loads(data))))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks run in this process."""
    monkeypatch.setattr(cluster_scores, "open_engine", lambda cluster, *, jobs: nullcontext(Backwards(1)))
    monkeypatch.setattr(cluster_scores, "worker_address", lambda: "tcp://host:1")
    monkeypatch.setattr(cluster_scores, "_KEPT", {})


def test_scores_do_not_depend_on_the_order_of_the_blocks(tiny_run: SimpleNamespace, tmp_path: Path, here: None) -> None:
    whole = score(tiny_run, tmp_path / "plain", block=32)
    assert sorted(whole) == ["out.csv", "out_bad.csv", "out_submission.csv"]
    assert score(tiny_run, tmp_path / "cluster", "tcp://host:8786") == whole
    assert score(tiny_run, tmp_path / "threes", "tcp://host:8786", block=3) == whole


def test_a_prediction_is_resumed_by_the_other_way(
    tiny_run: SimpleNamespace, tmp_path: Path, here: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped after three blocks of a cluster, resumed without one; and the other way round."""
    whole = score(tiny_run, tmp_path / "plain", block=32)
    write, count = predict._write_block, 0

    def stop_at_the_fourth(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        write(*arguments)

    for first, second in (("tcp://host:8786", None), (None, "tcp://host:8786")):
        folder, count = tmp_path / f"after_{first is None}", 0
        stop = mock.patch.object(predict, "_write_block", stop_at_the_fourth)
        with stop, pytest.raises(KeyboardInterrupt):
            score(tiny_run, folder, first)
        assert score(tiny_run, folder, second) == whole
        assert "resuming: 3 of 8 blocks are done." in capsys.readouterr().out


@pytest.mark.parametrize("text", [None, "{name}_{band}.tif"])
def test_a_plan_of_windows_is_read_as_it_was_written(tmp_path: Path, text: str | None) -> None:
    """In another folder, relative paths begin with the folder of the command."""
    pattern = read_pattern(text, BANDS) if text else None
    cut = Cut(window=8, stride=4, pad=True, nodata="0")
    how = window_files(bands=BANDS, dtype="uint16", axes=None, cut=cut, pattern=pattern)
    paths = ["tif/a.tif", "tif/a.tif", "tif/b.tif"]
    files = Files(
        names=paths, paths=paths, size=np.arange(3), mtime_ns=np.arange(3) + 7, bands=how.bands,
        corners=np.arange(6).reshape(3, 2), etags=['"etag of a"', '"etag of a"', '"b"\n"b2"'],
    )  # fmt: skip
    layout = plan_layout(bands=BANDS, height=8, width=8, dtype="uint16", codec="none", nodata="0")
    reader = RasterReader(files=files, layout=layout, bands=(), how=how)
    written = ScorePlan(
        run="run", models=("a", "b"), reader=reader, folder="/of/the/command", gpu=None, tta=True, is_local=False
    )  # fmt: skip
    data, digest = written.encode()
    (tmp_path / PLAN).write_bytes(data)
    read = read_plan(tmp_path / PLAN, digest)
    assert isinstance(read.reader, RasterReader)
    assert (read.reader.how, read.reader.layout, read.reader.bands) == (how, layout, ())
    assert list(read.reader.files.paths) == [f"/of/the/command/{path}" for path in paths]
    assert read.reader.files.etags == files.etags
    for name in ("size", "mtime_ns", "corners"):
        assert (getattr(read.reader.files, name) == getattr(files, name)).all()
    assert replace(read, reader=reader) == written


@pytest.fixture
def plan(tiny_run: SimpleNamespace, tmp_path: Path, here: None) -> Path:
    """The folder with the plan of a prediction that was stopped."""
    stop = mock.patch.object(predict, "_write_block", side_effect=KeyboardInterrupt)
    with stop, pytest.raises(KeyboardInterrupt):
        score(tiny_run, tmp_path / "out", "tcp://host:8786")
    return tmp_path / "out/out.csv.partial"


def kept() -> tuple[str, str]:
    (key,) = cluster_scores._KEPT
    return key


def test_a_worker_with_another_device_is_refused_by_name(plan: Path) -> None:
    folder, digest = kept()
    task = BlockTask(folder=folder, digest=digest, number=0, first=0, last=5, device="NVIDIA H200")
    with pytest.raises(UserError, match=r"^worker tcp://host:1: expected NVIDIA H200, .* need the same\.$"):
        score_block(task)


def test_a_worker_that_sees_other_files_is_refused_by_name(plan: Path, tiny_run: SimpleNamespace) -> None:
    """It would call every chip bad."""
    read = read_plan(plan / PLAN, kept()[1])
    reader = read.reader
    for files, found in (
        (replace(reader.files, mtime_ns=reader.files.mtime_ns + 1), "a file of another size or time"),
        (replace(reader.files, paths=[f"{path}.gone" for path in reader.files.paths]), "No such file or directory"),
    ):
        with pytest.raises(UserError, match=f"worker tcp://host:1: .*found: {found}. All workers need the same DATA"):
            cluster_scores._check_sight(replace(read, reader=replace(reader, files=files)))
    cluster_scores._check_sight(read)


def test_a_replaced_plan_and_a_changed_run_are_refused(plan: Path, tiny_run: SimpleNamespace) -> None:
    folder, digest = kept()
    with pytest.raises(UserError, match="another prediction has replaced the plan"):
        read_plan(plan / PLAN, "0" * 32)
    read = read_plan(plan / PLAN, digest)
    other = mock.patch.object(cluster_scores, "read_plan", return_value=replace(read, models=("0" * 64,)))
    with other, pytest.raises(UserError, match="the run has changed"):
        cluster_scores._make(folder, digest)


@pytest.mark.parametrize(
    ("gpu", "runs", "rank", "count", "own"),
    [
        (None, "0", 3, 2, "1"), ("auto", "0", 1, 4, "1"), ("2", "0", 1, 4, "2"), ("0,1", "0", 3, 4, "1"),
        ("cpu", "0", 1, 4, "cpu"), (None, "cpu", 1, 4, None), (None, "0", 1, 0, None),
    ],
)  # fmt: skip
def test_each_local_worker_takes_the_next_gpu(
    gpu: str | None, runs: str, rank: int, count: int, own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_scores, "local_rank", lambda: rank)
    monkeypatch.setattr(cluster_scores.torch.cuda, "device_count", lambda: count)
    plan, run = SimpleNamespace(gpu=gpu, is_local=True), SimpleNamespace(config=SimpleNamespace(gpu=runs))
    assert cluster_scores._own_gpu(plan, run) == own
    assert cluster_scores._own_gpu(SimpleNamespace(gpu=gpu, is_local=False), run) == gpu


def test_cluster_is_a_setting_of_predict(refused: Callable[..., str]) -> None:
    line = refused(lambda: PredictSettings.from_words(["RUN=x", "DATA=x", "CLUSTER=local"], "predict"))
    assert "CLUSTER=local: expected tcp://host:8786, scheduler.json or local:8" in line


@pytest.mark.slow
def test_two_local_workers_write_the_files_of_the_plain_command(
    real_run: SimpleNamespace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And nothing that workers or Dask say is printed."""
    whole = score(real_run, tmp_path / "plain")
    capfd.readouterr()
    assert score(real_run, tmp_path / "local", "local:2") == whole
    printed = capfd.readouterr()
    progress = ("Dask's dashboard", "predict: ")  # the second is printed once a minute
    lines = [line for line in printed.out.splitlines() if not line.startswith(progress)]
    assert [line.partition(" ")[0] for line in lines][:2] == ["the", "bad:"]
    assert printed.err == ""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A scheduler and two workers."""
    with cluster(tmp_path_factory.mktemp("cluster") / "files", workers=2) as running:
        yield running


@pytest.mark.slow
def test_workers_of_another_folder_write_the_files_of_the_plain_command(
    real_run: SimpleNamespace, two: Cluster, tmp_path: Path
) -> None:
    """Reasons of bad files name them as DATA does, which is relative."""
    found = []
    for name, words in (("plain", []), ("cluster", [f"CLUSTER={two.file}"])):
        (tmp_path / name).mkdir()
        shutil.copytree(real_run.tif, tmp_path / name / "tif")
        names = [f"RUN={os.path.relpath(real_run.run, tmp_path / name)}", "DATA=tif", "GPU=cpu", "OUT=out.csv", *words]
        ended = subprocess.run(
            [sys.executable, "-m", "analysis", "predict", *names], cwd=tmp_path / name,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (ended.returncode, ended.stderr) == (1, "")
        shutil.rmtree(tmp_path / name / "tif")
        found.append(tree(tmp_path / name))
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_worker_that_is_killed_in_the_middle_changes_nothing(
    real_run: SimpleNamespace, two: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed after the first block; the other worker scores its blocks."""
    whole = score(real_run, tmp_path / "plain")
    write = predict._write_block

    def kill_once(*arguments: Any) -> None:
        write(*arguments)
        two.workers[0].kill()

    monkeypatch.setattr(predict, "_write_block", kill_once)
    assert score(real_run, tmp_path / "killed", str(two.file)) == whole
    assert two.workers[0].wait() != 0
