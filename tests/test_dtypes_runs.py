"""Runs on int16 and float32 chips: scores of predict, logits of the exported network, audit and report."""

import csv
import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import tifffile
import torch
from helpers.chips import BANDS, to_store, write_chips
from helpers.commands import train
from tiny import tiny_networks

from analysis.audit import audit
from analysis.export import export
from analysis.finished_run import load_run
from analysis.predict import predict
from analysis.report import report
from preprocess.info import info

ONNX_TYPE = {"int16": "tensor(int16)", "float32": "tensor(float)"}


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    with tiny_networks():
        yield


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SimpleNamespace]:
    """Runs of one epoch on chips with negative and positive values, and folders with only their test chips."""
    made = {}
    for dtype in ONNX_TYPE:
        chips = write_chips(tmp_path_factory.mktemp(dtype) / "tif", count=120, height=32, width=40, dtype=dtype)
        folder = chips.folder.parent
        chips.values[5, 1] = chips.values[5].max()  # a constant band, for the audit
        write_tiff(folder / "tif" / "t_5.tif", np.moveaxis(chips.values[5], 0, -1))
        store = to_store(chips, folder / "chips.zarr")
        with tiny_networks():
            ended = train(store.local_path, folder / "run", "EPOCHS=1", "CROP=28", task=3)
        assert ended.returncode == 0, ended.stderr
        run = load_run(folder / "run")
        (folder / "new").mkdir()
        for name in run.names:
            shutil.copy(chips.folder / f"{name}.tif", folder / "new")
        made[dtype] = SimpleNamespace(dtype=dtype, chips=chips, folder=folder, store=store, run=run)
    return made


@pytest.fixture(params=list(ONNX_TYPE))
def trained(request: pytest.FixtureRequest, both: dict[str, SimpleNamespace]) -> SimpleNamespace:
    return both[request.param]


def write_tiff(path: Path, values: np.ndarray) -> None:
    tifffile.imwrite(path, values, photometric="minisblack", planarconfig=1)


def test_predict_gives_the_scores_of_the_run_to_the_bit_and_names_values_that_are_not_finite(
    trained: SimpleNamespace, tmp_path: Path
) -> None:
    data = shutil.copytree(trained.folder / "new", tmp_path / "new")
    bad = trained.run.names[3] if trained.dtype == "float32" else ""
    if bad:
        values = tifffile.imread(data / f"{bad}.tif")
        values[0, 1, 2] = np.nan
        write_tiff(data / f"{bad}.tif", values)
    out = tmp_path / "scores.csv"
    assert predict(trained.run.path, data, out, bands=None, gpu="cpu", tta=False) == (1 if bad else 0)
    with open(out, newline="") as file:
        found = {row["image_name"]: [float(row[name]) for name in "abc"] for row in csv.DictReader(file)}
    saved = dict(zip(trained.run.names.tolist(), trained.run.probabilities.tolist(), strict=True))
    assert found == {name: scores for name, scores in saved.items() if name != bad}
    if bad:
        with open(tmp_path / "scores_bad.csv", newline="") as file:
            ((name, reason),) = [(row["image_name"], row["reason"]) for row in csv.DictReader(file)]
        assert name == bad
        assert "expected finite values, found 1 NaN and 0 infinite values" in reason


@pytest.mark.slow  # exporting takes 10 s of CPU time, whatever the network; uint16 chips: test_export.py
def test_the_exported_network_takes_the_values_of_the_files(trained: SimpleNamespace) -> None:
    folder = export(trained.run.path, store_path=None)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    assert (session.get_inputs()[0].type, session.get_inputs()[0].shape[1:]) == (ONNX_TYPE[trained.dtype], [4, 32, 40])
    names = trained.run.names[:20].tolist()
    chips = trained.chips.values[[int(name.removeprefix("t_")) for name in names]]
    (logits,) = session.run(None, {"chips": chips})
    program = torch.export.load(folder / "model.pt2").module()
    with torch.no_grad():
        again = program(torch.from_numpy(chips)).numpy()
    for found in (logits, again):
        assert np.abs(found - trained.run.logits[:20]).max() < 1e-4
    parity = json.loads((folder / "parity.json").read_text())
    assert parity["onnx_from_torch_share"] <= 1e-5
    assert f"(batch, 4, 32, 40) {trained.dtype}" in (folder / "MODEL_CARD.md").read_text()


@pytest.mark.slow
def test_audit_and_report_are_made_without_a_warning(trained: SimpleNamespace) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        findings = {
            finding.title: finding
            for finding in audit(trained.store.local_path, labels=None, jpeg=None, run_path=None, split_rule="course",
                                 exclusive=())
        }  # fmt: skip
        page = report(trained.run.path, compare=(), class_name=None, store_path=None)
    assert findings["Constant"].chips.tolist() == [[5]]
    assert findings["Constant"].reasons == [trained.store.layout.bands[1]]
    assert page.exists()
    text = (trained.folder / "chips.zarr.audit" / "audit.html").read_text()
    (mean, *_), _ = trained.store.band_statistics(np.arange(120))
    assert (f"{mean:.4f}" if trained.dtype == "float32" else f"{mean:.1f}") in text


def test_info_shows_bands_with_their_statistics(trained: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    info(trained.store.local_path, "course")
    said = capsys.readouterr().out
    assert f"4 bands x 32 x 40 {trained.dtype}" in said
    form = ".5g" if trained.dtype == "float32" else ".3f"
    for band, mean, std in zip(BANDS, *trained.store.band_statistics(np.arange(120)), strict=True):
        assert f"{band:<20}{mean:>12{form}}{std:>12{form}}\n" in said
