"""Exported networks take raw chips and give the run's logits."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import pytest
import tifffile
import torch
from helpers.chips import to_store, write_chips
from helpers.commands import train

from analysis.export import _parity_chips, export
from analysis.finished_run import Run, load_run
from preprocess.zarr_store import open_store


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which then returns its first result for every call."""
    results: list[Any] = []

    def call(*arguments: Any, **more: Any) -> Any:
        if not results:
            results.append(function(*arguments, **more))
        return results[0]

    return call


@pytest.fixture(scope="module", autouse=True)
def conversions() -> Iterator[None]:
    """All exports here have the same network. It is converted once, because this takes 10 s of CPU time."""
    with (
        mock.patch.object(torch.export, "export", once(torch.export.export)),
        mock.patch.object(torch.onnx, "export", once(torch.onnx.export)),
    ):
        yield


@pytest.fixture(scope="module")
def run(conversions: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Task 3 selects and reorders bands: R, G, B and NIR from files with B, G, R, NIR."""
    chips = write_chips(tmp_path_factory.mktemp("export") / "tif", count=120, height=40, width=32)
    folder = chips.folder.parent
    to_store(chips, folder / "chips.zarr")
    ended = train(folder / "chips.zarr", folder / "run", "EPOCHS=1", "CROP=28", task=3)
    assert ended.returncode == 0, ended.stderr
    export(folder / "run", store_path=None)
    return load_run(folder / "run")


def raw(run: Run, names: list[str]) -> np.ndarray:
    return np.stack([np.moveaxis(tifffile.imread(run.path.parent / "tif" / f"{name}.tif"), -1, 0) for name in names])


@pytest.mark.parametrize("count", [1, 7, 40])
def test_raw_chips_give_the_saved_logits(run: Run, count: int) -> None:
    chips = raw(run, run.names[:count].tolist())
    session = onnxruntime.InferenceSession(run.path / "export/model.onnx", providers=["CPUExecutionProvider"])
    assert (session.get_inputs()[0].type, session.get_inputs()[0].shape[1:]) == ("tensor(uint16)", [4, 40, 32])
    (logits,) = session.run(None, {"chips": chips})
    program = torch.export.load(run.path / "export/model.pt2").module()
    with torch.no_grad():
        again = program(torch.from_numpy(chips)).numpy()
    for found in (logits, again):
        assert found.dtype == np.float32
        assert np.abs(found - run.logits[:count]).max() < 1e-4


def test_the_files_contain_what_a_user_must_know(run: Run) -> None:
    model = onnx.load(run.path / "export/model.onnx")
    known = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(known["classes"]) == ["a", "b", "c"]
    assert json.loads(known["bands"]) == ["blue", "green", "red", "nir"]
    assert known["model_sha256"] == run.made_with.model_sha256
    assert not list((run.path / "export").glob("*.data"))
    card = (run.path / "export/MODEL_CARD.md").read_text()
    parity = json.loads((run.path / "export/parity.json").read_text())
    assert parity["chips"] == 120
    assert max(parity["onnx_from_torch"], parity["export_from_torch"]) <= 1e-5
    share = parity["onnx_from_torch"] / max(1, parity["largest_logit"])
    assert parity["onnx_from_torch_share"] == share
    logits = np.abs(run.logits).max()
    assert parity["largest_logit"] >= logits - 1e-4
    for word in (f"{run.mean_ap:.4f}", "(batch, 4, 40, 32) uint16", "| 2 | c |", "make train TASK=3", "optimistic"):
        assert word in card


def test_the_names_in_the_store_are_read_once(run: Run) -> None:
    store, reads = open_store(run.path.parent / "chips.zarr"), []
    counting = replace(store, read=lambda name: reads.append(name) or store.read(name))
    names = run.names[:3].tolist()
    chips = _parity_chips(counting, names)
    assert reads == ["names"]
    assert store.names[chips[:3]].tolist() == names
    assert sorted(chips.tolist()) == list(range(120))
    assert chips[3:].tolist() == sorted(chips[3:].tolist())


def test_other_weights_and_other_stores_are_refused(run: Run, tmp_path: Path, refused: Callable) -> None:
    other = shutil.copytree(run.path, tmp_path / "run")
    chips = write_chips(tmp_path / "tif", count=20, seed=3)
    store = to_store(chips, tmp_path / "other.zarr")
    assert "expected the store with fingerprint" in refused(lambda: export(other, store_path=store.path))
    from safetensors.torch import load_file, save_file

    weights = load_file(other / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, other / "model.safetensors")
    assert "expected the weights that made the saved scores" in refused(lambda: export(other, store_path=None))


@pytest.mark.parametrize("again", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_refused_export_keeps_the_earlier_one(run: Run, tmp_path: Path, refused: Callable, again: bool) -> None:
    other = shutil.copytree(run.path, tmp_path / "run")
    if not again:
        shutil.rmtree(other / "export")
    (other / "export.partial").mkdir()
    (other / "export.partial/model.onnx").write_text("of an export that was killed")
    before = {path.name: path.read_bytes() for path in (other / "export").glob("*")}
    with mock.patch("analysis.export.MAX_DIFFERENCE", -1.0):
        text = refused(lambda: export(other, store_path=None))
    assert "Nothing was exported" in text
    assert before == {path.name: path.read_bytes() for path in (other / "export").glob("*")}
    assert (other / "export").exists() == again
    assert not (other / "export.partial").exists()
