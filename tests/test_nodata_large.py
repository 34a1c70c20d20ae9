"""10,000 float32 chips with 2 % NaN: a whole run without NaN, and statistics as numpy's nan-functions compute them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.chips import BANDS, to_store
from helpers.commands import train
from helpers.nodata import write_nodata
from safetensors.numpy import load_file
from tiny import Steps, tiny_networks

from analysis.finished_run import load_run
from pipeline.inputs import raw_inputs
from pipeline.loader import train_loader
from preprocess.splits import make_split


def assert_finite(steps: Steps) -> None:
    """Weights, gradients and statistics of BatchNorm after a step."""
    assert steps.loop is not None
    net = steps.loop.trainer.net
    grads = [value.grad for value in net.parameters() if value.grad is not None]
    assert all(torch.isfinite(value).all() for value in (*grads, *net.state_dict().values()))


@pytest.mark.slow  # writes and converts 10,000 TIFFs
def test_ten_thousand_chips_with_two_percent_nan_train_without_nan(tmp_path: Path) -> None:
    chips = write_nodata(tmp_path / "tif", "float32", "nan", share=0.02, count=10_000, height=32, width=32)
    store = to_store(chips, tmp_path / "chips.zarr", nodata="nan")
    assert 0.019 < np.isnan(chips.values).mean() < 0.021
    split = make_split("course", store)
    wide = chips.values[split.train].astype(np.float64)
    mean, std = store.band_statistics(split.train)
    assert np.allclose(mean, np.nanmean(wide, axis=(0, 2, 3)), rtol=1e-13, atol=0)
    assert np.allclose(std, np.nanstd(wide, axis=(0, 2, 3)), rtol=1e-13, atol=0)
    assert np.array_equal(store.valid_count, np.isfinite(chips.values).sum(axis=(2, 3)))
    loader = train_loader(store, split.train, raw_inputs(store, BANDS, split.train), batch_size=100)
    for epoch in range(2):
        for batch in loader.epoch(epoch):
            assert torch.isfinite(batch.images_nchw).all()
    steps = Steps(lambda number: assert_finite(steps))
    with tiny_networks(), steps.watch:
        ended = train(store.local_path, tmp_path / "run", "EPOCHS=2", "BATCH=100", "CROP=28", task=4)
    assert ended.returncode == 0, ended.stderr
    assert len(steps.losses) == 2 * -(-len(split.train) // 100)
    assert all(np.isfinite(float.fromhex(loss)) for loss in steps.losses)
    run = load_run(tmp_path / "run")
    assert all(np.isfinite(values).all() for values in load_file(run.path / "model.safetensors").values())
    assert np.isfinite(run.logits).all()
    assert np.isfinite(run.probabilities).all()
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    for line in lines:
        assert all(np.isfinite(line[name]) for name in ("train_loss", "test_loss", "train_map", "test_map"))
