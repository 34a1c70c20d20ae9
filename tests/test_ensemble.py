"""`make ensemble`: mean logits of runs, and TTA, as folders that the other commands read like a run's."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.chips import to_store, write_chips
from helpers.commands import here, train
from helpers.trained import saved_scores, scores_of
from run_files import read_arrays
from safetensors.torch import load_file
from scipy.special import expit
from sklearn.metrics import average_precision_score
from tiny import tiny_net, tiny_networks

from analysis.finished_run import load_run
from analysis.saved_model import inputs_of
from pipeline.loader import eval_loader
from preprocess.splits import make_split


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    with tiny_networks():
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Three runs with other bands, crops and seeds on one store; their mean, that with TTA, and TTA of the first."""
    folder = tmp_path_factory.mktemp("ensemble")
    chips = write_chips(folder / "tif", count=80, height=16, width=16)
    store = to_store(chips, folder / "chips.zarr")
    runs = [folder / name for name in ("a", "b", "c")]
    with tiny_networks():
        for run, task, words in zip(
            runs, (1, 4, 3), (["TEST_BATCH=12"], ["CROP_SHARE=1", "SEED=1"], ["SEED=2"]), strict=True
        ):
            ended = train(store.path, run, "EPOCHS=1", *words, task=task)
            assert ended.returncode == 0, ended.stderr
        names = ",".join(map(str, runs))
        ended = here("", "ensemble", f"RUNS={names}", f"OUT={folder / 'mean'}")
        assert ended.returncode == 0, ended.stderr
        for words in ([f"RUNS={names}", "TTA=1", f"OUT={folder / 'mean-tta'}"], [f"RUNS={runs[0]}", "TTA=1"]):
            assert here("", "ensemble", *words, "GPU=cpu").returncode == 0
    return SimpleNamespace(folder=folder, store=store, runs=runs, printed=ended.stdout, chips=chips)


def refused(*words: object) -> str:
    ended = here("", *words)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended
    return ended.stderr


def mean_ap(labels: np.ndarray, logits: np.ndarray) -> float:
    present = labels.any(axis=0)
    return float(
        np.mean([average_precision_score(y, s) for y, s, has in zip(labels.T, logits.T, present, strict=True) if has])
    )


def test_an_ensemble_is_the_mean_of_the_saved_logits(made: SimpleNamespace) -> None:
    saved = [read_arrays(run) for run in made.runs]
    total = sum(arrays["logits"].astype(np.float64) for arrays in saved)
    expected = (total / 3).astype(np.float32)
    arrays = read_arrays(made.folder / "mean")
    assert np.array_equal(arrays["logits"], expected)
    assert np.array_equal(arrays["preds"], expit(expected.astype(np.float64)))
    assert arrays["mAP"] == mean_ap(saved[0]["labels"], expected.astype(np.float64))
    for name in ("labels", "fnames", "classes"):
        assert np.array_equal(arrays[name], saved[0][name])


def test_tta_equals_a_loop_of_numpy_and_torch_to_the_bit(made: SimpleNamespace) -> None:
    run = load_run(made.runs[0])
    split = make_split("course", made.store)
    net = tiny_net("resnet18", 3, 3)
    net.load_state_dict(load_file(run.path / "model.safetensors"))
    net.eval()
    torch.set_num_threads(run.made_with.machine.threads)
    loader = eval_loader(
        made.store, split.test, inputs_of(run, made.store), batch_size=12, crop=(14, 14), device=torch.device("cpu"),
        dtype=torch.float32,
    )  # fmt: skip
    rows = []
    with torch.inference_mode():
        for batch in loader.epoch(0):
            chips = batch.images_nchw.numpy()
            total = np.zeros(1, np.float32)
            for base in (chips, np.flip(np.rot90(chips, 1, (2, 3)), 2)):  # the second is the transpose
                for view in (base, np.flip(base, 2), np.flip(base, 3), np.rot90(base, 2, (2, 3))):
                    images = torch.from_numpy(view.copy()).contiguous(memory_format=torch.channels_last)
                    total = total + net(images).numpy()
            rows.append((total / np.float32(8))[: batch.num_valid])
    assert np.array_equal(read_arrays(made.folder / "a-tta")["logits"], np.concatenate(rows))


def test_an_ensemble_with_tta_is_the_mean_of_its_runs_with_tta(made: SimpleNamespace, tmp_path: Path) -> None:
    logits = []
    for run in made.runs:
        assert here("", "ensemble", f"RUNS={run}", "TTA=1", f"OUT={tmp_path / run.name}").returncode == 0
        logits.append(read_arrays(tmp_path / run.name)["logits"].astype(np.float64))
    expected = (sum(logits) / 3).astype(np.float32)
    assert np.array_equal(read_arrays(made.folder / "mean-tta")["logits"], expected)
    assert not np.array_equal(read_arrays(made.folder / "mean")["logits"], expected)


def test_the_order_of_the_runs_changes_no_score(made: SimpleNamespace, tmp_path: Path) -> None:
    names = ",".join(str(run) for run in reversed(made.runs))
    assert here("", "ensemble", f"RUNS={names}", f"OUT={tmp_path / 'out'}").returncode == 0
    assert np.array_equal(read_arrays(tmp_path / "out")["logits"], read_arrays(made.folder / "mean")["logits"])


@pytest.mark.parametrize("name", ["mean", "mean-tta", "a-tta"])
def test_reproduce_finds_the_same_scores_to_the_bit(made: SimpleNamespace, name: str) -> None:
    ended = here("", "reproduce", f"RUN={made.folder / name}")
    assert ended.returncode == 0, ended.stderr
    assert f"{made.folder / name}: BIT-IDENTICAL" in ended.stdout


def test_reproduce_with_tta_checks_the_tta_scores_of_a_run(made: SimpleNamespace) -> None:
    ended = here("", "reproduce", f"RUN={made.runs[0]}", "TTA=1")
    assert ended.returncode == 0, ended.stderr
    assert f"{made.folder / 'a-tta'}: BIT-IDENTICAL" in ended.stdout
    assert f"make ensemble RUNS={made.runs[1]} TTA=1" in refused("reproduce", f"RUN={made.runs[1]}", "TTA=1")


@pytest.mark.parametrize("name", ["mean", "mean-tta", "a-tta"])
def test_predict_gives_the_test_chips_their_saved_scores(made: SimpleNamespace, name: str, tmp_path: Path) -> None:
    run = load_run(made.folder / name)
    (tmp_path / "new").mkdir()
    for chip in run.names:
        shutil.copy(made.chips.folder / f"{chip}.tif", tmp_path / "new")
    out = tmp_path / "out.csv"
    ended = here("", "predict", f"RUN={run.path}", f"DATA={tmp_path / 'new'}", f"OUT={out}", "GPU=cpu")
    assert ended.returncode == 0, ended.stderr
    assert scores_of(out) == saved_scores(run)
