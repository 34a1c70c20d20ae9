"""What the terminal shows and metrics.jsonl holds of an epoch."""

from typing import Any

import numpy as np
import pytest

from preprocess.console import UserError, one_line
from train.config import make_config
from train.contract.fields import Share, decode
from train.contract.metrics import EpochLine, split_fields
from train.messages import epoch_lines
from train.metrics import class_ap
from train.run_state import State


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


def test_a_perfect_ap_that_rounds_above_1_is_read_and_1_001_is_not() -> None:
    labels = np.r_[np.ones(9, np.uint8), np.zeros(5, np.uint8)][:, None]
    (perfect,) = class_ap(labels, -np.arange(14.0)[:, None])
    assert perfect == 1 + 2**-52  # what scikit-learn makes of 9 perfectly ranked chips
    assert decode(Share, float(perfect), "metrics.jsonl line 1", "test_ap.a") == perfect
    with pytest.raises(UserError, match=r"expected test_ap\.a to be a number from 0 to 1, found 1\.001"):
        decode(Share, 1.001, "metrics.jsonl line 1", "test_ap.a")
