"""Runs on int16 and float32 chips: bad values, the exported files, audit and report. Scores: test_matrix.py."""

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
from helpers.audits import findings_of
from helpers.chips import BANDS, to_store, write_chips
from helpers.trained import saved_scores, scores_of, train_once
from tiny import tiny_networks

from analysis.export import export
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
        run = train_once(folder, chips.folder, "CROP=28", task=3)
        made[dtype] = SimpleNamespace(dtype=dtype, chips=chips, folder=folder, store=store, run=run)
    return made


@pytest.fixture(params=list(ONNX_TYPE))
def trained(request: pytest.FixtureRequest, both: dict[str, SimpleNamespace]) -> SimpleNamespace:
    return both[request.param]


def write_tiff(path: Path, values: np.ndarray) -> None:
    tifffile.imwrite(path, values, photometric="minisblack", planarconfig=1)


def test_predict_names_values_that_are_not_finite(both: dict[str, SimpleNamespace], tmp_path: Path) -> None:
    trained = both["float32"]
    bad = trained.run.names[3]
    values = tifffile.imread(trained.folder / "new" / f"{bad}.tif")
    values[0, 1, 2] = np.nan
    data = shutil.copytree(trained.folder / "new", tmp_path / "new")
    write_tiff(data / f"{bad}.tif", values)
    assert predict(trained.run.path, data, tmp_path / "scores.csv", bands=None, gpu="cpu", tta=False) == 1
    assert scores_of(tmp_path / "scores.csv") == {k: v for k, v in saved_scores(trained.run).items() if k != bad}
    (line,) = (tmp_path / "scores_bad.csv").read_text().splitlines()[1:]
    assert line.startswith(f"{bad},")
    assert "expected finite values, found 1 NaN and 0 infinite values" in line


@pytest.mark.slow  # exporting takes 10 s of CPU time
def test_the_exported_network_and_its_card_name_the_dtype(trained: SimpleNamespace) -> None:
    """Its logits: test_matrix.py."""
    folder = export(trained.run.path, store_path=None)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    assert (session.get_inputs()[0].type, session.get_inputs()[0].shape[1:]) == (ONNX_TYPE[trained.dtype], [4, 32, 40])
    assert json.loads((folder / "parity.json").read_text())["onnx_from_torch_share"] <= 1e-5
    assert f"(batch, 4, 32, 40) {trained.dtype}" in (folder / "MODEL_CARD.md").read_text()


@pytest.mark.slow
def test_audit_and_report_are_made_without_a_warning(trained: SimpleNamespace) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        findings = findings_of(trained.store, split_rule="course", exclusive=())
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
