"""make tune measures settings and stores the best; training uses it. A recoded sample holds the same pixels."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from helpers.chips import Chips
from helpers.commands import here
from tiny import outcome, tiny_networks

from canopy.main import dispatch
from pipeline.chunks import ChunkReader
from preprocess.zarr_store import Store, encoded_bytes
from train import tune
from train.cuda_driver import gpu_available


@pytest.mark.parametrize("kind", ["session_store", "plain_store"])
def test_a_recoded_sample_holds_the_same_pixels(
    request: pytest.FixtureRequest, session_chips: Chips, tmp_path: Path, kind: str
) -> None:
    store: Store = request.getfixturevalue(kind)
    other = tune.recode(store, "none" if store.layout.codec == "lz4" else "lz4", tmp_path / "sample.zarr")
    assert np.array_equal(zarr.open_group(other.path, mode="r")["tiles"][...], session_chips.values)
    assert other.layout.codec != store.layout.codec
    assert np.array_equal(other.labels, store.labels)


def test_tune_measures_and_stores_the_best_setting(
    session_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tune, "PASS_S", 0.01)
    assert tune.lookup(session_store, "cpu") is None
    assert dispatch("train", ["tune", f"STORE={session_store.path}", "GPU=cpu", "BATCH=32"]) == 0
    out = capsys.readouterr().out
    found = tune.lookup(session_store, "cpu")
    assert found is not None
    assert f"tune.json: WORKERS={found.workers} DECODE=host" in out
    cores = len(os.sched_getaffinity(0))
    assert out.count("chips/s") == 2 * len({1, cores, *(n for n in (2, 4, 8, 16, 32, 64) if n < cores)})
    assert list(json.loads((tmp_path / "tune.json").read_text()).values()) == [vars(found)]


@pytest.mark.parametrize(("spare", "is_cold"), [(0, False), (-1, True)])
def test_a_store_larger_than_memory_is_tuned_with_chips_of_the_whole_store(
    session_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    spare: int, is_cold: bool,
) -> None:  # fmt: skip
    """With a memory as large as the store, and one byte smaller. The sample would be 64 of the 300 chips."""
    stored = encoded_bytes(session_store.local_path, session_store.layout, session_store.num_chips)
    read: list[int] = []
    augment = ChunkReader.augment

    def note(self: ChunkReader, chips: np.ndarray, *arguments: Any) -> None:
        read.extend(chips.tolist())
        augment(self, chips, *arguments)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tune, "SAMPLE", 64)
    monkeypatch.setattr(tune, "PASS_S", 0.01)
    monkeypatch.setattr(tune, "host_bytes", lambda: stored + spare)
    monkeypatch.setattr(ChunkReader, "augment", note)
    assert dispatch("train", ["tune", f"STORE={session_store.path}", "GPU=cpu", "BATCH=32"]) == 0
    out = capsys.readouterr().out
    assert (max(read) >= 64) == is_cold
    lines = [line for line in out.splitlines() if line.endswith("chips/s from the disk")]
    assert bool(lines) == is_cold
    if is_cold:
        found = tune.lookup(session_store, "cpu")
        assert found is not None
        assert (
            lines[0] == f"CODEC=lz4 DECODE=host WORKERS={found.workers}: {found.chips_per_s:,.0f} chips/s from the disk"
        )


def test_train_uses_the_stored_setting_and_prints_it(
    session_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads, cache and tune.json change the speed of reading. The run is equal to the bit."""
    monkeypatch.chdir(tmp_path)

    def train(name: str, *settings: object) -> str:
        with tiny_networks():
            ended = here("train", "TASK=1", f"STORE={session_store.path}", f"RUN={name}", "GPU=cpu",
                         "EPOCHS=1", "WEIGHTS=none", *settings)  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    line = "WORKERS=3, measured by `make tune` on this machine (tune.json)"
    assert line not in train("plain")
    tune.keep(session_store, "cpu", tune.Tuned(workers=3, decode="host", chips_per_s=1.0))
    assert line in train("tuned")
    assert line not in train("set", "WORKERS=1")
    train("kept", "CACHE=host")
    assert len({str(outcome(tmp_path / name)) for name in ("plain", "tuned", "set", "kept")}) == 1
    with tiny_networks():
        ended = here("train", "TASK=1", f"STORE={session_store.path}", "GPU=cpu", "DECODE=device")
    assert ended.returncode == 2
    assert "DECODE=device has no effect with GPU=cpu" in ended.stderr


def test_the_setting_is_not_used_on_another_machine_or_store(
    session_store: Store, plain_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tune.keep(session_store, "cpu", tune.Tuned(workers=3, decode="host", chips_per_s=1.0))
    assert tune.lookup(session_store, "cpu") == tune.Tuned(workers=3, decode="host", chips_per_s=1.0)
    assert tune.lookup(plain_store, "cpu") is None
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(999)))
    assert tune.lookup(session_store, "cpu") is None


@pytest.mark.skipif(gpu_available(), reason="a GPU can be used on this machine")
@pytest.mark.parametrize("words", [["GPU=auto"], []], ids=str)
def test_without_a_gpu_the_cpu_is_tuned(
    session_store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tune, "measure", lambda stores, device, batch: {("lz4", "host", 2): 10.0})
    assert dispatch("train", ["tune", f"STORE={session_store.path}", *words]) == 0
    assert "no GPU can be used on this machine (" in capsys.readouterr().out
    assert tune.lookup(session_store, "cpu") == tune.Tuned(workers=2, decode="host", chips_per_s=10.0)


def test_too_few_chips_are_refused_in_one_line(session_store: Store) -> None:
    ended = here("train", "tune", f"STORE={session_store.path}", "GPU=cpu", "BATCH=400")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "BATCH=400: the store has only 300 chips" in ended.stderr


ENTRY = {"workers": 2, "decode": "host", "chips_per_s": 1.0}


ODD = ({"workers": "2"}, {"workers": 0}, {"workers": True}, {"decode": "auto"}, {"threads": 2})


@pytest.mark.parametrize(
    "text", ["{", "[]", "1", "[" * 100_000, '{"a": 1}', '{"a": {}}', *(json.dumps({"a": ENTRY | odd}) for odd in ODD)]
)
def test_a_damaged_tune_json_is_one_line(
    session_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str], text: str
) -> None:
    monkeypatch.setattr(tune, "PATH", tmp_path / "tune.json")
    tune.PATH.write_text(text)
    assert f"{tune.PATH}: expected the JSON of `make tune`, found something else" in refused(
        lambda: tune.lookup(session_store, "cpu")
    )
