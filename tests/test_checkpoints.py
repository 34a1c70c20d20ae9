"""Checkpoints that are broken, missing or of another run, disks that are full, and files that a kill left."""

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from helpers.chips import to_store, write_chips
from helpers.commands import EPOCHS, SETTINGS, resume, stop_at, train
from tiny import EVERY_STEP, Steps, outcome, stopped, tiny_networks, undisturbed_run

from preprocess.files import open_regular
from preprocess.zarr_store import Store
from train.checkpoint_files import folder
from train.hooks import Hooks, use_hooks
from train.loop import RunLoop

STEPS = 5  # 107 train chips in batches of 20


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    with tiny_networks():
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    chips = write_chips(tmp_path_factory.mktemp("resume") / "tif", count=178)
    return to_store(chips, chips.folder.parent / "chips.zarr")


@pytest.fixture(scope="module")
def undisturbed(store: Store) -> tuple[Path, list[str]]:
    run = store.path.parent / "undisturbed"
    losses = undisturbed_run(store, run)
    assert len(losses) == EPOCHS * STEPS
    return run, losses


def test_the_last_two_and_the_best_are_kept(store: Store, tmp_path: Path) -> None:
    paths = stopped(store, tmp_path / "run")
    assert [path.name[:16] for path in paths] == ["e002-s00002-b001", "e002-s00003-b001"]
    assert sorted(path.name for path in folder(tmp_path / "run").iterdir()) == [
        "best-001.safetensors", *(path.name for path in paths)
    ]  # fmt: skip


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_broken_checkpoint_is_noticed_and_the_one_before_it_is_used(
    store: Store, tmp_path: Path, undisturbed: tuple[Path, list[str]], damage: str
) -> None:
    newest = stopped(store, tmp_path / "run")[-1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes({"flip": bytes(data), "cut": bytes(data[:-9]), "empty": b""}[damage])
    steps = Steps()
    with steps.watch:
        ended = resume(tmp_path / "run")
    assert ended.returncode == 0, ended.stderr
    line = f"{newest}: broken (its checksum is not the one in its name); using the one before it.\n"
    assert ended.stdout.count(line) == 1
    assert steps.losses == undisturbed[1][STEPS + 2 :]
    assert outcome(tmp_path / "run") == outcome(undisturbed[0])


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOMEM, errno.EACCES, errno.ESTALE])
def test_a_checkpoint_that_the_machine_cannot_read_now_is_not_set_aside(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    run = tmp_path / "run"
    with Steps(stop_at(STEPS + 2)).watch:
        assert train(store.path, run, *SETTINGS).returncode == 75
    before = sorted((run / "checkpoints").iterdir())

    def failing(path: str | Path) -> BinaryIO:
        if "checkpoints" in str(path):
            raise OSError(code, os.strerror(code), str(path))
        return open_regular(path)

    with monkeypatch.context() as patch:
        patch.setattr("train.checkpoint.open_regular", failing)
        ended = resume(run)
    assert ended.returncode == 2
    assert os.strerror(code) in ended.stderr
    assert sorted((run / "checkpoints").iterdir()) == before
    assert resume(run).returncode == 0


def test_a_run_with_only_broken_checkpoints_is_refused(store: Store, tmp_path: Path) -> None:
    for path in stopped(store, tmp_path / "run"):
        path.write_bytes(b"")
    ended = resume(tmp_path / "run")
    assert ended.returncode == 2
    assert "found only broken ones" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("damage", ["flip", "gone"])
def test_broken_best_weights_are_replaced_by_model_safetensors_and_vice_versa(
    store: Store, tmp_path: Path, undisturbed: tuple[Path, list[str]], damage: str
) -> None:
    stopped(store, tmp_path / "first")
    for number, name in enumerate(("checkpoints/best-001.safetensors", "model.safetensors")):
        run = Path(shutil.copytree(tmp_path / "first", tmp_path / str(number)))
        data = bytearray((run / name).read_bytes())
        data[-5] ^= 4
        (run / name).unlink()
        if damage == "flip":
            (run / name).write_bytes(data)
        ended = resume(run)
        assert ended.returncode == 0, ended.stderr
        line = f"{run / name}: missing or broken; replaced by the identical model.safetensors.\n"
        assert ended.stdout.count(line) == 1 - number
        assert outcome(run) == outcome(undisturbed[0])


def test_missing_best_weights_are_noticed(store: Store, tmp_path: Path) -> None:
    stopped(store, tmp_path / "run")
    (folder(tmp_path / "run") / "best-001.safetensors").unlink()
    (tmp_path / "run" / "model.safetensors").unlink()
    ended = resume(tmp_path / "run")
    assert ended.stdout.count("its best weights (best-001.safetensors) are missing or broken") == 2
    assert ended.returncode == 2


def test_a_checkpoint_of_another_run_is_set_aside(
    store: Store, tmp_path: Path, undisturbed: tuple[Path, list[str]]
) -> None:
    """Both runs have the same settings and the same store. Only their identities differ."""
    checkpoints, foreign = stopped(store, tmp_path / "run"), stopped(store, tmp_path / "other", step=9)
    shutil.copy(foreign[-1], folder(tmp_path / "run"))
    ended = resume(tmp_path / "run")
    assert ended.returncode == 0, ended.stderr
    assert f"{folder(tmp_path / 'run') / foreign[-1].name}: of another run; using the one before it.\n" in ended.stdout
    assert f"({checkpoints[-1].name})" in ended.stdout
    assert outcome(tmp_path / "run") == outcome(undisturbed[0])


def test_files_of_a_killed_write_are_removed(store: Store, tmp_path: Path) -> None:
    stopped(store, tmp_path / "run")
    (folder(tmp_path / "run") / ".e002-s00009-b001-x.safetensors").write_bytes(b"half")
    (tmp_path / "run" / ".model.safetensors.123").write_bytes(b"half")
    assert resume(tmp_path / "run").returncode == 0
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "metrics.jsonl", "model.safetensors", "results.npz", "run.json", "tensorboard",
    ]  # fmt: skip


def test_a_disk_that_fills_up_at_any_write_leaves_the_last_good_checkpoint(
    store: Store, tmp_path: Path, undisturbed: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the test of a small disk below, but without a disk: from some moment on, syncing fails."""
    real, full = os.fsync, []

    def sync(file: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file)

    monkeypatch.setattr(os, "fsync", sync)
    with Steps(lambda step: full.append(step) if step == 7 else None).watch:
        ended = train(store.path, tmp_path / "run", *SETTINGS, *EVERY_STEP)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "no checkpoint could be written (No space left on device); the last good one is e002-s00001" in ended.stderr
    assert not list(folder(tmp_path / "run").glob(".*"))
    full.clear()
    steps = Steps()
    with steps.watch:
        assert resume(tmp_path / "run").returncode == 0
    assert steps.losses == undisturbed[1][STEPS + 1 :]
    assert outcome(tmp_path / "run") == outcome(undisturbed[0])


def test_a_disk_that_is_full_at_once_leaves_no_folder(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", sync)
        ended = train(store.path, tmp_path / "run", *SETTINGS)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "no space left on the disk" in ended.stderr
    assert train(store.path, tmp_path / "run", *SETTINGS).returncode == 0


def test_an_evaluation_writes_no_second_checkpoint_of_the_same_step(store: Store, tmp_path: Path) -> None:
    """One is due after each batch, but nothing has changed. So the checkpoint of the step before stays, too."""
    batches: list[str] = []

    def stop_at_the_fourth(loop: RunLoop, split: str) -> None:
        batches.append(split)
        if len(batches) == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with use_hooks(Hooks(on_eval_batch=stop_at_the_fourth)):
        ended = train(store.path, tmp_path / "run", *SETTINGS, *EVERY_STEP, "TEST_BATCH=4")
    assert (ended.returncode, len(batches)) == (75, 4)
    names = sorted(path.name[:16] for path in folder(tmp_path / "run").glob("e*"))
    assert names == ["e001-s00004-b000", "e001-s00005-b000"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_leaves_the_last_good_checkpoint(store: Store, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here ({mounted.stderr.decode().strip()})")
    try:
        filled: list[Path] = []

        def fill(step: int) -> None:
            if step == 7:
                filled.append(disk / "full")
                with open(filled[0], "wb", buffering=0) as file:
                    while True:
                        try:
                            file.write(b"x" * 4096)
                        except OSError:
                            return

        with Steps(fill).watch:
            ended = train(store.path, disk / "run", *SETTINGS, *EVERY_STEP)
        assert ended.returncode == 2
        assert ended.stderr.count("\n") == 1
        assert (
            "no checkpoint could be written (No space left on device); the last good one is e002-s00001" in ended.stderr
        )
        assert f"RESUME={disk / 'run'}" in ended.stderr
        assert not list(folder(disk / "run").glob(".*"))
        filled[0].unlink()
        steps = Steps()
        with steps.watch:
            ended = resume(disk / "run")
        assert ended.returncode == 0, ended.stderr
        assert "resumes in epoch 2 after step 1 of" in ended.stdout
    finally:
        subprocess.run(["umount", str(disk)], check=True)
