"""The page of the report shows exactly the numbers of the run and the pixels of the store."""

import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tifffile
from helpers.chips import Chips
from helpers.made_runs import write_run
from helpers.pages import Page
from PIL import Image
from run_files import read_arrays, rewrite
from sklearn.metrics import average_precision_score

from analysis import plots
from analysis.curves import draw_curves
from analysis.finished_run import load_run, loss_title
from analysis.report import report
from preprocess.setting_specs import specs
from preprocess.zarr_store import Store
from train.config import Config

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def made(session_store: Store, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("runs")
    run = write_run(folder / "one", session_store)
    others = (
        write_run(folder / "two", session_store, seed=1, skill=0.5),
        write_run(folder / "three", session_store, seed=2),
    )
    path = report(run, compare=others, class_name=None, store_path=None)
    return SimpleNamespace(run=run, others=others, path=path, page=Page(path), folder=path.parent)


def test_the_page_is_one_small_file_that_loads_no_other(made: SimpleNamespace) -> None:
    text = made.path.read_text()
    assert made.page.outside == []
    assert {"tables/classes.csv", "tables/thresholds.csv", "tables/top_losses.csv"} <= set(made.page.links)
    assert all((made.folder / link).is_file() for link in made.page.links)
    assert "<script" not in text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert made.path.stat().st_size < 10e6
    assert len(made.page.ids) == len(set(made.page.ids))
    links = re.findall(r'(?:url\(#|href="#)([^")]+)', text)
    assert links
    assert set(links) <= set(made.page.ids)


def test_every_figure_has_a_title_and_a_png(made: SimpleNamespace) -> None:
    names = sorted(path.stem for path in (made.folder / "figures").iterdir())
    shown = sorted(re.findall(r'aria-label="([^"]+)"', made.path.read_text()))
    assert [name.replace("_", " ") for name in names] == shown
    assert {"loss", "map", "tail_accuracy", "class_ap", "calibration", "scores", "difference_two"} <= set(names)
    for name in names:
        with Image.open(made.folder / "figures" / f"{name}.png") as picture:
            assert picture.width > 500


@pytest.mark.parametrize("loss", specs(Config)["loss"].choices)
def test_every_loss_has_a_title(made: SimpleNamespace, tmp_path: Path, loss: str) -> None:
    run = shutil.copytree(made.run, tmp_path / "run")
    rewrite(run, both=lambda values: values["config"].update(loss=loss))
    assert draw_curves(run).stat().st_size > 0
    title = plots.curve(load_run(run), "loss").axes[0].get_title()
    assert title == f"Loss ({loss_title(loss)}) after each epoch"


def test_images_show_the_pixels_of_the_chips_with_extreme_scores(
    made: SimpleNamespace, session_chips: Chips, session_store: Store
) -> None:
    run = load_run(made.run)
    best_class = int(np.nanargmax(run.ap))
    column = run.logits[:, best_class].tolist()
    for word, sign, first in (("highest", -1, 0), ("lowest", 1, 20)):
        expected = [name for _, name in sorted((sign * v, n) for v, n in zip(column, run.names.tolist(), strict=True))][
            :10
        ]
        frame = pd.read_csv(made.folder / "tables" / f"{word}_{run.classes[best_class]}.csv")
        assert frame["image_name"].tolist() == expected
        shown = made.page.pictures[first : first + 20]
        assert [alt for alt, _ in shown] == [alt for name in expected for alt in (name, f"{name}, near infrared")]
        files = np.stack([tifffile.imread(session_chips.folder / f"{name}.tif") for name in expected])  # B, G, R, NIR
        bytes_of = np.empty(files.shape, np.uint8)
        for band in range(4):
            low, high = np.percentile(files[..., band], [1, 99])
            bytes_of[..., band] = np.rint(np.clip((files[..., band] - low) / (high - low), 0, 1) * 255)
        for index in range(10):
            colour, nir = (np.asarray(Image.open(io.BytesIO(png))) for _, png in shown[2 * index : 2 * index + 2])
            assert np.array_equal(colour, bytes_of[index][..., [2, 1, 0]])
            assert np.array_equal(nir, bytes_of[index][..., 3])  # grey, which takes a third of the bytes
    assert frame["logit"].iloc[0] == min(column)


def test_the_numbers_on_the_page_equal_those_of_the_scores(made: SimpleNamespace) -> None:
    run = load_run(made.run)
    assert f"test mAP {run.mean_ap:.4f}" in made.page.text
    frame = pd.read_csv(made.folder / "tables" / "classes.csv")
    assert frame["class"].tolist() == list(run.classes)
    assert np.array_equal(frame["AP"].to_numpy(), run.ap, equal_nan=True)
    assert frame["positives"].tolist() == run.labels.sum(axis=0).tolist()
    has_ap = frame["AP"].notna()
    assert (frame["low"][has_ap] <= frame["AP"][has_ap]).all()
    assert (frame["AP"][has_ap] <= frame["high"][has_ap]).all()
    assert has_ap.tolist() == [True, True, False]
    for word in ("two (task 1) compared with one (task 1): mAP -", "one (task 1) is better",
                 "make train TASK=1", "EPOCHS=2", "abc+changes",
                 "Not tried yet", "optimistic", "leaks from train to test"):  # fmt: skip
        assert word in made.page.text
    frame = pd.read_csv(made.folder / "tables" / "comparison.csv")
    assert frame["two"].tolist()[-1] == load_run(made.others[0]).mean_ap


def test_the_same_run_gives_the_same_bytes(made: SimpleNamespace, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}
    report(made.run, compare=made.others, class_name=None, store_path=None)
    assert before == {path.name: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("empty_figures")
def test_the_verdict_of_reproduce_is_shown_and_marked_if_it_is_stale(made: SimpleNamespace, tmp_path: Path) -> None:
    run = shutil.copytree(made.run, tmp_path / "run")
    (run / "reproduce.csv").write_text("class,ap_saved,ap_again\na,0.5,0.5\n")
    for digest, stale in (("f" * 64, False), ("0" * 64, True)):
        verdict = {"reproduced": True, "text": "run: BIT-IDENTICAL.", "model_sha256": digest}
        (run / "reproduce.json").write_text(json.dumps(verdict))
        page = Page(report(run, compare=(), class_name="b", store_path=None))
        assert "BIT-IDENTICAL" in page.text
        assert ("earlier weights" in page.text) == stale
        assert "Comparison" not in page.text
        assert "highest scores of b" in page.text


@pytest.mark.usefixtures("empty_figures")
def test_a_report_without_its_store_has_no_images_and_says_why(
    made: SimpleNamespace, tmp_path: Path, uint8_store: Store, refused: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(made.run, tmp_path / "run")
    rewrite(run, made=lambda values: values["config"].update(store=str(tmp_path / "gone.zarr")))
    page = Page(report(run, compare=(), class_name=None, store_path=None))
    assert page.pictures == []
    assert "No images: " in page.text
    assert "gone.zarr" in capsys.readouterr().out
    text = refused(lambda: report(run, compare=(), class_name=None, store_path=uint8_store.path))
    assert "expected the store with fingerprint" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"AP": np.array([0.25, 0.75, np.nan]), "mAP": np.array(0.5)},
            "the saved AP does not follow from the saved scores",
        ),
        ({"logits": np.zeros((3, 3))}, "expected finite logits"),
        ({"classes": np.array(["a"])}, "and a name for each"),
        ({"labels": None}, "labels is not there"),
        ({"mAP": np.array(0.9)}, "the saved mAP does not follow from the saved scores"),
        ({"preds": np.full((99, 3), 0.5)}, "the saved preds does not follow from the saved scores"),
        ({"testperfs": np.full((2, 3), 0.5)}, "results.npz and metrics.jsonl: epoch 1 differs between them"),
    ],
)
def test_inconsistent_scores_are_refused(
    made: SimpleNamespace, tmp_path: Path, refused: Callable, change: dict, message: str
) -> None:
    run = shutil.copytree(made.run, tmp_path / "run")
    rewrite(run, arrays=change)
    assert message in refused(lambda: load_run(run))


@pytest.mark.parametrize("key", ["machine", "machine.threads", "split.epoch_chosen_on", "model_sha256"])
def test_scores_without_a_field_of_depends_on_are_refused(
    made: SimpleNamespace, tmp_path: Path, refused: Callable, key: str
) -> None:
    run = shutil.copytree(made.run, tmp_path / "run")
    first, _, second = key.partition(".")
    rewrite(run, made=lambda values: (values[first] if second else values).pop(second or first))
    text = refused(lambda: report(run, compare=(), class_name=None, store_path=None))
    assert text == f"{run / 'results.npz'} depends_on: expected the field {key}, found none."


@pytest.mark.parametrize("where", ["run.json", "results.npz"])
def test_an_unknown_setting_is_one_line(made: SimpleNamespace, tmp_path: Path, refused: Callable, where: str) -> None:
    run = shutil.copytree(made.run, tmp_path / "run")
    rewrite(run, **{"record" if where == "run.json" else "made": lambda values: values["config"].update(warp=9)})
    for call in (lambda: draw_curves(run), lambda: report(run, compare=(), class_name=None, store_path=None)):
        text = refused(call)
        assert where in text
        assert "configuration: warp is not known" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "expected one line per epoch, found none"), ("1\n", "to be an object, found 1"), ("{\n", "expected JSON")],
)
def test_a_history_without_epochs_is_one_line(
    made: SimpleNamespace, tmp_path: Path, refused: Callable, content: str, message: str
) -> None:
    run = shutil.copytree(made.run, tmp_path / "run")
    (run / "metrics.jsonl").write_text(content)
    for call in (lambda: draw_curves(run), lambda: report(run, compare=(), class_name=None, store_path=None)):
        text = refused(call)
        assert "metrics.jsonl" in text
        assert message in text


@pytest.mark.usefixtures("empty_figures")
def test_only_the_files_of_an_earlier_report_are_removed(made: SimpleNamespace, tmp_path: Path) -> None:
    run = shutil.copytree(made.run, tmp_path / "run")
    shutil.rmtree(run / "report", ignore_errors=True)
    report(run, compare=(made.others[0],), class_name="a", store_path=None)
    folder = run / "report"
    (folder / "tables/mine.txt").write_text("x")
    (folder / "notes.csv").write_text("x")
    assert (folder / "figures/difference_two.png").exists()
    report(run, compare=(), class_name="b", store_path=None)
    assert not list(folder.rglob("*two*"))
    assert not list(folder.rglob("*_a.csv"))
    assert (folder / "tables/highest_b.csv").exists()
    assert (folder / "tables/mine.txt").exists()
    assert (folder / "notes.csv").exists()


def test_axes_have_names_and_chance_is_shown_beside_ap(made: SimpleNamespace) -> None:
    run = load_run(made.run)
    low = np.zeros(3)
    bars = plots.ap_bars(run, low, low, np.arange(3))
    chance = run.positives / len(run.labels)
    grouped = plots.grouped_bars(run.classes, [("_x", low), ("y", low)], "", "AP", chance)
    rows = plots.differences([("a", 0.1, 0.0, 0.2)], "")
    assert [figure.axes[0].get_ylabel() for figure in (bars, grouped, rows)] == ["class (positives)", "class", "class"]
    assert [text.get_text() for text in grouped.legends[0].get_texts()] == ["_x", "y", "chance"]
    assert grouped.axes[0].lines[0].get_xdata().tolist() == chance.tolist()
    frame = pd.read_csv(made.folder / "tables/comparison.csv")
    assert frame["chance"].tolist()[:3] == chance.tolist()
    assert frame["chance"].iloc[3] == chance[:2].mean()


def test_no_mathtext_is_written_out(made: SimpleNamespace) -> None:
    assert "$" not in made.path.read_text()


def test_runs_that_cannot_be_compared_are_refused(
    made: SimpleNamespace, tmp_path: Path, refused: Callable, session_store: Store
) -> None:
    other = shutil.copytree(made.others[0], tmp_path / "other")
    arrays = read_arrays(other)

    def compare(**changed: np.ndarray) -> str:
        rewrite(other, arrays={**arrays, **changed, "depends_on": None})
        return refused(lambda: report(made.run, compare=(other,), class_name=None, store_path=None))

    renamed = arrays["fnames"].copy()
    renamed[0] = "elsewhere"
    assert "Compare runs of the same STORE and SPLIT" in compare(fnames=renamed)
    swapped = arrays["labels"][:, [1, 0, 2]]
    ap = _ap(swapped, arrays["logits"])
    assert "expected the labels of" in compare(labels=swapped, AP=ap, mAP=np.nanmean(ap))
    renamed_classes = write_run(tmp_path / "renamed", replace(session_store, classes=("a", "b", "x")))
    assert "expected the classes a, b, c, found a, b, x" in refused(
        lambda: report(made.run, compare=(renamed_classes,), class_name=None, store_path=None)
    )
    assert "different names" in refused(lambda: report(made.run, compare=(made.run,), class_name=None, store_path=None))
    assert "found no run.json" in refused(lambda: load_run(tmp_path))


def _ap(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    return np.array(
        [average_precision_score(labels[:, c], logits[:, c].astype(float)) if labels[:, c].any() else np.nan
         for c in range(labels.shape[1])]
    )  # fmt: skip
