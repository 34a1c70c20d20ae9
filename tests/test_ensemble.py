"""`make ensemble`: mean logits of runs, and TTA, as folders that the other commands read like a run's."""

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.chips import to_store, write_chips
from helpers.commands import here, train
from helpers.pages import Page
from helpers.trained import saved_scores, scores_of
from run_files import read_arrays, rewrite
from safetensors.torch import load_file
from scipy.special import expit
from sklearn.metrics import average_precision_score
from tiny import tiny_net, tiny_networks

from analysis import run_sections
from analysis.chip_sections import Artifacts
from analysis.figures import Figures
from analysis.finished_run import load_run
from analysis.page import Tables
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


@pytest.fixture
def copies(made: SimpleNamespace, tmp_path: Path) -> SimpleNamespace:
    """Copies of the first two runs, and their ensemble in OUT."""
    runs = [Path(shutil.copytree(run, tmp_path / run.name)) for run in made.runs[:2]]
    words = ["ensemble", f"RUNS={runs[0]},{runs[1]}", f"OUT={tmp_path / 'out'}"]
    return SimpleNamespace(runs=runs, words=words, out=tmp_path / "out", folder=tmp_path)


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


@pytest.mark.parametrize(("name", "scores"), [("a", "a-tta"), ("a-tta", "a-tta"), ("mean", "mean-tta")])
def test_reproduce_with_tta_checks_the_tta_scores_of_a_folder(made: SimpleNamespace, name: str, scores: str) -> None:
    ended = here("", "reproduce", f"RUN={made.folder / name}", "TTA=1")
    assert ended.returncode == 0, ended.stderr
    assert f"{made.folder / scores}: BIT-IDENTICAL" in ended.stdout


def test_reproduce_with_tta_names_the_command_that_makes_the_scores(made: SimpleNamespace) -> None:
    assert f"make ensemble RUNS={made.runs[1]} TTA=1" in refused("reproduce", f"RUN={made.runs[1]}", "TTA=1")


def test_reproduce_with_tta_takes_no_scores_of_another_run(made: SimpleNamespace, copies: SimpleNamespace) -> None:
    shutil.copytree(made.folder / "a-tta", copies.folder / "b-tta")
    assert "found scores of other runs" in refused("reproduce", f"RUN={copies.runs[1]}", "TTA=1")


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


@pytest.mark.parametrize("name", ["mean", "a-tta"])
def test_the_section_about_the_runs_has_a_row_for_each(made: SimpleNamespace, name: str, tmp_path: Path) -> None:
    artifacts = Artifacts(figures=Figures(folder=tmp_path / "figures"), tables=Tables(folder=tmp_path / "tables"))
    run = load_run(made.folder / name)
    run_sections.members(run, artifacts)
    with open(tmp_path / "tables" / "members.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    runs = made.runs if name == "mean" else made.runs[:1]
    assert [(Path(row["run"]), float(row["test_map"])) for row in rows] == [(r, load_run(r).mean_ap) for r in runs]
    assert [float(row.get("test_map_tta", "nan")) == run.mean_ap for row in rows] == [name == "a-tta"] * len(runs)
    assert run_sections.made_by(run).startswith(f"make ensemble RUNS={','.join(map(str, runs))}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mean", "a-tta"])
def test_a_report_shows_the_runs_in_place_of_learning_curves(made: SimpleNamespace, name: str) -> None:
    ended = here("", "report", f"RUN={made.folder / name}", f"COMPARE={made.runs[0]}")
    assert ended.returncode == 0, ended.stderr
    page = Page(made.folder / name / "report" / "report.html")
    members = made.runs if name == "mean" else made.runs[:1]
    assert {"members", "reproduction", "provenance"} <= set(page.ids)
    assert "curves" not in page.ids
    assert f"make ensemble RUNS={','.join(map(str, members))}" in page.text


def test_compare_prints_a_line_for_each_folder(made: SimpleNamespace) -> None:
    folders = [made.runs[0], made.folder / "a-tta", made.folder / "mean", made.folder / "mean-tta"]
    ended = here("", "compare", f"RUNS={','.join(map(str, folders))}")
    assert ended.returncode == 0, ended.stderr
    lines = [line.split("  ") for line in ended.stdout.splitlines() if line.startswith(str(made.folder))]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert [row[0] for row in cells] == [str(folder) for folder in folders]
    assert [row[1] for row in cells] == ["one run", "one run, TTA", "mean of 3 runs", "mean of 3 runs, TTA"]
    runs = [load_run(folder) for folder in folders]
    assert [row[2] for row in cells] == [f"{run.mean_ap:.4f}" for run in runs]
    assert [row[4] for row in cells[1:]] == [f"{run.mean_ap - runs[0].mean_ap:+.4f}" for run in runs[1:]]


@pytest.mark.parametrize(
    ("command", "words"),
    [("export", "one network"), ("curves", "no epochs"), ("train", "the run is done")],
)
def test_commands_that_need_one_network_refuse_an_ensemble(made: SimpleNamespace, command: str, words: str) -> None:
    setting = "RESUME" if command == "train" else "RUN"
    assert words in refused(command, f"{setting}={made.folder / 'mean'}")


def test_an_ensemble_can_be_moved_together_with_its_runs(copies: SimpleNamespace, tmp_path: Path) -> None:
    assert here("", *copies.words).returncode == 0
    (tmp_path / "moved").mkdir()
    for folder in (*copies.runs, copies.out):
        folder.rename(tmp_path / "moved" / folder.name)
    assert here("", "reproduce", f"RUN={tmp_path / 'moved' / 'out'}").returncode == 0


@pytest.mark.parametrize("command", ["reproduce", "predict"])
@pytest.mark.parametrize("change", ["missing", "other weights"])
def test_a_run_of_an_ensemble_that_is_missing_or_has_changed_is_named(
    copies: SimpleNamespace, made: SimpleNamespace, command: str, change: str
) -> None:
    assert here("", *copies.words).returncode == 0
    run = copies.runs[1]
    if change == "missing":
        run.rename(copies.folder / "elsewhere")
    else:
        shutil.copy(made.runs[2] / "model.safetensors", run)
    more = [f"DATA={made.chips.folder}", f"OUT={copies.folder / 'out.csv'}"] if command == "predict" else []
    text = refused(command, f"RUN={copies.out}", *more)
    assert text.startswith(f"error: {run}")
    assert ("missing" if change == "missing" else "expected the weights of") in text
    assert not (copies.folder / "out.csv").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"both": lambda values: values["store"].update(fingerprint="0" * 64)}, "expected store (fingerprint)"),
        ({"both": lambda values: values["split"].update(sha256="0" * 64)}, "expected split (sha256) "),
        ({"record": lambda values: values.update(state="stopped")}, "expected a run that is done"),
        ({"arrays": {"labels": 0}}, "labels of the test chips differ"),
        ({"arrays": {"fnames": 0}}, "names of the test chips differ"),
    ],
)  # fmt: skip
def test_runs_that_do_not_fit_each_other_are_refused(copies: SimpleNamespace, change: Any, words: str) -> None:
    run = copies.runs[1]
    if "arrays" in change:
        (name,) = change["arrays"]
        arrays = read_arrays(run)
        turned = np.roll(arrays[name], 1, axis=0)
        scores = arrays["logits"]
        if name == "labels":
            scores = np.roll(scores, 1, axis=0)  # so that AP stays
        change = {"arrays": {name: turned, "logits": scores, "preds": expit(scores.astype(np.float64))}}
    rewrite(run, **change)
    text = refused(*copies.words)
    assert words in text
    assert str(run) in text
    assert not copies.out.exists()


def test_other_weights_the_same_run_twice_and_ensembles_are_refused(copies: SimpleNamespace) -> None:
    a, b = copies.runs
    assert "expected different runs" in refused("ensemble", f"RUNS={a},{b},{a}", f"OUT={copies.out}")
    assert here("", *copies.words).returncode == 0
    assert "expected a trained run" in refused("ensemble", f"RUNS={a},{copies.out}", f"OUT={copies.folder / 'x'}")
    assert "exists already" in refused(*copies.words)
    assert "expected a folder that can be written" in refused(*copies.words[:2], f"OUT={a / 'run.json' / 'x'}")
    assert "TTA=1 evaluates one run" in refused("ensemble", f"RUNS={a}")
    assert "GPU has no effect without TTA=1" in refused("ensemble", f"RUNS={a},{b}", "GPU=cpu")
    shutil.copy(a / "model.safetensors", b)
    assert "expected the weights that made the saved scores" in refused("ensemble", f"RUNS={a},{b}", "OUT=x")


def test_an_altered_record_of_an_ensemble_is_refused(copies: SimpleNamespace) -> None:
    assert here("", *copies.words).returncode == 0
    path = copies.out / "run.json"
    path.write_text(path.read_text().replace('"tta": false', '"tta": true'))
    assert "evaluation changed since the run wrote it" in refused("report", f"RUN={copies.out}")
