"""ARCH=name of timm: networks for any bands, their weights by timm's names, and what is said without timm."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.chips import to_store, write_chips
from helpers.commands import ROOT, here, resume, stop_at, train
from helpers.networks import NIR, RGB, RGBN, refusal
from safetensors.torch import load_file, save_file
from tiny import EVERY_STEP, Steps, outcome

from analysis.finished_run import load_run
from analysis.predict import predict
from analysis.reproduce import reproduce
from models.archs import ARCHS, timm_names
from models.build import build, head_parameters
from models.resnet import adapt_conv1
from models.weights import file_weights
from preprocess.zarr_store import Store
from train import chip_checks

has_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
NET = "test_convnext"  # timm's own small networks for tests
SIZE = (32, 32)


def test_without_timm_its_networks_are_refused_and_the_line_says_how_to_install_it(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chip_checks, "timm_names", frozenset)
    text = refused(lambda: chip_checks.check_arch("convnext_tiny"))
    assert "or a network of timm, which is not installed (`.venv/bin/pip install -c constraints.txt timm`" in text
    for arch in ARCHS:
        chip_checks.check_arch(arch)
    monkeypatch.setitem(sys.modules, "timm", None)
    assert refusal(lambda: build(NET, (RGB,), 5)).startswith(f"ARCH={NET}: a network of timm, which is not installed.")


@has_timm
@pytest.mark.slow
def test_names_are_those_of_timm_and_are_found_without_loading_it(refused: Callable[..., str]) -> None:
    code = (
        "import sys; from models.archs import timm_names; names = timm_names()\n"
        "print([m for m in ('timm', 'torch') if m in sys.modules])\n"
        "import timm; print(names == set(timm.list_models()))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout.split("\n")[:2] == ["[]", "True"], ended.stderr
    chip_checks.check_arch("convnext_tiny")
    text = refused(lambda: chip_checks.check_arch("convnext_tinny"))
    assert text.endswith("or a network of timm. Did you mean ARCH=convnext_tiny?")
    assert "vit_tiny_patch16_224" in timm_names()


@has_timm
@pytest.mark.parametrize("arch", [NET, "test_resnet", "test_vit", "test_efficientnet"])
def test_a_network_takes_any_bands_and_gives_a_logit_per_class(arch: str) -> None:
    for branches in ((RGBN,), (RGB, NIR)):
        net = build(arch, branches, 5, size=SIZE)
        assert net(torch.zeros(2, 4, *SIZE)).shape == (2, 5)
        assert sum(parameter.numel() for parameter in head_parameters(net)) % 5 == 0


@has_timm
def test_a_size_that_a_network_cannot_take_is_one_line() -> None:
    text = refusal(lambda: build("test_vit", (RGB,), 5, size=(30, 7)))
    assert text.startswith("ARCH=test_vit: timm cannot make this network for images of 30 x 7 pixels (")


@has_timm
@pytest.mark.parametrize("choice", ["kaiming", "mean", "copy-red"])
def test_weights_by_timms_names_start_a_network_of_other_bands(tmp_path: Path, choice: str) -> None:
    import timm

    pretrained = timm.create_model(NET, num_classes=7).state_dict()
    save_file(pretrained, tmp_path / "w.safetensors")
    torch.manual_seed(3)
    net = build(NET, (RGBN,), 5, file_weights(tmp_path / "w.safetensors"), new_bands=choice, size=SIZE)
    torch.manual_seed(3)
    fresh = build(NET, (RGBN,), 5, size=SIZE).state_dict()
    state = net.state_dict()
    for name, value in state.items():
        if name == "stem.0.weight":
            assert torch.equal(value, adapt_conv1(pretrained[name], RGBN, fresh[name], choice))
        else:
            assert torch.equal(value, (fresh if name.startswith("head.fc.") else pretrained)[name]), name
    other = timm.create_model("test_resnet").state_dict()
    save_file(other, tmp_path / "other.safetensors")
    text = refusal(lambda: build(NET, (RGBN,), 5, file_weights(tmp_path / "other.safetensors"), size=SIZE))
    assert f"expected weights of {NET}, found others" in text


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    chips = write_chips(tmp_path_factory.mktemp("timm") / "tif", count=60, height=32, width=32)
    return to_store(chips, chips.folder.parent / "chips.zarr")


WORDS = (f"ARCH={NET}", "BATCH=8", "EPOCHS=2", "CROP=32")


@has_timm
@pytest.mark.slow
@pytest.mark.parametrize("task", [3, 4])
def test_a_run_is_trained_resumed_reproduced_and_predicts(
    store: Store, tmp_path: Path, task: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, part = tmp_path / "run", tmp_path / "stopped"
    assert train(store.path, folder, *WORDS, task=task).returncode == 0
    with Steps(stop_at(3)).watch:
        assert train(store.path, part, *WORDS, *EVERY_STEP, task=task).returncode == 75
    assert resume(part).returncode == 0
    assert outcome(part) == outcome(folder)
    run = load_run(folder)
    assert reproduce(folder, store=None, gpu=None)
    assert "BIT-IDENTICAL" in capsys.readouterr().out
    assert predict(folder, store.local_path.parent / "tif", tmp_path / "scores.csv", bands=None, gpu="cpu",
                   tta=False) == 0  # fmt: skip
    rows = np.genfromtxt(tmp_path / "scores.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
    found = {row[0]: list(row)[1:] for row in rows.tolist()}
    assert {name: found[name] for name in run.names} == dict(
        zip(run.names.tolist(), run.probabilities.tolist(), strict=True)
    )
    again = train(store.path, tmp_path / "again", *WORDS, "EPOCHS=1", f"WEIGHTS={folder / 'model.safetensors'}",
                  "FINETUNE=head", task=task)  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert "its last layer (3 classes) is not used" in again.stdout
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "again"))
    names = [name for name in before if not name.startswith(("fc.", "head.fc."))]
    assert names
    assert all(torch.equal(before[name], after[name]) for name in names)


@has_timm
def test_imagenet_weights_of_timm_are_refused_and_auto_trains_from_scratch(store: Store, tmp_path: Path) -> None:
    ended = train(store.path, tmp_path / "run", *WORDS, "EPOCHS=1", "WEIGHTS=imagenet")
    assert ended.returncode == 2
    assert f"ImageNet weights of {NET} are not downloaded: it is a network of timm." in ended.stderr
    words = [f"TASK={1}", f"STORE={store.path}", f"RUN={tmp_path / 'auto'}", "GPU=cpu", *WORDS, "EPOCHS=1"]
    words = list({word.partition("=")[0]: word for word in words}.values())
    ended = here("train", *words)
    assert ended.returncode == 0, ended.stderr
    assert "Training from scratch." in ended.stdout
