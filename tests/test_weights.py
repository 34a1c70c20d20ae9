"""WEIGHTS=file: the metadata of model files, which run can start from which file, and the lines about it."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.chips import to_store, write_chips
from helpers.commands import Ended, train
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import tiny_networks

from models.weights import KEY
from train import initial_weights as module
from train.config import Config, make_config
from train.device import choose_device
from train.initial_weights import resolve_weights
from train.setup import make_model, make_train_loader, open_data


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    """The trunks of Task 3 are ResNet-18, too."""
    with tiny_networks():
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chips = write_chips(tmp_path_factory.mktemp("weights") / "tif", count=24)
    return to_store(chips, chips.folder.parent / "chips.zarr").path


@pytest.fixture(scope="module")
def runs(store: Path) -> Callable[..., Path]:
    """The model file of a run of one epoch with these settings; each is trained once."""
    made: dict[str, Path] = {}

    def run(task: int, *settings: object) -> Path:
        name = "-".join(map(str, (task, *settings)))
        if name not in made:
            with tiny_networks():
                ended = train(store, store.parent / "runs" / name, "BATCH=8", "EPOCHS=1", *settings, task=task)
            assert ended.returncode == 0, ended.stderr
            made[name] = store.parent / "runs" / name / "model.safetensors"
        return made[name]

    return run


def config(store: Path, path: Path | str, task: int = 1, **settings: Any) -> Config:
    return make_config("default", task=task, store=str(store), gpu="cpu", weights=str(path), **settings)


def start_from(store: Path, path: Path | str, task: int = 1, **settings: Any) -> dict[str, torch.Tensor]:
    """The network with which a run begins."""
    made = config(store, path, task, **settings)
    return dict(make_model(made, open_data(made), pretrained=True).state_dict())


def without_metadata(path: Path, copy: Path, change: Callable[[dict], dict] = dict) -> Path:
    """A model file as runs of version 1 wrote it."""
    save_file(change(load_file(path)), copy)
    return copy


@pytest.mark.parametrize(
    ("task", "settings", "bands"),
    [
        (1, (), [["red", "green", "blue"]]),
        (1, ("INPUT=course",), [["blue", "green", "red"]]),
        (3, (), [["red", "green", "blue"], ["nir"]]),
        (4, (), [["red", "green", "blue", "nir"]]),
    ],
)
def test_a_model_file_describes_its_network(
    runs: Callable[..., Path], task: int, settings: tuple, bands: list[list[str]]
) -> None:
    path = runs(task, *settings)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert list(metadata) == [KEY]
    inputs = json.loads(path.with_name("run.json").read_text())["inputs"]
    assert json.loads(metadata[KEY]) == {
        "version": 1, "arch": "resnet18", "task": task, "bands": bands, "input": "course" if settings else "raw",
        "pool": True, "classes": ["a", "b", "c"], "mean": inputs["mean"], "std": inputs["std"],
    }  # fmt: skip
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with np.load(path.with_name("results.npz")) as results:
        assert json.loads(str(results["depends_on"]))["model_sha256"] == digest
    assert json.loads(path.with_name("run.json").read_text())["model_sha256"] == digest


@pytest.mark.parametrize("task", [1, 3, 4])
@pytest.mark.parametrize("version", [1, 2])
def test_a_run_starts_from_a_run_of_its_own_task(
    store: Path, runs: Callable[..., Path], tmp_path: Path, task: int, version: int
) -> None:
    """Each trunk is read from the trunk with its bands, also from files without metadata. The last layer is new."""
    path = runs(task) if version == 2 else without_metadata(runs(task), tmp_path / "w.safetensors")
    state, saved = start_from(store, path, task), load_file(path)
    assert state.keys() == saved.keys()
    for name, value in saved.items():
        assert torch.equal(state[name], value) == (not name.startswith("fc."))


def test_runs_of_other_tasks_and_inputs_are_refused(
    store: Path, runs: Callable[..., Path], refused: Callable[..., str]
) -> None:
    four, course = runs(4), runs(1, "INPUT=course")
    for path, task, settings, message in (
        (four, 1, {}, "expected 3 bands (red,green,blue), found a run of TASK=4 on 4 bands (red,green,blue,nir)."),
        (four, 3, {}, "expected 4 bands (red,green,blue | nir), found a run of TASK=4"),
        (
            course,
            1,
            {},
            "expected a run with INPUT=raw, found one with INPUT=course. Set INPUT=course, or other WEIGHTS.",
        ),
        (runs(1), 1, {"input": "course"}, "expected a run with INPUT=course, found one with INPUT=raw."),
        (four, 4, {"arch": "resnet34"}, "expected a run with ARCH=resnet34, found one with ARCH=resnet18."),
    ):
        text = refused(lambda p=path, t=task, s=settings: start_from(store, p, t, **s))
        assert text.startswith(f"WEIGHTS={path}: {message}")


def test_a_run_on_colours_starts_other_tasks(store: Path, runs: Callable[..., Path]) -> None:
    """INPUT=course feeds blue first, so filters must be matched by the names of bands, not by their order."""
    for settings, order in (((), (0, 1, 2)), (("INPUT=course",), (0, 1, 2))):
        path = runs(1, *settings)
        state = start_from(store, path, 4, **({"input": "course"} if settings else {}))
        assert torch.equal(state["conv1.weight"][:, order], load_file(path)["conv1.weight"])


def test_a_line_says_what_of_the_file_is_used(
    store: Path, runs: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = runs(1)
    half = without_metadata(path, tmp_path / "h.safetensors", lambda s: {n: v.half() for n, v in s.items() if v.ndim})
    double = without_metadata(
        path, tmp_path / "d.safetensors", lambda s: {n: v.double() for n, v in s.items() if v.ndim}
    )
    bare = without_metadata(path, tmp_path / "b.safetensors", lambda s: {n: v for n, v in s.items() if "fc" not in n})
    for file, settings, message in (
        (path, {}, "a run of TASK=1 on red,green,blue; its last layer (3 classes) is not used"),
        (path, {"pool": "off"}, "is not used; it was trained with max pooling, this run is without"),
        (half, {}, "its last layer (3 classes) is not used; float16 is converted to float32"),
        (double, {}, "its last layer (3 classes) is not used; float64 is rounded to float32"),
        (bare, {}, "all of it is used"),
        (bare, {"stem": "small"}, "they have another stem than STEM=small, so conv1 starts from random weights"),
    ):
        capsys.readouterr()
        start_from(store, file, **settings)
        line = capsys.readouterr().out.splitlines(keepends=True)[-1]
        assert line.startswith(f"WEIGHTS={file}: ")
        assert line.endswith(f"{message}\n")
        assert line.count("\n") == 1


def test_a_file_of_nan_is_refused_before_anything_is_trained(
    store: Path, runs: Callable[..., Path], tmp_path: Path
) -> None:
    def spoilt(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        state["conv2.weight"][1, 2, 0, 1] = torch.nan
        return state

    path = without_metadata(runs(1), tmp_path / "w.safetensors", spoilt)
    ended: Ended = train(store, tmp_path / "run", "BATCH=8", f"WEIGHTS={path}")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert f"WEIGHTS={path}: conv2.weight holds nan (value 92 of 1152). The file is damaged" in ended.stderr
    assert not (tmp_path / "run").exists()


def test_an_error_of_the_system_is_one_line(
    store: Path, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "device.safetensors").symlink_to("/dev/zero")
    (tmp_path / "loop.safetensors").symlink_to("loop.safetensors")
    (tmp_path / "file").touch()
    for name, message in (
        ("pipe", "found: a named pipe, expected a regular file."),
        ("folder", "found: a folder, expected a regular file."),
        ("device", "found: a device, expected a regular file."),
        ("loop", "found: Too many levels of symbolic links."),
        ("absent", "found no such file."),
        ("file/x", "found: Not a directory."),
        ("a" * 300, "found: File name too long."),
    ):
        path = tmp_path / f"{name}.safetensors"
        text = refused(lambda path=path: start_from(store, path))
        assert text == f"WEIGHTS={path}: expected imagenet, none or a .safetensors file, {message}"
    monkeypatch.setattr(
        module, "open_regular", lambda _: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
    )
    assert refused(lambda: start_from(store, "w.safetensors")).endswith("found: Permission denied.")


def test_conv1_without_new_bands_is_refused(
    store: Path, runs: Callable[..., Path], tmp_path: Path, refused: Callable[..., str]
) -> None:
    path = runs(4)
    for file in (path, without_metadata(path, tmp_path / "w.safetensors")):
        text = refused(lambda file=file: start_from(store, file, 4, conv1="mean"))
        assert text == f"CONV1=mean has no effect here: WEIGHTS={file} has filters for all bands. Leave CONV1 out."
    start_from(store, runs(1), 4, conv1="mean")


def test_settings_that_need_pretrained_filters_are_refused_with_another_stem(
    store: Path, runs: Callable[..., Path], refused: Callable[..., str]
) -> None:
    path = runs(1)
    assert refused(lambda: start_from(store, path, stem="small", finetune="head")) == (
        f"FINETUNE=head: conv1 would keep random weights, because WEIGHTS={path} has another stem than STEM=small. Set "
        "STEM=imagenet."
    )
    assert refused(lambda: start_from(store, path, 4, stem="small", conv1="mean")) == (
        f"CONV1=mean has no effect with STEM=small: WEIGHTS={path} has another stem. Set STEM=imagenet, or leave CONV1 "
        "out."
    )


def test_without_imagenet_weights_head_and_conv1_are_refused(
    store: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(arch: str) -> None:
        raise module.WeightsError(f"ImageNet weights of {arch} are not available here.")

    monkeypatch.setattr(module, "imagenet_weights", offline)
    assert resolve_weights(config(store, "auto", 4)).weights == "none"
    for settings, message in (
        ({"conv1": "mean"}, "CONV1=mean has no effect without pretrained weights. ImageNet weights of resnet18 are"),
        ({"finetune": "head"}, "ImageNet weights of resnet18 are not available here."),
    ):
        assert refused(lambda s=settings: resolve_weights(config(store, "auto", 4, **s))).startswith(message)


def test_dihedral_flips_of_chips_that_are_not_square_are_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Callable[..., str]
) -> None:
    store = to_store(write_chips(tmp_path / "tif", count=24, height=16, width=24), tmp_path / "chips.zarr").path
    for settings, says in (({}, True), ({"flips": "both"}, False), ({"crop": 12}, True)):
        made = config(store, "none", 4, batch=8, **settings)
        capsys.readouterr()
        make_train_loader(made, open_data(made), choose_device(made)).close()
        assert ("FLIPS=dihedral: " in capsys.readouterr().out) is says


@pytest.mark.parametrize("text", ["1_0", " 8", "8 ", "\u0668", "0x8", "1e400", "nan", ""])
def test_numbers_that_python_alone_understands_are_refused(store: Path, tmp_path: Path, text: str) -> None:
    for name in ("BATCH", "LR"):
        ended = train(store, tmp_path / "run", f"{name}={text}")
        assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
        assert (f"{name}={text}: expected" if text else f"{name} is given, but empty") in ended.stderr


def test_resume_refuses_settings_without_effect(store: Path, tmp_path: Path, runs: Callable[..., Path]) -> None:
    from helpers.commands import resume, stop_at
    from tiny import Steps

    with Steps(stop_at(1)).watch:
        assert train(store, tmp_path / "run", "BATCH=8", "CACHE=host").returncode == 75
    ended = resume(tmp_path / "run", "DECODE=device")
    assert ended.returncode == 2
    assert ended.stderr == "error: DECODE=device has no effect with GPU=cpu. Leave it out.\n"
    # A run of version 1 may hold settings that would be refused today.
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["config"]["momentum"] == 0.9
    assert resume(tmp_path / "run").returncode == 0
    with (
        safe_open(tmp_path / "run" / "model.safetensors", framework="pt") as file,
        safe_open(runs(1), framework="pt") as whole,
    ):
        assert file.metadata() == whole.metadata()  # also if the weights were written after the stop


def test_a_setting_of_the_command_line_without_effect(store: Path, tmp_path: Path) -> None:
    for arguments, code in (
        (["MOMENTUM=0.9"], 2),
        (["RECIPE=course", "OPTIMIZER=adamw"], 0),
        (["RECIPE=course", "OPTIMIZER=adamw", "MOMENTUM=0.5"], 2),
    ):
        ended = train(store, tmp_path / str(len(arguments)), "BATCH=8", "EPOCHS=1", *arguments)
        assert ended.returncode == code, ended.stderr
        assert code == 0 or "has no effect with OPTIMIZER=adamw. Leave it out." in ended.stderr


def test_a_model_file_of_version_1_starts_a_run(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(__file__).parent / "fixtures" / "v1" / "run" / "model.safetensors"
    state, saved = start_from(store, path), load_file(path)
    for name, value in saved.items():
        assert torch.equal(state[name], value) == (not name.startswith("fc."))
    assert capsys.readouterr().out == f"WEIGHTS={path}: its last layer (3 classes) is not used\n"
