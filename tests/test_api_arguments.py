"""Wrong arguments of the public functions are named, and are not taken for others."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.made_runs import write_run

import canopy
from preprocess.zarr_store import Store


@pytest.mark.parametrize(
    ("chips", "message"),
    [
        (np.ones(12, bool), "chips=bool array of shape (12,): expected a list of chip numbers, such as split.train."),
        (np.array([1.0, 2.0]), "chips=float64 array of shape (2,): expected a list of chip numbers"),
        ([[0, 1]], "chips=int64 array of shape (1, 2): expected a list of chip numbers"),
        ([0, 500], "chips=500: expected chips 0 to "),
        ([0, -1], "chips=-1: expected chips 0 to "),
    ],
)
def test_chips_are_numbers_of_chips_of_the_store(
    session_store: Store, refused: Callable, chips: Any, message: str
) -> None:
    inputs = canopy.raw_inputs(session_store, ("red",), np.arange(2))
    assert message in refused(lambda: canopy.eval_loader(session_store, chips, inputs, batch_size=1))
    assert message in refused(lambda: canopy.train_loader(session_store, chips, inputs, batch_size=1))
    with closing(canopy.eval_loader(session_store, np.arange(1), inputs, batch_size=1)) as loader:
        assert message in refused(lambda: loader.subset(chips))
    assert f"train_{message}" in refused(lambda: canopy.raw_inputs(session_store, ("red",), chips))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"crop": 8}, "crop=8: expected (height, width)."),
        ({"crop": (8,)}, "crop=(8,): expected (height, width)."),
        ({"device": "gpu"}, "device=gpu: expected cpu, cuda or cuda:N."),
    ],
)
def test_crop_and_device_are_named(session_store: Store, refused: Callable, words: dict, message: str) -> None:
    inputs = canopy.raw_inputs(session_store, ("red",), np.arange(2))
    assert message in refused(lambda: canopy.train_loader(session_store, [0, 1], inputs, batch_size=1, **words))


def test_inputs_have_a_band(session_store: Store, refused: Callable) -> None:
    assert "bands=(): expected some of " in refused(lambda: canopy.raw_inputs(session_store, (), np.arange(2)))


def test_a_run_is_read_from_a_path_as_text(session_store: Store, tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", session_store)
    assert canopy.load_run(str(path)).path == path
