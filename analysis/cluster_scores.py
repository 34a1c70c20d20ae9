"""Blocks of chips are scored by Dask workers: `make predict CLUSTER=...`.

In: what `block_scores.Blocks` is made of, and an engine. Out: the same scores, to the bit, in the order in which blocks
end. A task is one block: where the plan is, and the numbers of the chips. A worker keeps networks and reader from task
to task. Workers write nothing. Leaves the plan's file to `score_plan`.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from analysis.block_scores import ScoredBlock, Scorer, devices, inputs_for, score_chips
from analysis.finished_run import Run, load_run
from analysis.members import members_of
from analysis.score_plan import PLAN, ScorePlan, read_plan
from preprocess.chip_reader import state_of
from preprocess.cluster_worker import local_rank, worker_address
from preprocess.console import Progress, UserError, say
from preprocess.engine import Engine, open_engine
from preprocess.sources import DISK
from preprocess.zarr_store import write_atomic


@dataclass(frozen=True, kw_only=True)
class BlockTask:
    """Score the chips `first` to `last` of a plan, which are block `number`. device: the one on which all blocks are
    scored; "": any."""

    folder: str
    digest: str
    number: int
    first: int
    last: int
    device: str

    def __str__(self) -> str:
        return f"block {self.number} (chips {self.first} to {self.last})"


@dataclass(kw_only=True)
class WorkerBlocks:
    """Scores blocks of chips in Dask workers; see `block_scores.Scoring`."""

    engine: Engine
    plan: ScorePlan
    _any: BlockTask = field(init=False)  # the task from which all others are made

    def begin(self, folder: Path) -> str:
        """Write the plan, and ask a worker for its device: all others must have the same.

        Raises:
            UserError: the worker cannot use the run, the chips or GPU.
        """
        data, digest = self.plan.encode()
        write_atomic(folder / PLAN, data)
        first = BlockTask(folder=str(folder.absolute()), digest=digest, number=0, first=0, last=0, device="")
        (device,) = self.engine.run(device_of, [first], needs=folder.absolute() / PLAN)
        say(f"the workers use {device}.")
        self._any = replace(first, device=device)
        return device

    def score(self, blocks: dict[int, np.ndarray], num_blocks: int) -> Iterator[tuple[int, ScoredBlock]]:
        """See `Scoring.score`."""
        del num_blocks
        tasks = [
            replace(self._any, number=number, first=int(chips[0]), last=int(chips[-1]))
            for number, chips in blocks.items()
        ]
        total, every_s = len(self.plan.reader.files.paths), self.engine.log_every_s
        done = total - sum(map(len, blocks.values()))
        with Progress("predict", total=total, unit="chips", done=done, every_s=every_s) as progress:
            for number, block in self.engine.run(score_block, tasks, needs=Path(self._any.folder, PLAN)):
                progress.update(len(block.logits), self.engine.note.rstrip(", "))
                yield number, block


@contextmanager
def connect(cluster: str, plan: ScorePlan) -> Iterator[WorkerBlocks]:
    """Connect to the Dask workers of CLUSTER=cluster."""
    with open_engine(cluster, jobs=1) as engine:
        yield WorkerBlocks(engine=engine, plan=plan)


def device_of(task: BlockTask) -> str:
    """The device on which this worker scores."""
    with _LOCK:
        return devices(_load(task.folder, task.digest).scorers)


def score_block(task: BlockTask) -> tuple[int, ScoredBlock]:
    """(number, scores) of a block.

    Raises:
        UserError: this worker has another device, does not see the files, or the run has changed.
    """
    with _LOCK:  # one block at a time, also in a worker with several threads
        networks = _load(task.folder, task.digest)
        if (device := devices(networks.scorers)) != task.device:
            raise UserError(
                f"worker {worker_address()}: expected {task.device}, as the first worker has, found {device}. "
                "Scores of other devices differ by rounding: all workers need the same."
            )
        chips = np.arange(task.first, task.last + 1)
        return task.number, _as_typed(score_chips(networks.scorers, networks.plan.reader, chips, ""), networks.plan)


def _as_typed(block: ScoredBlock, plan: ScorePlan) -> ScoredBlock:
    """The block with reasons that name files as the user named DATA, though this worker may be in another folder."""
    files = plan.reader.files
    if not block.bad or files.paths[0] == files.names[0]:
        return block
    bad = {chip: reason.replace(f"{plan.folder}/", "") for chip, reason in block.bad.items()}
    return replace(block, bad=bad)


@dataclass(frozen=True, kw_only=True)
class _Networks:
    plan: ScorePlan
    scorers: Sequence[Scorer]


_LOCK = threading.Lock()
_KEPT: dict[tuple[str, str], _Networks] = {}  # of the last plan


def _load(folder: str, digest: str) -> _Networks:
    """Networks and reader of a plan, made once per worker.

    Raises:
        UserError: see `score_block`.
    """
    if (folder, digest) not in _KEPT:
        for networks in _KEPT.values():
            for scorer in networks.scorers:
                scorer.loader.close()
        _KEPT.clear()
        _KEPT[folder, digest] = _make(folder, digest)
    return _KEPT[folder, digest]


def _make(folder: str, digest: str) -> _Networks:
    plan = read_plan(Path(folder) / PLAN, digest)
    _check_sight(plan)
    torch.use_deterministic_algorithms(False)  # as in a new process; `prepare_torch` sets it for DETERMINISTIC=1
    run = load_run(Path(plan.folder, plan.run))
    members = members_of(run)
    if tuple(member.made_with.model_sha256 for member in members) != plan.models:
        raise UserError(f"{plan.run}: the run has changed since the command started. Run the same command again.")
    scorers = [
        Scorer.make(member, plan.reader, inputs_for(member, None, plan.reader), _own_gpu(plan, member), plan.tta)
        for member in members
    ]
    return _Networks(plan=plan, scorers=scorers)


def _check_sight(plan: ScorePlan) -> None:
    """Refuse to score if the first chip is not here as it was listed: otherwise every chip would be a bad one."""
    files = plan.reader.files
    path, state = files.paths[0], (int(files.size[0]), int(files.mtime_ns[0]))
    if "://" in path or state == (0, 0):  # an address is the same everywhere; a chip that lacks a file of a band
        return
    try:
        found = "a file of another size or time" if state_of(path, files.bands, DISK) != state else ""
    except OSError as error:
        found = error.strerror or type(error).__name__
    if found:
        raise UserError(
            f"worker {worker_address()}: {path}: expected the file that the command listed, found: {found}. All "
            "workers need the same DATA under the same path."
        )


def _own_gpu(plan: ScorePlan, run: Run) -> str | None:
    """GPU=... of this worker: with CLUSTER=local each worker takes the next GPU, unless the user gave a number. Another
    worker has the GPUs that CUDA_VISIBLE_DEVICES shows it."""
    names = (plan.gpu or run.config.gpu).split(",")
    if not plan.is_local or names == ["cpu"]:
        return plan.gpu
    if len(names) > 1:
        return names[local_rank() % len(names)]
    count = torch.cuda.device_count()
    return str(local_rank() % count) if count and (plan.gpu in (None, "auto")) else plan.gpu
