"""A run that is stopped anywhere and resumed equals the whole run to the bit: weights, losses, order, scores."""

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO
from unittest import mock

import pytest
import torch
from helpers.chips import to_store, write_chips
from helpers.commands import EPOCHS, ROOT, SETTINGS, here, resume, stop_at, train
from run_files import rewrite
from tiny import Steps, outcome, tiny_networks

from preprocess.files import open_regular
from preprocess.zarr_store import Store
from train.checkpoint_files import folder
from train.contract.record import read_record
from train.device import Device, choose_device
from train.hooks import Hooks, use_hooks
from train.loop import RunLoop
from train.run_folder import locked

STEPS = 5  # 107 train chips in batches of 20
EVERY_STEP = ("CHECKPOINT_MINUTES=1e-9",)


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
    run, steps = store.path.parent / "undisturbed", Steps()
    with tiny_networks(), steps.watch:
        ended = train(store.path, run, *SETTINGS)
    assert ended.returncode == 0, ended.stderr
    assert len(steps.losses) == EPOCHS * STEPS
    return run, steps.losses


@pytest.mark.parametrize("stop", [None, STEPS, STEPS + 1])
def test_the_learning_rate_of_an_epoch_is_that_of_its_last_step(store: Store, tmp_path: Path, stop: int | None) -> None:
    run = tmp_path / "run"
    with Steps(stop_at(stop) if stop else lambda step: None).watch:
        train(store.path, run, *SETTINGS)
    if stop:
        assert resume(run).returncode == 0
    config = read_record(run).config
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.lr, total_steps=EPOCHS * STEPS, pct_start=config.warmup, cycle_momentum=False
    )
    used = []
    for _ in range(EPOCHS * STEPS):
        used += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in lines] == used[STEPS - 1 :: STEPS]


@pytest.mark.parametrize("step", range(1, EPOCHS * STEPS + 1))
def test_a_run_that_is_stopped_after_any_step_and_resumed_equals_the_whole_run(
    store: Store, tmp_path: Path, undisturbed: tuple[Path, list[str]], step: int
) -> None:
    first, second = Steps(stop_at(step)), Steps()
    with first.watch:
        ended = train(store.path, tmp_path / "run", *SETTINGS)
    assert ended.returncode == 75, ended.stderr
    assert f"To resume it: make train RESUME={tmp_path / 'run'}" in ended.stdout
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "stopped"
    with second.watch:
        ended = resume(tmp_path / "run")
    assert ended.returncode == 0, ended.stderr
    assert first.losses + second.losses == undisturbed[1]  # hex: equal to the bit; no step is lost or repeated
    assert outcome(tmp_path / "run") == outcome(undisturbed[0])
    assert not folder(tmp_path / "run").exists()


def test_a_resumed_run_can_be_stopped_and_resumed_again(
    store: Store, tmp_path: Path, undisturbed: tuple[Path, list[str]]
) -> None:
    losses = []
    for number, step in enumerate((2, 4, 1, 2)):  # the fourth stop is in the last step but one
        steps = Steps(stop_at(step, signal.SIGUSR1))
        with steps.watch:
            ended = resume(tmp_path / "run") if number else train(store.path, tmp_path / "run", *SETTINGS)
        assert ended.returncode == 75, ended.stderr
        losses += steps.losses
    steps = Steps()
    with steps.watch:
        assert resume(tmp_path / "run").returncode == 0
    assert losses + steps.losses == undisturbed[1]
    assert outcome(tmp_path / "run") == outcome(undisturbed[0])
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [(where["epoch"], where["step"]) for where in record["resumed"]] == [(1, 2), (2, 1), (2, 2), (2, 4)]
    assert resume(tmp_path / "run").stderr.startswith(f"error: RESUME={tmp_path / 'run'}: the run is done.")


@pytest.mark.parametrize("recipe", ["course", "sgd", "cosine"])
def test_optimizers_and_schedules_are_resumed_to_the_bit(store: Store, tmp_path: Path, recipe: str) -> None:
    settings = {
        "course": ("RECIPE=course", "BATCH=20", "AMP=bf16"),
        "sgd": ("BATCH=20", "OPTIMIZER=sgd", "ACCUMULATE=2"),
        "cosine": ("BATCH=20", "SCHEDULE=cosine", "WARMUP=0.2", "TRUNK_LR=0.3", "BALANCE=0.5", "SMOOTHING=0.1"),
    }[recipe]
    whole, first, second = Steps(), Steps(stop_at(6)), Steps()
    with whole.watch:
        assert train(store.path, tmp_path / "whole", *settings).returncode == 0
    with first.watch:
        assert train(store.path, tmp_path / "run", *settings).returncode == 75
    with second.watch:
        assert resume(tmp_path / "run").returncode == 0
    assert first.losses + second.losses == whole.losses
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_a_run_that_is_stopped_in_an_evaluation_resumes_before_it(
    store: Store, tmp_path: Path, undisturbed: tuple[Path, list[str]]
) -> None:
    with use_hooks(Hooks(on_eval_batch=lambda loop, split: os.kill(os.getpid(), signal.SIGTERM))):
        assert train(store.path, tmp_path / "run", *SETTINGS).returncode == 75
    steps = Steps()
    with steps.watch:
        ended = resume(tmp_path / "run")
    assert f"resumes in epoch 1 after step {STEPS} of {STEPS}" in ended.stdout
    assert steps.losses == undisturbed[1][STEPS:]
    assert outcome(tmp_path / "run") == outcome(undisturbed[0])


def test_ctrl_c_is_a_stop_too_and_a_second_one_ends_at_once(store: Store, tmp_path: Path) -> None:
    with Steps(stop_at(3, signal.SIGINT)).watch:
        assert train(store.path, tmp_path / "run", *SETTINGS).returncode == 130
    assert len(list(folder(tmp_path / "run").glob("e001-s00003-*"))) == 1

    def twice(step: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with Steps(twice).watch:
        ended = train(store.path, tmp_path / "other", *SETTINGS)
    assert (ended.returncode, ended.stderr) == (130, "stopped by Ctrl-C\n")
    assert not (tmp_path / "other").exists()  # there was no checkpoint yet


def stopped(store: Store, run: Path, step: int = 8) -> list[Path]:
    """Stop a run that writes a checkpoint after every step; returns its checkpoints, oldest first."""
    with Steps(stop_at(step)).watch:
        assert train(store.path, run, *SETTINGS, *EVERY_STEP).returncode == 75
    return sorted(folder(run).glob("e*.safetensors"))


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


def test_resume_refuses_other_settings_another_store_and_an_altered_record(
    store: Store, tmp_path: Path, session_store: Store
) -> None:
    stopped(store, tmp_path / "run")
    for words, message in (
        (["EPOCHS=9"], "EPOCHS: set by RESUME"),
        (["TASK=4"], "TASK: set by RESUME"),
        (["DETERMINISTIC=1"], "DETERMINISTIC: set by RESUME"),
        ([f"STORE={session_store.path}"], "expected fingerprint of the store"),
    ):
        ended = resume(tmp_path / "run", *words)
        assert ended.returncode == 2
        assert message in ended.stderr
        assert ended.stderr.count("\n") == 1
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["config"]["lr"] = 0.5
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    assert f"{tmp_path / 'run' / 'run.json'}: config changed since the run wrote it" in resume(tmp_path / "run").stderr
    assert "found no run.json" in resume(tmp_path / "nothing").stderr


def without_amp(*arguments: object, **more: object) -> Device:
    """The device as if it had no bfloat16."""
    return replace(choose_device(*arguments, **more), amp=None)  # type: ignore[arg-type]


def test_a_resume_on_another_machine_names_what_has_changed(store: Store, tmp_path: Path) -> None:
    with Steps(stop_at(8)).watch:
        assert train(store.path, tmp_path / "run", *SETTINGS, "AMP=bf16").returncode == 75
    rewrite(tmp_path / "run", record=lambda values: values["machine"].update(threads=63))
    with mock.patch("train.start.choose_device", without_amp):
        ended = resume(tmp_path / "run")
    assert ended.returncode == 0, ended.stderr
    assert "AMP was bfloat16, is off; threads was 63, is" in ended.stdout


def test_no_pickle_is_read_or_written(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise AssertionError("a pickle was opened")

    for module, name in (
        (pickle, "load"), (pickle, "loads"), (pickle, "dump"), (pickle, "dumps"), (torch, "load"), (torch, "save"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, refuse)
    stopped(store, tmp_path / "run")
    assert resume(tmp_path / "run").returncode == 0
    ended = here("analysis", "reproduce", f"RUN={tmp_path / 'run'}")
    assert "BIT-IDENTICAL" in ended.stdout


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


def test_a_run_that_another_process_trains_is_not_resumed(store: Store, tmp_path: Path) -> None:
    stopped(store, tmp_path / "run")
    before = sorted(path.name for path in folder(tmp_path / "run").iterdir())
    with locked(tmp_path / "run"):
        ended = resume(tmp_path / "run")
    assert ended.returncode == 2
    assert ended.stderr == (
        f"error: RUN={tmp_path / 'run'}: another process is training it. Wait for it, or stop it.\n"
    )
    assert sorted(path.name for path in folder(tmp_path / "run").iterdir()) == before
    assert resume(tmp_path / "run").returncode == 0


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


def test_sigterm_stops_a_command_in_its_own_process(store: Store, tmp_path: Path) -> None:
    """With the real network: it stops before the next epoch ends, with a checkpoint and exit code 75."""
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "train", "TASK=1", f"STORE={store.path}", f"RUN={run}", "GPU=cpu",
         "EPOCHS=1000", "BATCH=20", "WEIGHTS=none"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (run / "metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGSTOP)  # so that no epoch ends between this check of the folder and the signal
    before, epochs = set(folder(run).glob("e*.safetensors")), (run / "metrics.jsonl").read_text().count("\n")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    stdout, stderr = process.communicate(timeout=300)
    assert (process.returncode, stderr) == (75, "")
    assert "To resume it" in stdout
    assert set(folder(run).glob("e*.safetensors")) - before
    assert (run / "metrics.jsonl").read_text().count("\n") <= epochs + 1  # the epoch in which the signal arrived
    shutil.rmtree(run)
