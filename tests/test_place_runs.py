"""Training on a split by blocks of ground, and predictions with bounds, of GeoTIFFs."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from helpers.chips import to_store
from helpers.commands import train
from helpers.places import UTM_33N, WGS_84, geo_chips, geo_tags
from tiny import tiny_networks

from analysis import block_scores, predict
from analysis.duplicates import write_groups
from analysis.finished_run import load_run
from preprocess.splits import groups_path, make_split
from train.record import check_inputs
from train.setup import open_data

COUNT, SIDE = 60, 34


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """60 chips of 340 m in a row, converted with SIZE=32 FIT=crop, so that each pixel moves by one; and a run."""
    folder = tmp_path_factory.mktemp("places")
    places = [geo_tags(UTM_33N, corner=(500_000 + 340 * n, 5_400_000), side=(10, 10)) for n in range(COUNT)]
    chips = geo_chips(folder / "tif", places, bands=3, side=SIDE)
    store = to_store(chips, folder / "s.zarr", bands=("red", "green", "blue"), size=32, fit="crop")
    with tiny_networks():
        ended = train(
            store.path, folder / "run", "EPOCHS=1", "CROP_SHARE=1", "TEST_BATCH=8", "SPLIT=blocked", "BLOCK_KM=2"
        )
    return SimpleNamespace(folder=folder, chips=chips, store=store, ended=ended)


def test_a_run_trains_on_blocks_and_says_so(trained: SimpleNamespace) -> None:
    assert trained.ended.returncode == 0, trained.ended.stderr
    # From x = 500 km to 520.4 km at 2 km: 11 blocks.
    assert "SPLIT=blocked: 11 blocks of 2 km from coordinates, without the groups" in trained.ended.stdout
    record = json.loads((trained.folder / "run" / "run.json").read_text())
    split = make_split("blocked", trained.store, block_km=2)
    assert (record["config"]["block_km"], record["split"]["sha256"]) == (2, split.sha256())
    blocks = (500_000 + 340 * np.arange(COUNT) + 170) // 2000
    assert not set(blocks[split.train].tolist()) & set(blocks[split.test].tolist())
    assert len(split.test) >= 15


def score(trained: SimpleNamespace, data: Path, out: Path) -> int:
    with tiny_networks():
        return predict.predict(trained.folder / "run", data, out, bands=None, gpu="cpu", tta=False)


def test_predictions_have_the_bounds_of_what_was_scored(trained: SimpleNamespace, tmp_path: Path) -> None:
    assert score(trained, trained.chips.folder, tmp_path / "p.csv") == 0
    bounds = pd.read_csv(tmp_path / "p_bounds.csv", index_col="image_name")
    assert bounds.columns.tolist() == ["crs", "left", "bottom", "right", "top"]
    assert set(bounds["crs"]) == {"EPSG:32633"}
    names = [f"t_{index}" for index in range(COUNT)]
    left = 500_000 + 340.0 * np.arange(COUNT) + 10
    expected = np.stack([left, 0 * left + 5_399_670, left + 320, 0 * left + 5_399_990], axis=1)
    assert np.array_equal(bounds.loc[names, ["left", "bottom", "right", "top"]].to_numpy(), expected)
    scores = pd.read_csv(tmp_path / "p.csv", index_col="image_name")
    assert scores.index.tolist() == bounds.index.tolist()
    run = load_run(trained.folder / "run")
    assert np.array_equal(scores.loc[run.names.tolist()].to_numpy(), run.probabilities)


def test_bounds_survive_an_interruption_and_leave_out_files_that_say_nothing(
    trained: SimpleNamespace, tmp_path: Path, refused: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [geo_tags(WGS_84, corner=(15.0 + n, 48.0), side=(0.5, 0.25)) if n % 3 else [] for n in range(20)]
    chips = geo_chips(tmp_path / "tif", places, bands=3, side=SIDE)
    (chips.folder / "t_4.tif").write_bytes(b"II*\0")
    out = tmp_path / "p.csv"
    logits, calls = block_scores.predict_logits, []

    def stop_at_the_third(*arguments: object, **more: object) -> object:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(more["label"])
        return logits(*arguments, **more)  # type: ignore[arg-type]

    with mock.patch.object(predict, "BLOCK_BATCHES", 1):
        with mock.patch.object(block_scores, "predict_logits", stop_at_the_third), pytest.raises(KeyboardInterrupt):
            score(trained, chips.folder, out)
        assert not out.exists()
        assert score(trained, chips.folder, out) == 1
    assert "resuming: 2 of 3 blocks are done." in capsys.readouterr().out
    bounds = pd.read_csv(tmp_path / "p_bounds.csv", index_col="image_name")
    assert sorted(bounds.index) == sorted(f"t_{n}" for n in range(20) if n % 3 and n != 4)
    assert bounds.loc["t_5"].tolist() == ["EPSG:4326", 20.5, 39.75, 36.5, 47.75]
    assert len(pd.read_csv(out)) == 19
    out.unlink()
    assert "p_submission.csv exists" in refused(lambda: score(trained, chips.folder, out))
    (tmp_path / "p_submission.csv").unlink()
    assert "p_bounds.csv exists" in refused(lambda: score(trained, chips.folder, out))


def test_files_without_coordinates_have_no_file_of_bounds(trained: SimpleNamespace, tmp_path: Path) -> None:
    chips = geo_chips(tmp_path / "tif", [[]] * 3, bands=3, side=SIDE)
    assert score(trained, chips.folder, tmp_path / "p.csv") == 0
    assert not (tmp_path / "p_bounds.csv").exists()


def test_an_audit_after_training_changes_the_split_and_the_line_says_why(
    trained: SimpleNamespace, refused: Callable
) -> None:
    train_chip, test_chip = (
        int(make_split("blocked", trained.store, block_km=2).indices(name)[0]) for name in ("train", "test")
    )
    write_groups(trained.store, [sorted((train_chip, test_chip))])
    try:
        record = load_run(trained.folder / "run").record
        text = refused(lambda: check_inputs(record, record.config, open_data(record.config), "RESUME=run"))
    finally:
        groups_path(trained.store.local_path).unlink()
    assert "SPLIT=blocked also depends on the groups of `make audit` beside the store; have they changed?" in text
