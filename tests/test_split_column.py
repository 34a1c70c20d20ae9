"""SPLIT_COLUMN keeps the split of the labels file in the store, and SPLIT=column uses it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import zarr
from helpers.chips import Chips, conversion, to_store, write_chips
from helpers.commands import here, train
from helpers.pages import Page
from tiny import tiny_networks

from analysis.finished_run import load_run
from preprocess.convert import convert
from preprocess.info import info
from preprocess.label_settings import LabelSettings
from preprocess.labels import read_labels
from preprocess.splits import make_split
from preprocess.verify import verify
from preprocess.zarr_store import Store, open_store

WORDS = ["train", "validation", "test", "Train ", "val", "TEST"]
NUMBERS = [0, 1, 2, 0, 1, 2]


def labelled(folder: Path, words: list[str]) -> Chips:
    chips = write_chips(folder / "tif", count=len(words))
    rows = [f"t_{index},{chips.tags[index]},{word}" for index, word in enumerate(words)]
    chips.csv.write_text("\n".join(["image_name,tags,part", *rows, ""]))
    return chips


@pytest.fixture
def split_store(tmp_path: Path) -> Store:
    return to_store(labelled(tmp_path, WORDS), tmp_path / "s.zarr", split_column="part")


def test_the_store_keeps_the_split_as_an_array_that_zarr_reads(split_store: Store) -> None:
    assert split_store.split is not None
    assert split_store.split.tolist() == NUMBERS
    array = zarr.open_group(split_store.path, mode="r")["split"]
    assert isinstance(array, zarr.Array)
    assert (array.dtype, np.asarray(array[:]).tolist()) == (np.uint8, NUMBERS)
    assert split_store.source["labels"]["split_column"] == "part"
    assert not verify(split_store.local_path, jobs=1)


def test_split_column_divides_the_chips_as_the_labels_file_says(split_store: Store) -> None:
    split = make_split("column", split_store)
    assert [split.indices(name).tolist() for name in ("train", "val", "test")] == [[0, 3], [1, 4], [2, 5]]
    assert split.rule == "column"


def test_a_store_without_a_split_column_keeps_its_bytes(tmp_path: Path, split_store: Store) -> None:
    """No array, no attribute and no setting of it; and the fingerprint is the same with it."""
    plain = to_store(
        Chips(tmp_path / "tif", tmp_path / "tif" / "tags.csv", np.zeros((6, 4, 1, 1)), []), tmp_path / "p.zarr"
    )
    assert plain.split is None
    assert not (plain.local_path / "split").exists()
    assert "split" not in (plain.local_path / "zarr.json").read_text()
    assert plain.fingerprint == split_store.fingerprint
    attributes = [json.loads((s.local_path / "zarr.json").read_text())["attributes"] for s in (plain, split_store)]
    assert [one["version"] for one in attributes] == [2, 2]
    assert attributes[1]["arrays"].pop("split")
    assert attributes[0]["arrays"] == attributes[1]["arrays"]


def test_split_column_without_a_kept_split_is_refused(uint8_store: Store, refused: Callable) -> None:
    text = refused(lambda: make_split("column", uint8_store))
    assert f"SPLIT=column: {uint8_store.path} keeps no split. Convert again with SPLIT_COLUMN=split" in text


def test_a_val_split_cannot_be_taken_from_train_twice(split_store: Store, refused: Callable) -> None:
    assert "already has a val split" in refused(lambda: make_split("column", split_store, val=0.5))


def test_chips_without_a_file_change_no_split(tmp_path: Path) -> None:
    chips = labelled(tmp_path, WORDS)
    (chips.folder / "t_1.tif").unlink()
    store = to_store(chips, tmp_path / "s.zarr", split_column="part", allow_missing=True)
    split = make_split("column", store)
    assert store.names[split.train].tolist() == ["t_0", "t_3"]
    assert store.names[split.val].tolist() == ["t_4"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "", "test"], "line 3: expected train, val (or validation) or test in column part, found ''"),
        (["train", "holdout", "test"], "line 3: expected train, val (or validation) or test in column part, found 'ho"),
    ],
)
def test_other_words_than_a_split_are_refused(
    tmp_path: Path, refused: Callable, words: list[str], message: str
) -> None:
    chips = labelled(tmp_path, words)
    settings = LabelSettings.of({"split_column": "part"})
    assert message in refused(lambda: read_labels(chips.csv, None, settings))


def test_in_the_long_format_the_rows_of_a_chip_agree(tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "t.csv"
    settings = LabelSettings.of({"split_column": "split", "format": "long"})
    path.write_text("image_name,tags,split\na,x,train\nb,x,test\na,y,train\n")
    split = read_labels(path, None, settings).split
    assert split is not None
    assert split.tolist() == [0, 2]
    path.write_text("image_name,tags,split\na,x,train\nb,x,test\na,y,test\n")
    assert "line 4: image_name 'a' is in the split 'test' here and in another" in refused(
        lambda: read_labels(path, None, settings)
    )


def test_one_hot_columns_do_not_include_the_split_column(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("split,image_name,clear,road\ntrain,a,1,0\ntest,b,0,1\n")
    table = read_labels(path, None, LabelSettings.of({"split_column": "split", "format": "onehot"}))
    assert table.classes == ("clear", "road")
    assert table.split is not None
    assert table.split.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split_column": "tags"}, "TAGS_COLUMN and SPLIT_COLUMN: expected two different columns, found tags for both"),
        ({"split_column": "image_name", "format": "onehot"}, "NAME_COLUMN and SPLIT_COLUMN: expected two different"),
        ({"format": "folders", "split_column": "split"}, "SPLIT_COLUMN has no effect with LABELS=folders"),
        ({"format": "folders", "name_column": "x"}, "NAME_COLUMN has no effect with LABELS=folders"),
    ],
)
def test_columns_that_cannot_be_read_together_are_refused(refused: Callable, settings: dict, message: str) -> None:
    assert message in refused(lambda: LabelSettings.of(settings))


def test_folders_of_splits_above_class_folders_are_a_split(tmp_path: Path) -> None:
    files = ["test/a/1.tif", "train/a/2.tif", "train/b/3.tif", "validation/b/4.tif"]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    table = read_labels(tmp_path, None, LabelSettings.of({"format": "folders"}))
    assert table.names == tuple(file.removesuffix(".tif") for file in files)
    assert table.split is not None
    assert table.split.tolist() == [2, 0, 0, 1]


def test_a_missing_split_column_is_named(tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "t.csv"
    path.write_text("image_name,tags,fold\na,x,train\n")
    text = refused(lambda: read_labels(path, None, LabelSettings.of({"split_column": "split"})))
    assert "expected the columns image_name, tags, split; found image_name, tags, fold. SPLIT_COLUMN names" in text


def test_a_conversion_resumes_only_with_the_same_split(tmp_path: Path, refused: Callable) -> None:
    chips = labelled(tmp_path, WORDS)
    request = conversion(data=chips.folder, labels=chips.csv, store=tmp_path / "s.zarr", split_column="part")
    with mock.patch("preprocess.zarr_store.finish", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        convert(request)
    before = chips.csv.read_text()
    chips.csv.write_text(before.replace(",validation", ",train"))
    assert "chips and tags" in refused(lambda: convert(request))
    assert "how labels are read" in refused(lambda: convert(request.replace(split_column=None)))
    chips.csv.write_text(before)
    convert(request)
    convert(request)  # complete
    chips.csv.write_text(before.replace(",validation", ",train"))
    assert "chips and tags" in refused(lambda: convert(request))
    assert open_store(request.store).split is not None


def test_a_changed_split_is_noticed(split_store: Store, refused: Callable, tmp_path: Path) -> None:
    other = to_store(labelled(tmp_path / "o", ["test", *WORDS[1:5], "train"]), tmp_path / "o.zarr", split_column="part")
    chunk = Path("split") / "c" / "0"
    (split_store.local_path / chunk).write_bytes((other.local_path / chunk).read_bytes())
    assert "split/c/0: expected the array split that the conversion wrote" in refused(
        lambda: open_store(split_store.path)
    )


@pytest.mark.slow
def test_training_report_and_audit_use_the_kept_split(tmp_path: Path, empty_figures: None) -> None:
    chips = labelled(tmp_path, [*["train"] * 8, *["validation"] * 4, *["test"] * 6])
    store, run = tmp_path / "s.zarr", tmp_path / "run"
    words = [f"DATA={chips.folder}", f"LABELS={chips.csv}", "SPLIT_COLUMN=part", "BANDS=blue,green,red,nir", "JOBS=1"]
    with tiny_networks():
        ended = train(store, run, *words, "SPLIT=column", "BATCH=4", "EPOCHS=1")
    assert ended.returncode == 0, ended.stderr
    assert "split column: 8 train, 4 val, 6 test chips; epoch chosen on val" in ended.stdout
    loaded = load_run(run)
    assert loaded.names.tolist() == [f"t_{index}" for index in range(12, 18)]
    ended = here("analysis", "report", f"RUN={run}")
    assert ended.returncode == 0, ended.stderr
    assert "a random split leaks" not in Page(run / "report" / "report.html").text
    ended = here("analysis", "audit", f"STORE={store}", f"LABELS={chips.csv}", "SPLIT=column")
    assert ended.returncode == 0, ended.stderr
    assert "split column" in Page(tmp_path / "s.zarr.audit" / "audit.html").text


def test_a_split_column_that_is_not_kept_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chips = labelled(tmp_path, WORDS)
    note = "the column split is not kept. SPLIT_COLUMN=split keeps it, for SPLIT=column."
    to_store(chips, tmp_path / "s.zarr")
    assert note not in capsys.readouterr().out  # its name is part
    chips.csv.write_text(chips.csv.read_text().replace(",part", ",split"))
    to_store(chips, tmp_path / "t.zarr")
    assert f"{chips.csv}: {note}" in capsys.readouterr().out
    to_store(chips, tmp_path / "u.zarr", split_column="split")
    assert note not in capsys.readouterr().out


def test_split_column_is_refused_before_a_conversion_that_would_not_keep_it(tmp_path: Path) -> None:
    chips = labelled(tmp_path, WORDS)
    words = [f"DATA={chips.folder}", f"LABELS={chips.csv}", "BANDS=blue,green,red,nir"]
    ended = train(tmp_path / "s.zarr", tmp_path / "run", *words, "SPLIT=column", "BATCH=2")
    assert ended.returncode == 2
    assert "keeps no split. Convert again with SPLIT_COLUMN=split" in ended.stderr
    assert not (tmp_path / "s.zarr").exists()


def test_info_counts_the_chips_of_the_kept_split(split_store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    info(split_store.local_path, "column")
    printed = capsys.readouterr().out
    assert re.search(r"split column\s+2 train, 2 val, 2 test", printed)
    assert re.search(r"chips +6 +2 +2 +2 +\(split column\)", printed)
