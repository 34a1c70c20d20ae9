"""Runs on chips with nodata: no NaN anywhere, and predict, export, audit and report treat nodata as the run did."""

import json
import shutil
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import tifffile
import torch
from helpers.audits import findings_of
from helpers.chips import to_store
from helpers.commands import train
from helpers.nodata import EMPTY, NO_BAND, as_nan, missing, write_chip, write_nodata
from helpers.trained import saved_scores, scores_of, train_once
from PIL import Image
from safetensors.numpy import load_file
from tiny import tiny_networks

from analysis.export import export
from analysis.features import read_features
from analysis.pictures import NODATA_COLOUR, ImageBudget, pictures, stretch, stretch_valid
from analysis.predict import predict
from analysis.report import report
from analysis.reproduce import reproduce
from train.contract.record import read_record

CASES = {"float32": "nan", "uint16": "0", "int16": "-32768"}


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    with tiny_networks():
        yield


@pytest.fixture(scope="module")
def all_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SimpleNamespace]:
    """Runs of one epoch on chips with 2 % nodata, and folders with only their test chips."""
    made = {}
    for dtype, nodata in CASES.items():
        folder = tmp_path_factory.mktemp(dtype)
        chips = write_nodata(folder / "tif", dtype, nodata, share=0.02, count=120, height=32, width=40)
        store = to_store(chips, folder / "chips.zarr", nodata=nodata)
        run = train_once(folder, chips.folder, "CROP=28", task=3)
        made[dtype] = SimpleNamespace(dtype=dtype, nodata=nodata, chips=chips, folder=folder, store=store, run=run)
    return made


@pytest.fixture(params=list(CASES))
def made(request: pytest.FixtureRequest, all_runs: dict[str, SimpleNamespace]) -> SimpleNamespace:
    return all_runs[request.param]


def test_nothing_of_a_run_is_nan(made: SimpleNamespace) -> None:
    weights = load_file(made.run.path / "model.safetensors")
    assert all(np.isfinite(values).all() for values in weights.values())
    assert np.isfinite(made.run.logits).all()
    (line,) = (json.loads(text) for text in (made.run.path / "metrics.jsonl").read_text().splitlines())
    assert all(np.isfinite(line[name]) for name in ("train_loss", "test_loss", "train_map", "test_map"))
    inputs = read_record(made.run.path).inputs
    wide = as_nan(made.chips.values, made.nodata)
    train_chips = np.setdiff1d(np.arange(120), [int(name.removeprefix("t_")) for name in made.run.names])
    bands = [made.store.layout.bands.index(band) for band in inputs.bands]
    assert np.allclose(inputs.mean, np.nanmean(wide[train_chips], axis=(0, 2, 3))[bands], rtol=1e-13, atol=0)
    assert np.allclose(inputs.std, np.nanstd(wide[train_chips], axis=(0, 2, 3))[bands], rtol=1e-11, atol=0)


def test_run_json_keeps_nodata_only_where_there_is_one(made: SimpleNamespace, tmp_path: Path) -> None:
    assert json.loads((made.run.path / "run.json").read_text())["inputs"]["chip"]["nodata"] == made.nodata
    if made.dtype == "uint16":
        chips = write_nodata(tmp_path / "tif", "uint16", "0", count=60, height=32, width=32)
        store = to_store(chips, tmp_path / "s.zarr")
        assert train(store.local_path, tmp_path / "run", "EPOCHS=1", "BATCH=16").returncode == 0
        assert "nodata" not in json.loads((tmp_path / "run" / "run.json").read_text())["inputs"]["chip"]


def test_a_run_is_reproduced(all_runs: dict[str, SimpleNamespace], capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce(all_runs["float32"].run.path, store=None, gpu="cpu")
    assert "BIT-IDENTICAL" in capsys.readouterr().out


@pytest.mark.parametrize("keep_store", [True, False])
def test_predict_gives_the_scores_of_the_run_to_the_bit(
    made: SimpleNamespace, tmp_path: Path, keep_store: bool
) -> None:
    """Also without the store: run.json has the nodata."""
    moved = tmp_path / "moved.zarr"
    bands = None if keep_store else made.store.layout.bands
    if not keep_store:
        made.store.local_path.rename(moved)
    try:
        out = tmp_path / "scores.csv"
        assert predict(made.run.path, made.folder / "new", out, bands=bands, gpu="cpu", tta=False) == 0
    finally:
        if not keep_store:
            moved.rename(made.store.local_path)
    assert scores_of(out) == saved_scores(made.run)


def test_predict_names_values_that_are_neither_finite_nor_nodata(
    all_runs: dict[str, SimpleNamespace], tmp_path: Path
) -> None:
    made = all_runs["float32"]
    data = shutil.copytree(made.folder / "new", tmp_path / "new")
    name = made.run.names[3]
    values = tifffile.imread(data / f"{name}.tif")
    values[0, 0, 0] = np.inf
    write_chip(data / f"{name}.tif", np.moveaxis(values, -1, 0))
    assert predict(made.run.path, data, tmp_path / "scores.csv", bands=None, gpu="cpu", tta=False) == 1
    assert "0 NaN and 1 infinite values" in (tmp_path / "scores_bad.csv").read_text()


@pytest.mark.slow  # exporting takes 10 s of CPU time
def test_the_exported_network_takes_nodata_as_the_files_have_it(made: SimpleNamespace) -> None:
    folder = export(made.run.path, store_path=None)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["nodata"] == made.nodata
    names = made.run.names[:20].tolist()
    chips = made.chips.values[[int(name.removeprefix("t_")) for name in names]]
    (logits,) = session.run(None, {"chips": chips})
    program = torch.export.load(folder / "model.pt2").module()
    with torch.no_grad():
        again = program(torch.from_numpy(chips)).numpy()
    for found in (logits, again):
        assert np.isfinite(found).all()
        assert np.abs(found - made.run.logits[:20]).max() < 1e-4
    assert json.loads((folder / "parity.json").read_text())["onnx_from_torch_share"] <= 1e-5
    assert f"{made.nodata} is nodata and becomes the mean" in (folder / "MODEL_CARD.md").read_text()


@pytest.mark.slow
def test_the_audit_lists_chips_with_nodata_and_the_report_is_made(made: SimpleNamespace) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        findings = findings_of(made.store, split_rule="course", exclusive=())
        page = report(made.run.path, compare=(), class_name=None, store_path=None)
    gone = missing(made.chips.values, made.nodata)
    assert findings["Only nodata"].chips.tolist() == [[EMPTY]]
    partly = np.flatnonzero(gone.any(axis=(1, 2, 3)) & ~gone.all(axis=(1, 2, 3)))
    assert findings["Partly nodata"].chips[:, 0].tolist() == partly.tolist()
    reason = findings["Partly nodata"].reasons[partly.tolist().index(NO_BAND)]
    assert f"{made.store.layout.bands[1]} 100 %" in reason
    assert not len(findings["Constant"].chips)
    assert not len(findings["Partly empty"].chips)
    text = (made.folder / "chips.zarr.audit" / "audit.html").read_text()
    assert "images show nodata in magenta" in text
    assert "Nodata is magenta." in page.read_text()


def test_features_are_those_of_the_valid_pixels(made: SimpleNamespace) -> None:
    features = read_features(made.store)
    wide = as_nan(made.chips.values, made.nodata)
    some = ~np.isnan(wide).all(axis=(2, 3))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN")
        low, high = np.nanmin(wide, axis=(2, 3)), np.nanmax(wide, axis=(2, 3))
    assert np.array_equal(features.low[some], low[some])
    assert np.array_equal(features.high[some], high[some])
    assert np.array_equal(features.at_high, (wide == high[:, :, None, None]).sum(axis=(2, 3)))
    assert np.array_equal(features.empty, (wide == 0).all(axis=1).sum(axis=(1, 2)))
    assert np.isfinite(features.thumbnail).all()
    assert not features.thumbnail[EMPTY].any()


def test_pictures_show_nodata_in_magenta_and_stretch_the_rest(made: SimpleNamespace) -> None:
    (picture,) = pictures(made.store, np.array([[7]]), ImageBudget(blocks=1))
    assert picture is not None
    for png, bands in ((picture.colour, [2, 1, 0]), (picture.nir, [3])):
        shown = np.asarray(Image.open(BytesIO(png)))
        values = made.chips.values[7][bands]
        gone = missing(values, made.nodata).any(axis=0)
        assert (shown[gone] == NODATA_COLOUR).all()
        wide = as_nan(values, made.nodata)
        low, high = np.nanpercentile(wide, (1, 99), axis=(1, 2), keepdims=True)
        stretched = np.rint(np.clip((wide - low) / (high - low), 0, 1) * 255)[:, ~gone]
        assert np.array_equal(shown[~gone].T, np.broadcast_to(stretched, (3, stretched.shape[1])))


def test_a_chip_of_nodata_only_is_magenta_and_one_without_nodata_is_stretched_as_ever() -> None:
    values = np.random.default_rng(0).normal(size=(2, 3, 20, 20)).astype(np.float32)
    assert np.array_equal(stretch_valid(values, "nan"), stretch(values))
    values[:] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = stretch_valid(values, "nan")
    assert (np.moveaxis(shown, 1, -1) == NODATA_COLOUR).all()
