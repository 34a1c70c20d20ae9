"""What a run logs and prints: TensorBoard, the tracker, times, alarms, memory, the GPU."""

import dataclasses
import json
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.chips import to_store, write_chips
from helpers.commands import SETTINGS, resume, stop_at, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import Steps, tiny_networks

from pipeline.loader import Batch
from preprocess.zarr_store import Store
from train import telemetry
from train.config import make_config
from train.contract.metrics import EpochLine, split_fields
from train.device import Device, choose_device, least_used
from train.hooks import Hooks, Phase, use_hooks
from train.loop import RunLoop
from train.messages import advice, time_lines
from train.run_state import SECONDS


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    chips = write_chips(tmp_path_factory.mktemp("telemetry") / "tif", count=178)
    return to_store(chips, chips.folder.parent / "chips.zarr")


@pytest.fixture(scope="module")
def run(store: Store) -> Path:
    """A run that was stopped in epoch 2 and resumed."""
    folder = store.path.parent / "run"
    with tiny_networks():
        with Steps(stop_at(7)).watch:
            assert train(store.path, folder, *SETTINGS).returncode == 75
        another_second()
        assert resume(folder).returncode == 0
    return folder


def another_second() -> None:
    """Wait for the next second: the names of event files, by which TensorBoard sorts them, differ in it."""
    second = int(time.time())
    while int(time.time()) == second:
        time.sleep(0.01)


def test_tensorboard_has_the_curves_of_metrics_jsonl_once(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    for tag, key in (("loss/train", "train_loss"), ("loss/test", "test_loss"), ("mAP/val", "val_map"), ("lr", "lr")):
        points = events.Scalars(tag)
        assert [point.step for point in points] == [1, 2]
        assert [point.value for point in points] == [np.float32(line[key]) for line in lines]
    assert {"seconds/wait", "seconds/copy", "seconds/step", "seconds/evaluate", "seconds/checkpoint"} <= set(
        events.Tags()["scalars"]
    )
    assert {"AP_test/a", "AP_test/b", "AP_test/c"} <= set(events.Tags()["scalars"])


def test_an_epoch_that_was_not_logged_before_a_kill_is_logged_on_resume(store: Store, tmp_path: Path) -> None:
    def end_before_publishing(phase: Phase) -> AbstractContextManager[None]:
        if phase == "publish":  # after the checkpoint, before TensorBoard
            raise KeyboardInterrupt
        return nullcontext()

    with tiny_networks():
        with use_hooks(Hooks(phase=end_before_publishing)):
            assert train(store.path, tmp_path / "run", *SETTINGS).returncode == 130
        another_second()
        assert resume(tmp_path / "run").returncode == 0
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [point.step for point in events.Scalars("loss/train")] == [1, 2]


def test_wandb_writes_offline(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed (an extra)")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    with tiny_networks():
        ended = train(store.path, tmp_path / "run", *SETTINGS, "TRACKER=wandb")
    assert ended.returncode == 0, ended.stderr
    (written,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert written.stat().st_size > 0


def test_a_missing_tracker_package_is_one_line(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with tiny_networks():
        ended = train(store.path, tmp_path / "run", *SETTINGS, "TRACKER=wandb")
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: TRACKER=wandb: it is not installed here.")
    assert not (tmp_path / "run").exists()


def line(wait_s: float, first_s: float = 0.0) -> EpochLine:
    """31,000 chips in 10 s and the wait for the first batch."""
    took_s = 10.0 + first_s
    seconds = dict.fromkeys(SECONDS, 1.0) | {"wait": wait_s + first_s}
    scores: dict[str, Any] = {}
    for split in ("train", "test"):
        scores |= split_fields(split, loss=0.5, mean_ap=0.5, ap={"a": 0.5})
    return EpochLine(
        epoch=1, lr=0.1, chips_per_s=31_000 / took_s, wait_share=(wait_s + first_s) / took_s, train_s=took_s,
        seconds=seconds, first_wait_s=first_s, **scores,
    )  # fmt: skip


CPU = Device(device=torch.device("cpu"), amp=None, name="CPU")


def test_advice_names_both_rates_if_training_waits_for_data() -> None:
    assert advice(line(0.5), CPU) == advice(line(0.5, first_s=9.0), CPU) == ""
    for first_s in (0.0, 9.0):
        assert advice(line(5.0, first_s), CPU) == (
            "  50 % of the time is waiting for data: the loader gives 3,100 chips/s, the CPU trains 6,200. "
            "Try more WORKERS, or CODEC=none."
        )


def test_the_time_of_an_epoch_is_divided_by_kind_of_work(run: Path) -> None:
    assert time_lines(line(1.0)) == ["  wait 1.0 s, copy 1.0, step 1.0, evaluate 1.0, checkpoint 1.0; 3100 chips/s"]
    for entry in (json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()):
        assert all(value > 0 for name, value in entry["seconds"].items() if name != "checkpoint")
        parts = [entry["seconds"][name] for name in ("wait", "copy", "step")]
        assert entry["train_s"] == pytest.approx(sum(parts))


def fill_with_nan(loop: RunLoop) -> None:
    loop.trainer.net.fc.bias.data.fill_(float("nan"))  # type: ignore[union-attr,operator]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(store: Store, tmp_path: Path) -> None:
    """A weight is NaN before the fourth step. Its loss is NaN, and the chips of its batch are named."""
    steps: list[torch.Tensor] = []

    def spoil(loop: RunLoop, batch: Batch) -> None:
        steps.append(batch.labels)
        if len(steps) == 4:
            fill_with_nan(loop)

    with tiny_networks(), use_hooks(Hooks(on_batch_start=spoil)):
        ended = train(store.path, tmp_path / "run", *SETTINGS, "CHECKPOINT_MINUTES=1e-9")
    assert ended.returncode == 2
    names = ended.stderr.split("batch holds ")[1].split(". Train again")[0].split(", ")
    chosen = [store.names.tolist().index(name) for name in names]
    assert torch.equal(torch.from_numpy(store.labels[chosen].astype(np.float32)), steps[3])
    assert "To resume it" not in ended.stdout
    assert "The last good checkpoint is kept, but resuming would diverge again." in ended.stdout
    assert len(steps) == 4
    assert sorted((tmp_path / "run" / "checkpoints").glob("e*"))[-1].name.startswith("e001-s00003-")


def test_weights_that_an_update_makes_nan_are_never_in_a_checkpoint(store: Store, tmp_path: Path) -> None:
    """The loss of that step is finite. After an epoch's last step the evaluation notices, before the checkpoint."""

    def spoil_after(step: int) -> AbstractContextManager[None]:
        def spoil(loop: RunLoop, batch: Batch, loss: torch.Tensor) -> None:
            if loop.state.step + 1 == step:
                fill_with_nan(loop)

        return use_hooks(Hooks(on_batch_end=spoil))

    settings = SETTINGS[:-1]  # without EMA: the scores of a moving average would not show it yet
    with tiny_networks():
        with spoil_after(3):
            early = train(store.path, tmp_path / "early", *SETTINGS, "CHECKPOINT_MINUTES=1e-9")
        with spoil_after(5):
            late = train(store.path, tmp_path / "late", *settings)
    assert "the weights are not finite after step 3. Train again with a smaller LR (now 0.002)." in early.stderr
    assert "scores of the val split are not finite. Train again" in late.stderr
    assert [(ended.returncode, ended.stderr.count("\n")) for ended in (early, late)] == [(2, 1), (2, 1)]
    assert "To resume it" not in early.stdout
    newest = sorted((tmp_path / "early" / "checkpoints").glob("e*"))[-1]
    assert newest.name.startswith("e001-s00002-")
    assert not (tmp_path / "late").exists()


def test_a_run_on_shuffled_labels_is_no_better_than_chance(store: Store, tmp_path: Path) -> None:
    with tiny_networks():
        ended = train(store.path, tmp_path / "run", *SETTINGS, "SHUFFLE_LABELS=1")
    assert "is no better than chance" in ended.stdout


def test_gpu_auto_chooses_the_least_used_gpu_and_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gib = [9, 2, 2, 30]
    busy = [0, 80, 10, 0]
    for name, fake in {
        "device_count": lambda: 4,
        "device_memory_used": lambda index: gib[index] * 2**30,
        "utilization": lambda index: busy[index],
        "get_device_name": lambda index: f"GPU {index}",
        "get_device_capability": lambda index: (9, 0),
        "set_device": lambda index: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr("train.device.obstacle", lambda: None)
    device = choose_device(make_config("default", task=1, store="s", gpu="auto"))
    assert device.device == torch.device("cuda", 2)
    assert capsys.readouterr().out == "GPU=auto: GPU 2 of 4, 2.0 GiB in use, 10 % busy.\n"
    several = make_config("default", task=1, store="s", gpu="3,1")
    assert choose_device(several, local_rank=1).device == torch.device("cuda", 1)
    assert choose_device(make_config("default", task=1, store="s"), local_rank=3).device == torch.device("cuda", 3)


def test_the_use_of_the_gpu_comes_from_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Device(device=torch.device("cuda", 0), amp=None, name="GPU")
    monkeypatch.setattr(telemetry.time, "monotonic", iter([1.0, 1.0, 1.5, 2.0, 2.0]).__next__)
    busy, used = iter([80, 100]), iter([3 * 2**30, 2 * 2**30])
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: next(busy))
    monkeypatch.setattr(torch.cuda, "device_memory_used", lambda device: next(used))
    use = telemetry.GpuUse(cuda)
    for _ in range(3):  # the second call comes within a second of the first
        use.sample()
    assert use.summary() == {"busy_percent": 90.0, "used_gib": 3.0}
    epoch = dataclasses.replace(line(1.0), gpu=use.summary())
    assert time_lines(epoch)[1:] == ["  GPU 90 % busy, at most 3.0 GiB of its memory in use"]
    assert telemetry.scalars(epoch)["gpu/busy_percent"] == 90


def test_without_nvml_training_continues(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A part of a GPU (MIG) has no utilisation, and a container may have no library."""

    def refuse(device: object) -> int:
        raise RuntimeError("Not Supported")

    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    monkeypatch.setattr(torch.cuda, "device_memory_used", refuse)
    use = telemetry.GpuUse(Device(device=torch.device("cuda", 0), amp=None, name="GPU"))
    use.sample()
    use.sample()
    assert use.summary() == {}
    assert least_used(2) == 0
    assert capsys.readouterr().out == (
        "GPU=auto: the use of the GPUs cannot be measured here (Not Supported); using GPU 0 of 2.\n"
    )


def test_the_loss_meter_reads_a_loss_on_the_cpu_at_once() -> None:
    latest = telemetry.LossMeter(SimpleNamespace(kind="cpu"))  # type: ignore[arg-type]
    assert not latest.failed
    latest.update(torch.tensor(float("inf")))
    assert latest.failed
