"""What the terminal shows and metrics.jsonl holds of an epoch."""

import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.made_runs import write_run
from tqdm import tqdm

from preprocess.console import BAR, UserError, one_line
from preprocess.zarr_store import Store
from train.config import make_config
from train.contract.fields import Share, decode
from train.contract.metrics import EpochLine, split_fields
from train.contract.record import read_record
from train.messages import end_lines, epoch_lines, next_lines
from train.metrics import class_ap
from train.run_state import Score, State


def epoch(*splits: str) -> EpochLine:
    scores: dict[str, Any] = {}
    for split in splits:
        scores |= split_fields(split, loss=0.5, mean_ap=0.5, ap={"a": 0.5})
    return EpochLine(
        epoch=1, lr=0.1, chips_per_s=1.0, wait_share=0.0, train_s=1.0, seconds={}, first_wait_s=0.0, **scores
    )  # fmt: skip


@pytest.mark.parametrize(("splits", "count"), [(("train", "test"), 1), (("train", "val", "test"), 2)])
def test_an_epoch_is_one_line_or_two_with_a_val_split_and_no_line_is_escaped(
    splits: tuple[str, ...], count: int
) -> None:
    config = make_config("default", task=1, store="chips.zarr", epochs=3)
    lines = epoch_lines(config, State(epoch=1, lines=[epoch(*splits)], best=0))
    assert len(lines) == count
    assert [one_line(line) for line in lines] == lines
    assert lines[0].startswith("epoch 1/3 | train loss 0.5000 mAP 0.5000 | ")


def test_without_a_map_to_choose_by_the_newest_epoch_is_kept_and_not_called_the_best(
    session_store: Store, tmp_path: Path
) -> None:
    config = make_config("default", task=1, store="chips.zarr", epochs=3)
    state = State()
    nothing = split_fields("val", loss=0.5, mean_ap=math.nan, ap={"a": math.nan})
    for number in (1, 2, 3):
        line = replace(epoch("train", "val", "test"), epoch=number, **nothing)
        logits = np.full((2, 1), float(number), np.float32)
        assert state.finish_epoch(line, math.nan, Score(loss=0.5, ap=np.array([0.5]), logits=logits))
        assert epoch_lines(config, state)[0].endswith("| kept")
    assert state.best == 2
    assert state.best_logits is not None
    assert state.best_logits[0, 0] == 3
    record = read_record(write_run(tmp_path / "run", session_store))
    record = replace(record, split=replace(record.split, epoch_chosen_on="val"), best_epoch=3)
    assert (
        "done. Last epoch 3 of 3 by val mAP none; test mAP 0.5000"
        in end_lines(Path("runs/task1"), record, tuple(state.lines))[0]
    )


def test_a_perfect_ap_that_rounds_above_1_is_read_and_1_001_is_not() -> None:
    labels = np.r_[np.ones(9, np.uint8), np.zeros(5, np.uint8)][:, None]
    (perfect,) = class_ap(labels, -np.arange(14.0)[:, None])
    assert perfect == 1 + 2**-52  # what scikit-learn makes of 9 perfectly ranked chips
    assert decode(Share, float(perfect), "metrics.jsonl line 1", "test_ap.a") == perfect
    with pytest.raises(UserError, match=r"expected test_ap\.a to be a number from 0 to 1, found 1\.001"):
        decode(Share, 1.001, "metrics.jsonl line 1", "test_ap.a")


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_finished_run_names_its_best_epoch_its_files_and_two_commands_within_80_columns(
    session_store: Store, tmp_path: Path, split: str
) -> None:
    record = read_record(write_run(tmp_path / "run", session_store))
    record = replace(record, split=replace(record.split, epoch_chosen_on=split), best_epoch=2)
    scores = {"train": 0.7, "val": 0.6, "test": 0.5}
    history = []
    for number in (1, 2):
        fields: dict[str, Any] = {}
        for name, value in scores.items():
            fields |= split_fields(name, loss=0.5, mean_ap=value / number, ap={"a": 0.5})
        history.append(replace(epoch("train", "test"), epoch=number, **fields))
    lines = end_lines(Path("runs/task1"), record, tuple(history))
    expected = "val mAP 0.3000; test mAP 0.2500" if split == "val" else "test mAP 0.2500"
    assert lines[0] == f"runs/task1: done. Best epoch 2 of 2 by {expected}"
    files = {"model.safetensors", "results.npz", "metrics.jsonl", "run.json"}
    assert {name for name in files if f"{name}: " in "\n".join(lines[1:])} == files
    after = next_lines(Path("runs/task1"))
    assert after[1:] == ["make report RUN=runs/task1", "make reproduce RUN=runs/task1"]
    assert max(map(len, [*lines, *after])) <= 80


def test_the_commands_can_be_pasted_into_a_shell() -> None:
    *_, report, _ = next_lines(Path("my runs/it's $1"))
    assert shlex.split(report) == ["make", "report", "RUN=my runs/it's $1"]


@pytest.mark.parametrize("rate", [11.3, 999.9, 10_032.7])
@pytest.mark.parametrize("label", ["epoch 9/12", "epoch 100/300"])
def test_the_note_of_a_training_is_whole_in_a_bar_of_80_columns(label: str, rate: float) -> None:
    note = "loss 0.302 test mAP 0.534 wait 12 %"
    shown = tqdm.format_meter(
        int(rate * 300), int(rate * 600), 300, ncols=80, prefix=label, unit=" chips", bar_format=BAR, postfix=note
    )
    assert len(shown) == 80
    assert f"05:00 left, {note}, " in shown
