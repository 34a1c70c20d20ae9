"""What `make reproduce` leaves beside a run."""

import json
from pathlib import Path

from conftest import to_store, write_chips
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
        record = json.loads((run / "run.json").read_text())
        record["config"]["split"] = "0.5,0.5"
        (run / "run.json").write_text(json.dumps(record))
        assert not reproduce(run, store=None, gpu="cpu")
    assert "the test part holds other chips" in json.loads((run / "reproduce.json").read_text())["text"]
    assert not (run / "reproduce.csv").exists()
