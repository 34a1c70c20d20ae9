"""A run that is stopped anywhere and resumed equals the whole run to the bit: weights, losses, order, scores."""

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
from unittest import mock

import pytest
import torch
from helpers.chips import to_store, write_chips
from helpers.commands import EPOCHS, ROOT, SETTINGS, here, resume, stop_at, train
from run_files import rewrite
from tiny import Steps, outcome, stopped, tiny_networks, undisturbed_run

from preprocess.zarr_store import Store
from train.checkpoint_files import folder
from train.contract.record import read_record
from train.device import Device, choose_device
from train.hooks import Hooks, use_hooks
from train.loop import RunLoop
from train.run_folder import locked

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


@pytest.mark.parametrize("recipe", ["course", "sgd", "cosine", "mixup"])
def test_optimizers_and_schedules_are_resumed_to_the_bit(store: Store, tmp_path: Path, recipe: str) -> None:
    settings = {
        "course": ("RECIPE=course", "BATCH=20", "AMP=bf16"),
        "sgd": ("BATCH=20", "OPTIMIZER=sgd", "ACCUMULATE=2"),
        "cosine": ("BATCH=20", "SCHEDULE=cosine", "WARMUP=0.2", "TRUNK_LR=0.3", "BALANCE=0.5", "SMOOTHING=0.1"),
        "mixup": ("BATCH=20", "ACCUMULATE=2", "MIXUP=0.2", "EMA=0.9"),
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


@pytest.mark.parametrize("finished", [0, 1])
def test_ctrl_c_keeps_a_finished_epoch_and_no_empty_folder(store: Store, tmp_path: Path, finished: int) -> None:
    def interrupt(loop: RunLoop) -> None:
        if loop.state.epoch == finished:
            raise KeyboardInterrupt

    with use_hooks(Hooks(on_epoch_start=interrupt)):
        ended = train(store.path, tmp_path / "run")
    assert (ended.returncode, ended.stderr) == (130, "stopped by Ctrl-C\n")
    assert (tmp_path / "run").exists() == bool(finished)
    if finished:
        assert f"To resume it: make train RESUME={tmp_path / 'run'}" in ended.stdout
        assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "stopped"
        assert here("analysis", "reproduce", f"RUN={tmp_path / 'run'}").returncode == 0


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


@pytest.mark.slow
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
