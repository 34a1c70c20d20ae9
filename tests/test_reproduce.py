"""Files that `make reproduce` writes into the folder of a run."""

import json
from collections.abc import Callable
from pathlib import Path

from helpers.chips import to_store, write_chips
from helpers.commands import train
from run_files import rewrite
from tiny import tiny_networks

from analysis.reproduce import reproduce


def test_a_verdict_is_stored_with_its_own_table_or_without_one(tmp_path: Path) -> None:
    store = to_store(write_chips(tmp_path / "tif", count=80), tmp_path / "chips.zarr")
    run = tmp_path / "run"
    with tiny_networks():
        assert train(store.path, run, "EPOCHS=1").returncode == 0
        assert reproduce(run, store=None, gpu="cpu")
        assert (run / "reproduce.csv").exists()
        rewrite(run, both=lambda values: values["config"].update(split="0.5,0.5"))
        assert not reproduce(run, store=None, gpu="cpu")
    assert (
        "the test split has other chips than the saved scores"
        in json.loads((run / "reproduce.json").read_text())["text"]
    )
    assert not (run / "reproduce.csv").exists()


def test_damaged_weights_whose_scores_are_not_finite_are_one_line(tmp_path: Path, refused: Callable[..., str]) -> None:
    store = to_store(write_chips(tmp_path / "tif", count=80), tmp_path / "chips.zarr")
    run = tmp_path / "run"
    with tiny_networks():
        assert train(store.path, run, "EPOCHS=1").returncode == 0
        path = run / "model.safetensors"
        data = bytearray(path.read_bytes())
        data[-400:] = b"\xff" * 400
        path.write_bytes(data)
        text = refused(lambda: reproduce(run, store=None, gpu="cpu"))
    assert f"{path}: expected the weights of the scores (SHA-256 " in text
    assert "whose scores are not finite" in text
