"""What `make reproduce` leaves beside a run."""

import json
from pathlib import Path

from conftest import to_store, write_chips
from run_files import rewrite
from test_train import train
from tiny import tiny_networks

from analysis.reproduce import reproduce


def test_a_verdict_has_its_own_table_or_none(tmp_path: Path) -> None:
    store = to_store(write_chips(tmp_path / "tif", count=80), tmp_path / "tiles.zarr")
    run = tmp_path / "run"
    with tiny_networks():
        assert train(store.path, run, "--epochs", 1).returncode == 0
        assert reproduce(run, store=None, gpu="cpu")
        assert (run / "reproduce.csv").exists()
        rewrite(run, both=lambda values: values["config"].update(split="0.5,0.5"))
        assert not reproduce(run, store=None, gpu="cpu")
    assert "the test part holds other chips" in json.loads((run / "reproduce.json").read_text())["text"]
    assert not (run / "reproduce.csv").exists()
