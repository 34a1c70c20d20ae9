"""Two processes under torchrun (gloo, CPU) train as one: the same chips per step and scores, nearly the same loss.

The rounding differs, because gradients and BatchNorm statistics are added in another order: the chips of a step are in
two halves. Measured on these runs: losses differ by 1e-7 of themselves after a step, and by less than 1e-5 after 36.
"""

import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.chips import to_store, write_chips
from helpers.commands import ROOT, Ended, here, train
from rank_run import logged
from tiny import tiny_networks

from preprocess.zarr_store import Store

STEPS = 12  # 241 train chips in batches of 20
BATCH = 20
BOTH = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--"]


@dataclass(frozen=True)
class Logged:
    """The steps of a rank: epoch, chips, loss."""

    epochs: list[int]
    chips: list[list[int]]
    losses: np.ndarray


def read(folder: Path, rank: int = 0) -> Logged:
    rows = [line.split() for line in (folder / f"{rank}.log").read_text().splitlines()]
    return Logged(
        [int(row[0]) for row in rows],
        [[int(chip) for chip in row[1].split(",")] for row in rows],
        np.array([float.fromhex(row[2]) for row in rows]),
    )


def both_ranks(logs: Path, stop: int, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run `rank_run.py` twice under torchrun, with one thread each, so that each adds in the same order as alone."""
    return subprocess.run(
        [*BOTH, str(ROOT / "tests" / "rank_run.py"), str(logs), str(stop), *map(str, arguments)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip


def one_process(logs: Path, stop: int, *arguments: object) -> Ended:
    """The same run in one process, which is this one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logs.mkdir(exist_ok=True)
    try:
        with logged(logs / "0.log", stop):
            return here("train", *arguments)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    chips = write_chips(tmp_path_factory.mktemp("ranks") / "tif", count=361)
    return to_store(chips, chips.folder.parent / "chips.zarr")


@pytest.fixture(scope="module")
def settings(store: Store) -> tuple[object, ...]:
    return (
        "TASK=4", f"STORE={store.path}", "GPU=cpu", "EPOCHS=3", f"BATCH={BATCH}", "WEIGHTS=none",
        "EMA=0.9",
    )  # fmt: skip


@pytest.fixture(scope="module")
def alone(store: Store, settings: tuple[object, ...]) -> Path:
    place = store.path.parent / "alone"
    ended = one_process(place, 0, *settings, f"RUN={place / 'run'}")
    assert ended.returncode == 0, ended.stderr
    return place


@pytest.fixture(scope="module")
def both(store: Store, settings: tuple[object, ...]) -> Path:
    place = store.path.parent / "both"
    ended = both_ranks(place, 0, *settings, f"RUN={place / 'run'}")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("epoch 3/3") == 1  # only one rank prints
    return place


@pytest.mark.slow
def test_the_chips_of_a_step_are_divided_among_the_ranks(alone: Path, both: Path) -> None:
    one, first, second = read(alone), read(both, 0), read(both, 1)
    assert len(one.chips) == 3 * STEPS
    for step, chips in enumerate(one.chips):
        assert len(chips) == BATCH
        assert first.chips[step] == chips[0::2]
        assert second.chips[step] == chips[1::2]


@pytest.mark.slow
def test_losses_are_equal_within_rounding(alone: Path, both: Path) -> None:
    one = read(alone).losses
    two = (read(both, 0).losses + read(both, 1).losses) / 2
    difference = np.abs(two / one - 1)
    assert difference[0] < 1e-6
    assert difference.max() < 1e-4
    assert difference.max() > 0  # the two runs were separate
    with np.load(alone / "run" / "results.npz") as a, np.load(both / "run" / "results.npz") as b:
        assert np.allclose(a["trainlosses"], b["trainlosses"], rtol=1e-5, atol=0)
        assert np.allclose(a["preds"], b["preds"], rtol=0, atol=1e-4)
        assert a["labels"].tolist() == b["labels"].tolist()


@pytest.mark.slow
def test_scores_of_two_ranks_are_those_of_one_to_the_bit(both: Path) -> None:
    """One process gives exactly the logits that two ranks gathered: every test chip once, in order."""
    before = torch.get_num_threads()
    with tiny_networks():
        ended = here("analysis", "reproduce", f"RUN={both / 'run'}")
    torch.set_num_threads(before)
    assert "BIT-IDENTICAL" in ended.stdout, ended.stdout


@pytest.mark.slow
def test_a_run_that_two_ranks_began_is_resumed_by_one(
    alone: Path, settings: tuple[object, ...], tmp_path: Path
) -> None:
    """Only rank 1 gets the signal, in step 17. Both ranks stop one step later."""
    ended = both_ranks(tmp_path / "both", 17, *settings, f"RUN={tmp_path / 'run'}")
    assert "To resume it" in ended.stdout, ended.stderr
    done = len(read(tmp_path / "both").chips)
    assert done == 18
    ended = one_process(tmp_path / "alone", 0, f"RESUME={tmp_path / 'run'}")
    assert ended.returncode == 0, ended.stderr
    assert "processes was 2, is 1" in ended.stdout
    one, rest = read(alone), read(tmp_path / "alone")
    assert rest.chips == one.chips[done:]
    assert np.allclose(rest.losses, one.losses[done:], rtol=1e-4, atol=0)
    # Training loss and mAP are of the whole epoch: of both halves and both ranks.
    with np.load(alone / "run" / "results.npz") as a, np.load(tmp_path / "run" / "results.npz") as b:
        assert np.allclose(a["trainlosses"], b["trainlosses"], rtol=1e-5, atol=0)


@pytest.mark.slow
def test_a_run_that_one_rank_began_is_resumed_by_two(alone: Path, settings: tuple[object, ...], tmp_path: Path) -> None:
    ended = one_process(tmp_path / "alone", 5, *settings, f"RUN={tmp_path / 'run'}")
    assert ended.returncode == 75
    ended = both_ranks(tmp_path / "both", 0, f"RESUME={tmp_path / 'run'}")
    assert ended.returncode == 0, ended.stderr
    one, first, second = read(alone), read(tmp_path / "both", 0), read(tmp_path / "both", 1)
    assert [sorted(a + b) for a, b in zip(first.chips, second.chips, strict=True)] == [
        sorted(chips) for chips in one.chips[5:]
    ]
    with np.load(alone / "run" / "results.npz") as a, np.load(tmp_path / "run" / "results.npz") as b:
        assert np.allclose(a["trainlosses"], b["trainlosses"], rtol=1e-5, atol=0)


def test_a_batch_that_the_processes_cannot_share_is_refused_before_they_start(store: Store, tmp_path: Path) -> None:
    refused = train(store.path, tmp_path / "run", "GPU=cpu,cpu", "BATCH=21")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: BATCH=21: expected a multiple of 2 (2 processes, ACCUMULATE=1)")
    assert refused.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_command_starts_one_process_per_device_and_stops_them(store: Store, tmp_path: Path) -> None:
    """GPU=cpu,cpu works like GPU=0,1 without GPUs: the same launcher, signals and exit codes."""
    run = tmp_path / "run"
    command = [
        sys.executable, "-m", "train", "TASK=1", f"STORE={store.path}", "GPU=cpu,cpu", "WEIGHTS=none", f"RUN={run}",
        "EPOCHS=1000", "BATCH=20", "CHECKPOINT_MINUTES=1e-9",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list((run / "checkpoints").glob("e*.safetensors")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=300)
    assert (process.returncode, stderr) == (75, "")
    assert stdout.count("To resume it") == 1
    assert list((run / "checkpoints").glob("e*.safetensors"))


@pytest.mark.slow
def test_an_error_of_one_rank_is_one_line_of_that_rank(store: Store, tmp_path: Path) -> None:
    """Only rank 0 writes checkpoints, and here files of their size are forbidden. Rank 1 only loses rank 0."""
    command = [
        sys.executable, "-m", "train", "TASK=1", f"STORE={store.path}", "GPU=cpu,cpu", "WEIGHTS=none",
        f"RUN={tmp_path / 'run'}", "CHECKPOINT_MINUTES=1e-9", "BATCH=20",
    ]  # fmt: skip
    ended = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"error: {tmp_path / 'run'}: no checkpoint could be written (File too large)")
    assert ended.stderr.count("\n") == 1, ended.stderr
