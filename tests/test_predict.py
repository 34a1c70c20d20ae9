"""Scores of new TIFFs equal the run's own scores to the bit, also after interruptions and beside damaged files."""

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import tifffile
from helpers.chips import to_store, write_chips
from helpers.commands import train
from helpers.predictions import read, write_tiff
from run_files import rewrite

from analysis import block_scores, f2_thresholds, predict, prediction_files
from analysis.finished_run import load_run
from preprocess.files import locked


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run of Task 4 on whole chips without pooling, and a folder with the TIFFs of its test split."""
    chips = write_chips(tmp_path_factory.mktemp("predict") / "tif", count=120, height=32, width=32)
    folder = chips.folder.parent
    to_store(chips, folder / "chips.zarr")
    ended = train(
        folder / "chips.zarr", folder / "run", "EPOCHS=1", "POOL=auto", "CROP_SHARE=1", "TEST_BATCH=24",
        task=4,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    run = load_run(folder / "run")
    (folder / "new").mkdir()
    for name in run.names:
        shutil.copy(chips.folder / f"{name}.tif", folder / "new")
    return SimpleNamespace(run=run, folder=folder, new=folder / "new")


def score(
    trained: SimpleNamespace, data: Path, out: Path, *, tta: bool = False, bands: tuple[str, ...] | None = None
) -> int:
    return predict.predict(trained.run.path, data, out, bands=bands, gpu="cpu", tta=tta)


@pytest.fixture(scope="module")
def whole(trained: SimpleNamespace) -> Path:
    assert score(trained, trained.new, trained.folder / "whole.csv") == 0
    return trained.folder / "whole.csv"


def test_scores_equal_those_of_the_run_to_the_bit(trained: SimpleNamespace, whole: Path) -> None:
    found = read(whole)
    assert list(found) == sorted(trained.run.names.tolist())
    assert list(found) != trained.run.names.tolist()
    for name, saved in zip(trained.run.names.tolist(), trained.run.probabilities.tolist(), strict=True):
        assert found[name] == saved
    assert not (trained.folder / "whole.csv.partial").exists()
    assert not (trained.folder / "whole_bad.csv").exists()


def test_the_file_for_kaggle_uses_the_thresholds_of_the_report(trained: SimpleNamespace, whole: Path) -> None:
    run = trained.run
    tuning, _ = f2_thresholds.halves(len(run.labels))
    thresholds = f2_thresholds.tune(run.labels[tuning], run.logits[tuning]).values
    expected = {
        name: " ".join(run.classes[c] for c in range(3) if run.logits[row, c] > thresholds[c])
        for row, name in enumerate(run.names.tolist())
    }
    with open(whole.with_name("whole_submission.csv"), newline="") as file:
        found = {row["image_name"]: row["tags"] for row in csv.DictReader(file)}
    assert found == expected


@pytest.mark.parametrize("torn", [False, True])
def test_an_interrupted_prediction_resumes_and_writes_the_same_file(
    trained: SimpleNamespace, whole: Path, tmp_path: Path, torn: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.csv"
    logits, calls = block_scores.predict_logits, []

    def stop_at_the_second(*arguments: object, **more: object) -> object:
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(more["label"])
        return logits(*arguments, **more)  # type: ignore[arg-type]

    small = mock.patch.object(predict, "BLOCK_BATCHES", 1)
    with small, mock.patch.object(block_scores, "predict_logits", stop_at_the_second), pytest.raises(KeyboardInterrupt):
        score(trained, trained.new, out)
    assert not out.exists()
    if torn:
        block = tmp_path / "out.csv.partial" / "0.npz"
        block.write_bytes(block.read_bytes()[:100])
    with mock.patch.object(predict, "BLOCK_BATCHES", 1):
        assert score(trained, trained.new, out) == 0
    assert ("resuming: 1 of 2 blocks" in capsys.readouterr().out) == (not torn)
    assert out.read_bytes() == whole.read_bytes()


def test_blocks_of_other_bands_are_not_used(
    trained: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, turned = tmp_path / "out.csv", ("red", "green", "blue", "nir")
    stop = mock.patch.object(prediction_files, "CsvWriter", side_effect=KeyboardInterrupt)
    with stop, pytest.raises(KeyboardInterrupt):
        score(trained, trained.new, out)
    assert score(trained, trained.new, out, bands=turned) == 0
    assert "starting again" in capsys.readouterr().out
    assert score(trained, trained.new, tmp_path / "turned.csv", bands=turned) == 0
    assert out.read_bytes() == (tmp_path / "turned.csv").read_bytes()


def test_blocks_of_other_files_are_not_used(trained: SimpleNamespace, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "out.csv.partial").mkdir()
    (tmp_path / "out.csv.partial" / "settings.json").write_text("{}")
    count = len(trained.run.names)
    np.savez(tmp_path / "out.csv.partial" / "0.npz", logits=np.zeros((count, 3)), bad=np.array("{}"))
    assert score(trained, trained.new, tmp_path / "out.csv") == 0
    assert (tmp_path / "out.csv").read_bytes() == whole.read_bytes()


def test_bad_files_are_named_and_the_others_keep_their_scores(
    trained: SimpleNamespace, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(trained.new, tmp_path / "data")
    names = sorted(trained.run.names.tolist())
    bad = {names[0]: "not a TIFF", names[10]: "damaged", names[-1]: "(4, 8, 8) uint16"}
    (data / f"{names[0]}.tif").write_text("no picture")
    cut = data / f"{names[10]}.tif"
    cut.write_bytes(cut.read_bytes()[:3000])
    tifffile.imwrite(
        data / f"{names[-1]}.tif", np.zeros((8, 8, 4), np.uint16), photometric="minisblack", planarconfig=1
    )
    assert score(trained, data, tmp_path / "out.csv") == 3
    assert read(tmp_path / "out.csv") == {name: row for name, row in read(whole).items() if name not in bad}
    with open(tmp_path / "out_bad.csv", newline="") as file:
        reasons = {row["image_name"]: row["reason"] for row in csv.DictReader(file)}
    assert set(reasons) == set(bad)
    printed = capsys.readouterr().out
    for name, reason in bad.items():
        assert reason in reasons[name]
        assert f"bad: {data / name}.tif" in printed


def test_scores_do_not_depend_on_the_batch(trained: SimpleNamespace, whole: Path, tmp_path: Path) -> None:
    """A chip has the same scores beside other chips and at another position."""
    (tmp_path / "data" / "sub").mkdir(parents=True)
    names = sorted(trained.run.names.tolist())
    for index, name in enumerate(names[5:20]):
        shutil.copy(trained.new / f"{name}.tif", tmp_path / "data" / ("sub" if index % 2 else ".") / f"{name}.tif")
    assert score(trained, tmp_path / "data", tmp_path / "out.csv") == 0
    found, expected = read(tmp_path / "out.csv"), read(whole)
    assert {name.removeprefix("sub/"): row for name, row in found.items()} == {n: expected[n] for n in names[5:20]}


def run_without_store(trained: SimpleNamespace, folder: Path, chip: dict | None) -> SimpleNamespace:
    """The run with `chip` in its run.json. Its store no longer exists."""
    path = shutil.copytree(trained.run.path, folder / "run")

    def change(values: dict) -> None:
        values["inputs"].pop("chip", None)
        values["inputs"] |= {"chip": chip} if chip else {}

    rewrite(path, record=change, made=lambda values: values["config"].update(store=str(folder / "gone.zarr")))
    return SimpleNamespace(run=load_run(path))


CHIP = {"height": 32, "width": 32, "dtype": "uint16"}
BANDS = ("blue", "green", "red", "nir")


@pytest.mark.parametrize("gone", [False, True])
def test_if_every_file_is_bad_only_their_list_is_written_and_the_next_try_succeeds(
    trained: SimpleNamespace, whole: Path, tmp_path: Path, gone: bool, refused: Callable
) -> None:
    (tmp_path / "data").mkdir()
    for index in range(3):
        write_tiff(tmp_path / f"data/t_{index}.tif", np.full((32, 32, 4), index, np.uint8))
    run = run_without_store(trained, tmp_path, CHIP) if gone else trained
    (tmp_path / "scores").mkdir()
    out, bands = tmp_path / "scores/out.csv", BANDS if gone else None
    text = refused(lambda: score(run, tmp_path / "data", out, bands=bands))
    assert text.startswith(f"{out}: not written, because none of the 3 files could be used. ")
    assert [path.name for path in (tmp_path / "scores").iterdir()] == ["out_bad.csv"]
    with open(tmp_path / "scores/out_bad.csv", newline="") as file:
        reasons = {row["image_name"]: row["reason"] for row in csv.DictReader(file)}
    assert set(reasons) == {"t_0", "t_1", "t_2"}
    assert all("expected (4, 32, 32) uint16" in reason and "uint8" in reason for reason in reasons.values())
    assert score(run, trained.new, out, bands=bands) == 0
    assert read(out) == read(whole)
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == ["out.csv", "out_submission.csv"]


def test_a_first_file_of_another_size_is_the_only_bad_file(
    trained: SimpleNamespace, whole: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(trained.new, tmp_path / "data")
    write_tiff(data / "a_first.tif", np.zeros((16, 16, 4), np.uint16))
    assert score(trained, data, tmp_path / "out.csv") == 1
    assert read(tmp_path / "out.csv") == read(whole)
    with open(tmp_path / "out_bad.csv", newline="") as file:
        assert [row["image_name"] for row in csv.DictReader(file)] == ["a_first"]


def test_a_run_without_the_size_of_its_chips_uses_that_of_the_first_file(
    trained: SimpleNamespace, whole: Path, tmp_path: Path, refused: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = run_without_store(trained, tmp_path, None), tmp_path / "out.csv"
    assert "BANDS=blue,green,red,nir" in refused(lambda: score(run, trained.new, out))
    assert "2 bands (red, nir)" in refused(lambda: score(run, trained.new, out, bands=("red", "nir")))
    assert score(run, trained.new, out, bands=BANDS) == 0
    assert "using those of the first good file" in capsys.readouterr().out
    assert read(out) == read(whole)


def test_files_of_the_user_are_not_overwritten_and_old_results_are_removed(
    trained: SimpleNamespace, whole: Path, tmp_path: Path, refused: Callable
) -> None:
    out = tmp_path / "out.csv"
    (tmp_path / "out_submission.csv").write_text("mine")
    text = refused(lambda: score(trained, trained.new, out))
    assert "out_submission.csv exists" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out_submission.csv"]
    (tmp_path / "out_submission.csv").unlink()
    (tmp_path / "out_bad.csv").write_text("image_name,reason\nold,gone\n")
    assert score(trained, trained.new, out) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "out_submission.csv"]


def test_a_stop_between_the_two_files_can_be_resumed(trained: SimpleNamespace, whole: Path, tmp_path: Path) -> None:
    out, replace = tmp_path / "out.csv", os.replace

    def stop_before_out(source: Path, target: Path) -> None:
        if Path(target) == out:
            raise KeyboardInterrupt
        replace(source, target)

    with mock.patch("analysis.prediction_files.os.replace", stop_before_out), pytest.raises(KeyboardInterrupt):
        score(trained, trained.new, out)
    assert (tmp_path / "out_submission.csv").exists()
    assert score(trained, trained.new, out) == 0
    assert out.read_bytes() == whole.read_bytes()


def test_two_predictions_into_one_file_at_once_are_refused(
    trained: SimpleNamespace, tmp_path: Path, refused: Callable
) -> None:
    out = tmp_path / "out.csv"
    with locked(tmp_path / "out.csv.partial", "prediction"):
        assert "another prediction is writing it" in refused(lambda: score(trained, trained.new, out))
    begin = predict.locked

    def late(root: Path, work: str) -> object:
        out.write_text("another prediction's")
        return begin(root, work)

    with mock.patch.object(predict, "locked", late):
        assert "exists. Choose another OUT" in refused(lambda: score(trained, trained.new, out))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv"]


def test_bad_settings_and_folders_are_refused(
    trained: SimpleNamespace, whole: Path, tmp_path: Path, refused: Callable
) -> None:
    assert "exists. Choose another OUT" in refused(lambda: score(trained, trained.new, whole))
    out = tmp_path / "out.csv"
    assert "found nothing" in refused(lambda: score(trained, tmp_path / "none", out))
    (tmp_path / "data").mkdir()
    assert "expected TIFFs" in refused(lambda: score(trained, tmp_path / "data", out))
    name = trained.run.names[0]
    shutil.copy(trained.new / f"{name}.tif", tmp_path / "data" / "x.tif")
    assert "the run also needs nir" in refused(
        lambda: score(trained, tmp_path / "data", out, bands=("blue", "green", "red", "swir"))
    )
    assert "the run also needs green, blue" in refused(
        lambda: score(trained, tmp_path / "data", out, bands=("red", "nir"))
    )
    shutil.copy(trained.new / f"{name}.tif", tmp_path / "data" / "x.TIFF")
    assert "two files for one name, 'x'" in refused(lambda: score(trained, tmp_path / "data", out))
    assert list(tmp_path.glob("out*")) == []


def test_tta_gives_other_scores_and_equal_ones_for_flipped_files(
    trained: SimpleNamespace, whole: Path, tmp_path: Path
) -> None:
    for folder, rows in (("upright", slice(None)), ("flipped", slice(None, None, -1))):
        (tmp_path / folder).mkdir()
        for name in trained.run.names[:8]:
            write_tiff(tmp_path / folder / f"{name}.tif", tifffile.imread(trained.new / f"{name}.tif")[rows])
    score(trained, tmp_path / "upright", tmp_path / "one.csv", tta=True)
    score(trained, tmp_path / "flipped", tmp_path / "two.csv", tta=True)
    paths = (tmp_path / "one.csv", tmp_path / "two.csv", whole)
    one, two, plain = (np.array([read(path)[name] for name in trained.run.names[:8]]) for path in paths)
    assert np.abs(one - two).max() < 1e-5
    assert np.abs(one - plain).max() > 1e-4
