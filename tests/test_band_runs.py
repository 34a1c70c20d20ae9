"""Runs on chosen bands: what the network is fed, its files, and all that reads them later."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from helpers.chips import to_store, write_chips
from helpers.commands import resume, stop_at, train
from helpers.trained import saved_scores, scores_of
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import EVERY_STEP, Steps, outcome, tiny_networks

from analysis.export import export
from analysis.finished_run import load_run
from analysis.predict import predict
from analysis.report import report
from analysis.reproduce import reproduce
from analysis.run_sections import train_command
from models.weights import KEY
from train.config import make_config
from train.setup import make_model, open_data

BANDS = ("B02", "B03", "B04", "B08", "B11")
CHOICES = {
    "one": ("TASK=4", "BANDS_IN=B11,B04,B03,B02", "BANDS_RGB=B04,B03,B02"),
    "joined": ("TASK=3", "TRUNKS=B04,B03,B02;B08,B11"),
    "rgb": ("TASK=1", "BANDS_RGB=B04,B03,B02"),
}
STORED = {
    "one": [["B11", "B04", "B03", "B02"]],
    "joined": [["B04", "B03", "B02"], ["B08", "B11"]],
    "rgb": [["B04", "B03", "B02"]],
}
NAMED = {
    "one": [["B11", "red", "green", "blue"]],
    "joined": [["B04", "B03", "B02"], ["B08", "B11"]],
    "rgb": [["red", "green", "blue"]],
}
SHORT = ("EPOCHS=2", "BATCH=8", "CROP=14")


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    with tiny_networks():
        yield


@pytest.fixture(scope="module")
def all_runs(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run of each choice, on chips of five bands that are not called red, green or blue."""
    folder = tmp_path_factory.mktemp("bands")
    chips = write_chips(folder / "tif", count=60, bands=5)
    store = to_store(chips, folder / "chips.zarr", bands=BANDS)
    with tiny_networks():
        for name, words in CHOICES.items():
            ended = train(store.path, folder / name, *SHORT, *words)
            assert ended.returncode == 0, ended.stderr
    return SimpleNamespace(folder=folder, chips=chips, store=store)


@pytest.mark.parametrize("name", list(CHOICES))
def test_the_files_of_a_run_name_the_bands(all_runs: SimpleNamespace, name: str) -> None:
    run = load_run(all_runs.folder / name)
    record = json.loads((run.path / "run.json").read_text())
    assert record["inputs"]["branches"] == STORED[name]
    bands = [band for group in STORED[name] for band in group]
    assert record["inputs"]["bands"] == bands
    mean, std = all_runs.store.band_statistics(open_data(run.config).split.train)
    assert record["inputs"]["mean"] == [mean[BANDS.index(band)] for band in bands]
    assert record["inputs"]["std"] == [std[BANDS.index(band)] for band in bands]
    with safe_open(run.path / "model.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()[KEY])["bands"] == NAMED[name]
    for word in CHOICES[name]:
        assert word in train_command(run.config).replace("'", "")


@pytest.mark.parametrize("name", list(CHOICES))
def test_the_network_is_fed_the_bands_in_their_order(all_runs: SimpleNamespace, name: str) -> None:
    """The saved logits are those of the network on the files' own values, standardised here."""
    run = load_run(all_runs.folder / name)
    net = make_model(run.config, open_data(run.config), pretrained=False).eval()
    net.load_state_dict(load_file(run.path / "model.safetensors"))
    inputs = run.record.inputs
    rows = [int(chip.removeprefix("t_")) for chip in run.names]
    values = all_runs.chips.values[rows][:, [BANDS.index(band) for band in inputs.bands], 1:15, 1:15]
    mean, std = (np.array(numbers)[:, None, None] for numbers in (inputs.mean, inputs.std))
    with torch.no_grad():
        logits = net(torch.from_numpy(((values - mean) / std).astype(np.float32))).numpy()
    assert np.abs(logits - run.logits).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CHOICES))
def test_reproduce_predict_and_report_read_the_run(
    all_runs: SimpleNamespace, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = load_run(all_runs.folder / name)
    assert reproduce(run.path, store=None, gpu=None)
    assert "BIT-IDENTICAL" in capsys.readouterr().out
    data = tmp_path / "new"
    data.mkdir()
    for chip in run.names:
        shutil.copy(all_runs.chips.folder / f"{chip}.tif", data)
    assert predict(run.path, data, tmp_path / "scores.csv", bands=None, gpu="cpu", tta=False) == 0
    assert scores_of(tmp_path / "scores.csv") == saved_scores(run)
    assert "Colours: B04, B03, B02" in report(run.path, compare=(), class_name=None, store_path=None).read_text()


@pytest.mark.slow  # exporting takes 10 s of CPU time
@pytest.mark.parametrize("name", ["one", "joined"])
def test_the_exported_network_takes_all_bands_of_the_store(all_runs: SimpleNamespace, name: str) -> None:
    run = load_run(all_runs.folder / name)
    session = onnxruntime.InferenceSession(
        export(run.path, store_path=None) / "model.onnx", providers=["CPUExecutionProvider"]
    )
    rows = [int(chip.removeprefix("t_")) for chip in run.names]
    (logits,) = session.run(None, {"chips": all_runs.chips.values[rows]})
    assert np.abs(logits - run.logits).max() < 1e-4


def test_a_run_is_resumed_to_the_bit(all_runs: SimpleNamespace, tmp_path: Path) -> None:
    with Steps(stop_at(3)).watch:
        assert train(all_runs.store.path, tmp_path / "run", *SHORT, *CHOICES["joined"], *EVERY_STEP).returncode == 75
    assert resume(tmp_path / "run").returncode == 0
    assert outcome(tmp_path / "run") == outcome(all_runs.folder / "joined")


def test_weights_of_another_run_are_found_by_the_names_of_bands(all_runs: SimpleNamespace, tmp_path: Path) -> None:
    """A run on colours starts any network that has these colours, whatever the store calls them."""
    colours = load_file(all_runs.folder / "rgb/model.safetensors")["conv1.weight"]  # B04, B03, B02
    plain = write_chips(tmp_path / "tif", count=24)
    own = to_store(plain, tmp_path / "chips.zarr")  # blue, green, red, nir
    for place, settings, channels in (
        (all_runs.store.path, {"task": 1, "bands_in": "B02,B08,B03,B04", "bands_rgb": "B04,B03,B02"}, [2, None, 1, 0]),
        (own.path, {"task": 4}, [0, 1, 2, None]),
        (own.path, {"task": 1}, [0, 1, 2]),
    ):
        made = make_config(
            "default", store=str(place), gpu="cpu", weights=str(all_runs.folder / "rgb/model.safetensors"), **settings
        )
        conv1 = make_model(made, open_data(made), pretrained=True).get_parameter("conv1.weight")
        for channel, source in enumerate(channels):
            assert source is None or torch.equal(conv1[:, channel], colours[:, source])


def test_a_run_prints_the_bands_of_the_store(all_runs: SimpleNamespace, tmp_path: Path) -> None:
    ended = train(all_runs.store.path, tmp_path / "run", "EPOCHS=1", "BATCH=8", *CHOICES["joined"])
    assert "task 3, resnet18 on B04,B03,B02 | B08,B11" in ended.stdout
    ended = train(all_runs.store.path, tmp_path / "other", "EPOCHS=1", "BATCH=8")
    assert ended.returncode == 2
    assert "(such as BANDS_RGB=B04,B03,B02)" in ended.stderr
