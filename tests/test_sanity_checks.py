"""Lines about data and scores that look wrong although nothing fails."""

import dataclasses
import os
from pathlib import Path

import numpy as np
from helpers.chips import to_store, write_chips, write_csv
from helpers.commands import train
from helpers.nodata import write_chip, write_nodata
from tiny import tiny_networks

from preprocess.splits import make_split
from train.sanity_checks import chance_alarm, data_alarms


def test_chips_of_the_train_split_that_are_all_nodata_are_named(tmp_path: Path) -> None:
    chips = write_nodata(tmp_path / "tif", "uint16", "0", count=40)
    for index in (0, 7, 8, 9):
        write_chip(chips.folder / f"t_{index}.tif", np.zeros_like(chips.values[0]))
    store = to_store(chips, tmp_path / "chips.zarr", nodata="0")
    split = make_split("course", store)
    split = dataclasses.replace(split, train=np.arange(30), val=np.arange(0), test=np.arange(30, 40))
    assert data_alarms(store, split)[0] == (
        "5 chips hold nothing but nodata in the train split (t_0, t_3, t_7 ...). If they should not be learnt, leave "
        "them out of the labels and run `make zarr` again."
    )
    assert data_alarms(store, dataclasses.replace(split, train=np.arange(1, 6)))[0] == (
        "1 chip holds nothing but nodata in the train split (t_3). If it should not be learnt, leave it out of the "
        "labels and run `make zarr` again."
    )
    others = data_alarms(store, dataclasses.replace(split, train=np.arange(10, 30)))
    assert not [line for line in others if "nodata" in line]
    with tiny_networks():
        ended = train(store.path, tmp_path / "run", "EPOCHS=1", "BATCH=8", "SPLIT=0.9,0.1")
    assert "hold nothing but nodata in the train split (" in ended.stdout


def test_alarms_name_absent_classes_and_identical_chips(tmp_path: Path) -> None:
    chips = write_chips(tmp_path / "tif", count=12)
    rows = [(f"t_{index}", "a b" if index % 2 else "a") for index in range(11)] + [("t_11", "a c")]
    write_csv(chips.csv, rows)
    os.replace(chips.folder / "t_0.tif", chips.folder / "spare.tif")
    (chips.folder / "t_0.tif").write_bytes((chips.folder / "t_11.tif").read_bytes())
    (chips.folder / "spare.tif").unlink()
    store = to_store(chips, tmp_path / "chips.zarr")
    parts = ["train"] * 9 + ["test"] * 3
    names = [f"t_{index}" for index in range(12)]
    with open(tmp_path / "split.csv", "w") as file:
        file.write("image_name,part\n" + "".join(f"{n},{p}\n" for n, p in zip(names, parts, strict=True)))
    split = make_split(str(tmp_path / "split.csv"), store)
    assert data_alarms(store, split) == [
        "the train split has no chip of c: this class cannot be learnt.",
        "1 chips of the test split are pixel-identical to training chips (t_11); test scores are optimistic.",
    ]
    assert data_alarms(store, dataclasses.replace(split, train=split.train[1:])) == [
        "the train split has no chip of c: this class cannot be learnt."
    ]


def test_scores_no_better_than_chance_are_an_alarm() -> None:
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0]])
    assert chance_alarm(labels, 0.375, "test").startswith("test mAP 0.3750 is no better than chance (0.3750). Are")
    assert chance_alarm(labels, 0.5, "test") == ""
    assert chance_alarm(labels * 0, float("nan"), "test") == ""
    often = np.arange(20)[:, None] > 0
    assert chance_alarm(often, 1.0, "test") == ""
    assert "no better than chance" in chance_alarm(often, 0.95, "test")
