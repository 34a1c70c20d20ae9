"""`train LR=find`: losses over a growing learning rate, a suggestion, and no run."""

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.commands import here
from PIL import Image
from tiny import tiny_networks

from preprocess.zarr_store import Store
from train.lr_curve import LrCurve, read_curve, suggest
from train.lr_find import STEPS, rate


def test_a_curve_a_picture_and_a_suggestion_but_no_run(
    session_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = (f"STORE={session_store.path}", "GPU=cpu", "BATCH=20", "WEIGHTS=none", "SEED=5")
    with tiny_networks():
        ended = here("", "train", "TASK=4", *words, "LR=find", "ACCUMULATE=2")
    assert (ended.returncode, ended.stderr.count("error")) == (0, 0)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["lr-find-task4.csv", "lr-find-task4.png"]
    frame = pd.read_csv(tmp_path / "runs/lr-find-task4.csv")
    assert frame["lr"].tolist() == pytest.approx(np.geomspace(1e-6, 1, STEPS)[: len(frame)].tolist(), rel=1e-12)
    *_, csv_line, png_line, suggested, _, command = ended.stdout.splitlines()
    assert csv_line.startswith(f"runs/lr-find-task4.csv: {len(frame)} steps from LR 1.0e-06 to ")
    assert png_line == "runs/lr-find-task4.png: the curve"
    with Image.open(tmp_path / "runs/lr-find-task4.png") as picture:
        picture.load()
    lr = suggest(read_curve(tmp_path / "runs/lr-find-task4.csv")).lr
    assert suggested.startswith(f"Suggested: LR={lr:g}, between ")
    typed = shlex.split(command)[1:]
    assert {*typed} == {"train", "TASK=4", *words, f"LR={lr:g}", "ACCUMULATE=2"}
    assert here("", "check", *typed).returncode == 0


def test_the_smoothed_loss_is_a_mean_with_hann_weights() -> None:
    losses = np.random.default_rng(0).random(40)
    curve = LrCurve(rates=np.geomspace(1e-6, 1, 40), losses=losses)
    weights = torch.hann_window(13, periodic=False, dtype=torch.float64)[1:-1].numpy()
    for step in range(40):
        near = [k for k in range(step - 5, step + 6) if 0 <= k < 40]
        expected = np.average(losses[near], weights=weights[[k - step + 5 for k in near]])
        assert curve.smoothed[step] == pytest.approx(expected, rel=1e-12)


def test_the_suggestion_lies_between_the_steepest_descent_and_the_lowest_loss() -> None:
    rates = np.geomspace(1e-6, 1, 121)
    decades = np.log10(rates)
    losses = 0.7 - 0.25 * (1 + np.tanh(2 * (decades + 4))) + 0.4 * np.clip(decades + 2, 0, None) ** 2
    found = suggest(LrCurve(rates=rates, losses=losses))
    assert found.steepest == pytest.approx(1e-4, rel=1e-6)
    assert 0.004 < found.lowest < 0.02  # smoothing moves the lowest point towards the flat side
    assert found.lr == pytest.approx(np.sqrt(found.steepest * found.lowest), rel=0.05)


def test_a_loss_that_does_not_fall_gives_no_suggestion(refused: Callable[..., str]) -> None:
    rates = np.geomspace(1e-6, 1, 30)
    assert refused(lambda: suggest(LrCurve(rates=rates, losses=rates + 1))).startswith("LR=find: the loss did not fall")


@pytest.mark.parametrize("word", ["RESUME=x", "RUN=x", "LR=0.1", "NODES=2", "GPU=0,1"])
def test_settings_of_a_run_are_refused_beside_it(tmp_path: Path, word: str, session_store: Store) -> None:
    ended = here("", "train", "TASK=4", f"STORE={session_store.path}", "LR=find", word)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: LR=find: ")
    assert len(ended.stderr.splitlines()) == 1


def test_rates_grow_by_one_factor() -> None:
    rates = [rate(step) for step in range(STEPS)]
    assert rates == pytest.approx(torch.logspace(-6, 0, STEPS, dtype=torch.float64).tolist(), rel=1e-12)
