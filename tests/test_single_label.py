"""Chips with exactly one class each: accuracy and confusion matrix are scikit-learn's, from class folders on."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.chips import conversion, smooth
from helpers.commands import here, train
from helpers.made_scores import resamples
from helpers.pages import Page
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, balanced_accuracy_score, classification_report, confusion_matrix
from tifffile import imwrite
from tiny import tiny_networks

from analysis.finished_run import load_run
from analysis.single_label import has_one_class, single_label
from preprocess.convert import convert


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(0, 2**32))
def test_accuracy_and_confusion_are_scikit_learns(classes: list[int], seed: int) -> None:
    truth = np.array(classes)
    labels = np.eye(5, dtype=np.uint8)[truth]
    logits = np.random.default_rng(seed).normal(size=labels.shape) + labels
    result = single_label(labels, logits, num_resamples=50)
    predicted = logits.argmax(axis=1)
    assert result.accuracy == accuracy_score(truth, predicted)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true|A single label was found")
        assert result.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, predicted), abs=1e-12)
    assert np.array_equal(result.confusion, confusion_matrix(truth, predicted, labels=range(5)))
    resampled = [accuracy_score(truth, predicted, sample_weight=row) for row in resamples(len(labels), 50)]
    assert result.interval == pytest.approx(np.percentile(resampled, (2.5, 97.5)), abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([[1, 0], [0, 1]], True), ([[1, 0], [1, 1]], False), ([[1, 0], [0, 0]], False), ([[1], [1]], False),
    ],
)  # fmt: skip
def test_one_class_per_chip_is_recognised(labels: list[list[int]], expected: bool) -> None:
    assert has_one_class(np.array(labels, np.uint8)) is expected


def write_class_folders(folder: Path, classes: dict[str, int], bands: int = 4) -> None:
    rng = np.random.default_rng(0)
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for index in range(1, count + 1):
            chip = np.moveaxis(smooth(rng, (bands, 32, 32), "uint16"), 0, -1)
            imwrite(folder / name / f"{name}_{index}.tif", chip, photometric="minisblack", planarconfig=1)


def test_class_folders_go_from_the_folder_to_a_report_with_accuracy(tmp_path: Path, empty_figures: None) -> None:
    write_class_folders(tmp_path / "sat", {"Forest": 16, "River": 16, "SeaLake": 12})
    store, run = tmp_path / "s.zarr", tmp_path / "run"
    convert(
        conversion(data=tmp_path / "sat", labels=Path("folders"), store=store, bands=("blue", "green", "red", "nir"))
    )
    with tiny_networks():
        ended = train(store, run, "EPOCHS=1", "BATCH=8")
        assert ended.returncode == 0, ended.stderr
    assert here("analysis", "report", f"RUN={run}").returncode == 0
    page, loaded = Page(run / "report" / "report.html"), load_run(run)
    truth, predicted = loaded.labels.argmax(axis=1), loaded.logits.argmax(axis=1)
    assert f"accuracy {accuracy_score(truth, predicted):.4f}" in " ".join(page.text.split()).lower()
    tables = run / "report" / "tables"
    confusion = pd.read_csv(tables / "confusion.csv", index_col="chips with")
    assert confusion.columns.tolist() == confusion.index.tolist() == ["Forest", "River", "SeaLake"]
    assert np.array_equal(confusion.to_numpy(), confusion_matrix(truth, predicted, labels=range(3)))
    each = pd.read_csv(tables / "accuracy.csv", index_col="class")
    expected = classification_report(
        truth, predicted, labels=range(3), target_names=list(loaded.classes), output_dict=True, zero_division=np.nan
    )
    for name in loaded.classes:
        assert each.loc[name, "recall"] == pytest.approx(expected[name]["recall"], nan_ok=True)
        assert each.loc[name, "precision"] == pytest.approx(expected[name]["precision"], nan_ok=True)
        assert each.loc[name, "F1"] == pytest.approx(expected[name]["f1-score"], nan_ok=True)
    wrong = pd.read_csv(tables / "most_confused.csv")
    assert wrong["chips"].sum() == (truth != predicted).sum()


def test_the_audit_compares_a_store_with_its_class_folders(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "sat", {"Forest": 4, "River": 4, "SeaLake": 4})
    store = tmp_path / "s.zarr"
    convert(conversion(data=tmp_path / "sat", labels=Path("folders"), store=store))
    ended = here("analysis", "audit", f"STORE={store}", f"LABELS={tmp_path / 'sat'}")
    assert ended.returncode == 0, ended.stderr
    assert "Tags differ from the CSV: none" in ended.stdout
    (tmp_path / "sat/River/River_1.tif").unlink()
    ended = here("analysis", "audit", f"STORE={store}", f"LABELS={tmp_path / 'sat'}")
    assert "expected a row for every chip of the store, found none for 1 (for example River/River_1)" in ended.stderr
    csv = tmp_path / "t.csv"
    csv.write_text("image_name,tags\n")
    ended = here("analysis", "audit", f"STORE={store}", f"LABELS={csv}")
    assert ended.returncode == 2
    assert "expected the folder of class folders that the store was made from" in ended.stderr
