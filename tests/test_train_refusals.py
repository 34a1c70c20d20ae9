"""What a training refuses, with one line and exit code 2, and where it falls back with a line."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.chips import Chips, to_store, write_chips
from helpers.commands import here, train
from run_files import rewrite
from tiny import tiny_networks

from preprocess.zarr_store import Store
from train.cuda_driver import gpu_available


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chips: Chips = write_chips(tmp_path_factory.mktemp("train") / "tif", count=150, height=32, width=32)
    return to_store(chips, chips.folder.parent / "chips.zarr").path


@pytest.fixture
def tiny() -> Iterator[None]:
    with tiny_networks():
        yield


def reproduce(run: Path, *arguments: object) -> tuple[int, str]:
    ended = here("analysis", "reproduce", f"RUN={run}", *arguments)
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["EPOCHS=many"], "EPOCHS=many: expected a whole number from 1 to 100,000"),
        (["BATCH=101"], "BATCH=101: the train split has only 100 chips"),
        (["SPLIT=no.csv"], "no.csv: expected a CSV file"),
        (["WEIGHTS=no.safetensors"], "expected imagenet, none or a .safetensors file, found no such file"),
        (["CROP=40"], "CROP=40: expected at most 32: the chips of "),
        (["AMP=fp16"], "AMP=fp16: the CPU has off, bf16"),
        (["RECIPE=secret"], "RECIPE=secret"),
        (["GPU=one"], "GPU=one"),
        (["GPU=0,0"], "GPU=0,0: expected a number (0), numbers (0,1)"),
        (["BATCH=1"], "BATCH=1, ACCUMULATE=1: chips of 28 px shrink to one value per channel"),
        (["BATCH=4", "ACCUMULATE=4"], "BATCH=4, ACCUMULATE=4: chips of 28 px shrink"),
        (["EMA=no"], "EMA=no: expected a number from 0 to less than 1"),
        (["SPEED=1"], "SPEED is not a setting of train"),
        (["SET=ema=0.9"], "SET is not a setting of train"),
        (["LABELS=x.csv"], "LABELS: only with DATA=folder, which is converted first"),
    ],
)
def test_refusals_are_one_line_with_exit_code_2_and_leave_nothing(
    store: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    ended = train(store, tmp_path / "run", *words)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_missing_bands_are_named(uint8_store: Store, tmp_path: Path) -> None:
    ended = train(uint8_store.path, tmp_path / "run", task=4)
    assert ended.returncode == 2
    assert "TASK=4: expected the bands red, green, blue, nir, found red, green, blue in " in ended.stderr


def test_task_2_is_one_line() -> None:
    ended = here("train", "TASK=2", "STORE=x")
    assert ended.returncode == 0
    assert ended.stdout.startswith("TASK=2 trains nothing")
    assert ended.stdout.count("\n") == 1


@pytest.mark.skipif(gpu_available(), reason="a GPU can be used on this machine")
@pytest.mark.usefixtures("tiny")
def test_without_a_gpu_the_default_runs_on_the_cpu_and_a_given_number_is_refused(store: Path, tmp_path: Path) -> None:
    default = here("train", "TASK=1", f"STORE={store}", f"RUN={tmp_path / 'default'}", "EPOCHS=1", "BATCH=32",
        "WEIGHTS=none",
    )  # fmt: skip
    auto = train(store, tmp_path / "auto", "GPU=auto", "EPOCHS=1")
    for ended in (default, auto):
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.count("no GPU can be used on this machine (") == 1
    for gpu in ("0", "0,1"):
        ended = train(store, tmp_path / gpu, f"GPU={gpu}")
        assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
        assert f"error: GPU={gpu}: no GPU can be used on this machine: " in ended.stderr
        assert ended.stderr.endswith("GPU=cpu trains on the CPU.\n")
        assert not (tmp_path / gpu).exists()


@pytest.mark.skipif(gpu_available(), reason="a GPU can be used on this machine")
@pytest.mark.usefixtures("tiny")
def test_a_run_remembers_whether_the_user_gave_its_gpu(store: Path, tmp_path: Path) -> None:
    """RESUME refuses to replace a GPU that the user gave. Early runs, which did not record that, are resumed."""
    ended = train(store, tmp_path / "run", "GPU=auto")
    assert ended.returncode == 0, ended.stderr
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["config"]["gpu_given"]
    code, text = reproduce(tmp_path / "run")
    assert code == 0, text
    assert text.count("no GPU can be used on this machine (") == 1
    for config, refused in (({"gpu": "0", "gpu_given": True}, True), ({"gpu": "0", "gpu_given": False}, False)):

        def change(values: dict[str, Any], config: dict[str, Any] = config) -> None:
            values["state"] = "stopped"
            values["config"] |= config

        rewrite(tmp_path / "run", record=change)
        ended = here("train", f"RESUME={tmp_path / 'run'}")
        assert ended.returncode == 2
        assert ("GPU=0: no GPU can be used" in ended.stderr) == refused
    rewrite(tmp_path / "run", both=lambda values: values["config"].pop("gpu_given"))
    assert "GPU=0" not in here("train", f"RESUME={tmp_path / 'run'}").stderr
    code, text = reproduce(tmp_path / "run", "GPU=0")
    assert code == 2
    assert "GPU=0: no GPU can be used on this machine" in text


@pytest.mark.usefixtures("tiny")
def test_a_loss_that_is_not_finite_stops_with_a_line(store: Path, tmp_path: Path) -> None:
    ended = train(store, tmp_path / "run", "RECIPE=course", "LR=1e30")
    assert ended.returncode == 2
    assert "epoch 1: the loss is not finite; the first such batch holds t_" in ended.stderr


@pytest.mark.usefixtures("tiny")
def test_missing_imagenet_weights_are_a_line_by_default_and_an_error_if_asked_for(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default a line, and training from scratch; with WEIGHTS=imagenet an error."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # no server there: as without a network
    ended = train(store, tmp_path / "auto", "WEIGHTS=auto", "EPOCHS=1")
    assert ended.returncode == 0, ended.stderr
    assert "ImageNet weights of resnet18 are not available here" in ended.stdout
    assert "Training from scratch" in ended.stdout
    assert json.loads((tmp_path / "auto" / "run.json").read_text())["config"]["weights"] == "none"
    ended = train(store, tmp_path / "mean", "WEIGHTS=auto", "CONV1=mean", task=4)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "CONV1=mean has no effect without pretrained weights. ImageNet weights of resnet18" in ended.stderr
    ended = train(store, tmp_path / "asked", "WEIGHTS=imagenet")
    assert ended.returncode == 2
    assert "Copy resnet18-f37072fd.pth" in ended.stderr
    assert not (tmp_path / "asked").exists()


def test_the_default_run_name_is_the_next_free_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    from train.run_folder import new_run_folder

    monkeypatch.chdir(tmp_path)
    names = [str(new_run_folder(None, 3)) for _ in range(3)]
    assert names == ["runs/task3", "runs/task3-2", "runs/task3-3"]
    assert "exists already" in refused(lambda: new_run_folder("runs/task3", 3))
