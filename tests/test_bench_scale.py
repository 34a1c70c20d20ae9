"""Mode `scale` of the benchmark: stores of many chips, made from few."""

from pathlib import Path

import numpy as np
import pytest

from bench import scale
from bench.small_stores import SIDE, chips_store, windows
from pipeline.chunks import ChunkReader
from preprocess.zarr_store import open_store


@pytest.mark.slow
def test_chips_of_the_scale_store_are_windows_of_the_bench_chips(tmp_path: Path) -> None:
    store = open_store(chips_store(tmp_path, 300))
    assert chips_store(tmp_path, 300) == store.path
    expected = np.stack(windows(0, 300))
    reader = ChunkReader(store, store.layout.bands)
    out = np.empty((4, SIDE, SIDE), np.uint16)
    for chip in (0, 17, 255, 256, 299):
        reader.decode(np.array([chip]), out[None])
        assert np.array_equal(out, expected[chip])
    mean, _ = store.band_statistics(np.arange(300))
    assert np.allclose(mean, expected.mean(axis=(0, 2, 3)))


def test_scale_reports_memory_first_and_rates_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "CHIPS_PER_PASS", 128)
    monkeypatch.setattr(scale, "MEMORY_BATCHES", 3)
    rounds = scale.serve(chips_store(tmp_path, 150))
    first = next(rounds)
    assert first["peak_mib"] > 10
    assert first["first_batch_s"] > 0
    assert rounds.send(0) > 0
