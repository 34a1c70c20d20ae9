"""`make soak KILLS=200`: kill a short run (SIGKILL) at random moments and resume it each time; it must end as if it had
never been killed. Prints in which phases it was killed, or what was lost, repeated or unreadable.

One process imports everything and forks each part ("life") of the run, so that a life costs a fraction of a second.
Half of the kills come at any moment of a life. The others come in the phase with the fewest kills so far: training,
evaluation or checkpoint. A process is first stopped (SIGSTOP), so that its phase is known exactly.
"""

import contextlib
import hashlib
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from helpers.chips import to_store, write_chips
from tiny import outcome, tiny_networks
from tqdm import tqdm

from bench.commands import SoakSettings
from canopy.main import dispatch
from pipeline.inputs import raw_inputs
from pipeline.loader import Batch, train_loader
from preprocess import console
from preprocess.console import UserError
from preprocess.zarr_store import Store
from train.checkpoint_files import folder
from train.contract.record import read_record
from train.hooks import Hooks, use_hooks
from train.loop import RunLoop

PHASES = ("start", "training", "evaluation", "checkpoint", "publish")  # "start": none of the others


@dataclass
class Soak:
    """`shared` holds the phase of the current life, and how often each phase was entered."""

    place: Path
    rng: random.Random
    shared: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, 16))
    hit: Counter[str] = field(default_factory=Counter)
    lives: int = 0
    newest: dict[Path, str] = field(default_factory=dict)  # a run's newest checkpoint: e<epoch>-s<step>-...

    def life(self, run: Path, log: Path) -> int:
        """Fork a process that begins or continues `run`; returns its number."""
        self.shared[:] = bytes(16)
        newest = max((path.name for path in folder(run).glob("e*.safetensors")), default="")
        if newest[:10] < self.newest.get(run, "")[:10]:
            raise UserError(f"{run}: its newest checkpoint was {self.newest[run]}, and is {newest or 'gone'}.")
        self.newest[run] = newest
        if not newest:
            shutil.rmtree(run, ignore_errors=True)  # killed before its first checkpoint
        arguments = [f"RESUME={run}"] if run.exists() else [
            "TASK=1", f"STORE={self.place / 'chips.zarr'}", f"RUN={run}", "GPU=cpu",
            "EPOCHS=3", "BATCH=20", "WEIGHTS=none", "VAL=0.1", "EMA=0.9",
            "CHECKPOINT_MINUTES=0.0003",
        ]  # fmt: skip
        self.lives += 1
        process = os.fork()
        if process:
            return process
        try:
            self._live(arguments, log, newest)
        finally:
            os._exit(99)

    def _live(self, arguments: list[str], log: Path, newest: str) -> None:
        out = os.open(self.place / "out.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        lines = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(lines, f"life {newest}\n".encode())
        torch.set_num_threads(1)  # the network is too small for two
        # tqdm's lock is a semaphore that all forks share: a life killed while it prints would block the others.
        tqdm.set_lock(threading.RLock())
        with contextlib.ExitStack() as patches:
            patches.enter_context(tiny_networks())
            patches.enter_context(use_hooks(Hooks(phase=self._phase, on_batch_end=_logger(lines))))
            try:
                console.run(lambda: dispatch("train", arguments))
            except SystemExit as end:
                os._exit(int(str(end.code)))

    @contextlib.contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        before, phase = self.shared[0], PHASES.index(name)
        self.shared[0] = phase
        self.shared[phase] = (self.shared[phase] + 1) % 256
        try:
            yield
        finally:
            self.shared[0] = before

    def kill(self, process: int, life_s: float) -> bool:
        """Kill the life at a random moment; returns False if it ended before."""
        if self.rng.random() < 0.5:
            moment = time.monotonic() + self.rng.uniform(0, 0.6 * life_s)
            reached = lambda: time.monotonic() >= moment  # noqa: E731
        else:
            phase = min((1, 2, 3), key=lambda number: self.hit[PHASES[number]])
            # The kill waits until the phase was entered that often. For training, checkpoints count: one follows most
            # steps.
            times, counted = self.rng.randint(1, 2 if phase == 2 else 8), 2 if phase == 2 else 3
            reached = lambda: self.shared[counted] >= times and self.shared[0] == phase  # noqa: E731
        while not reached():
            if _ended(process):
                self._check_end(os.waitpid(process, 0)[1])
                return False
            time.sleep(0.0002)
        time.sleep(self.rng.uniform(0, 0.003))
        os.kill(process, signal.SIGSTOP)
        _, status = os.waitpid(process, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            self._check_end(status)
            return False
        self.hit[PHASES[self.shared[0]]] += 1
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        return True

    def _check_end(self, status: int) -> None:
        text = (self.place / "out.txt").read_text()
        if os.waitstatus_to_exitcode(status) != 0 or "broken" in text:
            raise UserError(f"a life of the run ended with {os.waitstatus_to_exitcode(status)}: {text[-2000:]}")

    def finish(self, run: Path, log: Path) -> None:
        """Let the run end without a kill."""
        _, status = os.waitpid(self.life(run, log), 0)
        self._check_end(status)


def _compile(store: Store) -> None:
    """Read a batch, so that the kernels are compiled before the first fork."""
    chips = np.arange(store.num_chips)
    loader = train_loader(store, chips, raw_inputs(store, store.layout.bands[:3], chips), batch_size=20)
    list(loader.epoch(0))
    loader.close()


def _ended(process: int) -> bool:
    """Whether the process is a zombie: it has ended, and nobody has waited for it."""
    with open(f"/proc/{process}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "Z"


def _logger(lines: int) -> Callable[[RunLoop, Batch, torch.Tensor], None]:
    """A hook that appends a line per step to a file: epoch, step, which chips in which order, the loss as hex."""

    def log(loop: RunLoop, batch: Batch, loss: torch.Tensor) -> None:
        chips = hashlib.sha256(batch.chips.tobytes()).hexdigest()[:16]
        os.write(lines, f"{loop.state.epoch} {loop.state.step} {chips} {float(loss).hex()}\n".encode())

    return log


def history(log: Path) -> list[str]:
    """The steps that count: those of each life up to the point from which the next life resumed.

    Raises:
        UserError: a life did not begin at the newest checkpoint.
    """
    steps: list[str] = []
    for life in log.read_text().split("life ")[1:]:
        newest, *lines = life.splitlines()
        if lines:
            # e002-s00003: three of the five steps of the second epoch are done.
            done = 5 * (int(newest[1:4]) - 1) + int(newest[6:11]) if newest else 0
            epoch, step = (int(word) for word in lines[0].split()[:2])
            if 5 * epoch + step != done or done > len(steps):
                raise UserError(f"{log}: a life began at epoch {epoch}, step {step}, from {newest or 'the beginning'}.")
            steps = steps[:done] + lines
    return steps


def is_done(run: Path) -> bool:
    """Whether the kill came after the last write of the run, so that there is nothing to resume."""
    return (run / "run.json").exists() and read_record(run).state == "done"


def soak(kills: int, seed: int) -> str:
    """Kill runs that often; returns in words in which phases.

    Raises:
        UserError: a run did not end like the undisturbed one.
    """
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        chips = write_chips(place / "tif", count=178)
        store = to_store(chips, place / "chips.zarr")
        _compile(store)
        state = Soak(place, random.Random(seed))
        calm, calm_log = place / "calm", place / "calm.log"
        started = time.monotonic()
        state.finish(calm, calm_log)
        life_s = time.monotonic() - started
        killed, number = 0, 0
        while killed < kills or number == 0:
            run, log = place / f"run{number}", place / f"run{number}.log"
            ended = False
            while killed < kills and not ended:
                struck = state.kill(state.life(run, log), life_s)
                killed, ended = killed + struck, not struck or is_done(run)
            if not ended:
                state.finish(run, log)
            if history(log) != history(calm_log):
                raise UserError(f"run {number}: its steps are not those of the undisturbed run; see SEED={seed}.")
            if outcome(run) != outcome(calm):
                raise UserError(f"run {number}: its weights or scores are not the undisturbed run's; SEED={seed}.")
            number += 1
        counts = ", ".join(f"{count} in {phase}" for phase, count in state.hit.most_common())
        return (
            f"{killed} kills ({counts}) of {number} runs in {state.lives} lives: each ended with the undisturbed run's "
            f"steps, chips, weights and scores; 0 lost, 0 repeated, 0 unreadable checkpoints."
        )


def main(settings: SoakSettings) -> int:
    """Kill and resume runs, and print the result."""
    print(soak(settings.kills, settings.seed))
    return 0


if __name__ == "__main__":
    console.run(lambda: main(SoakSettings.from_words(sys.argv[1:], "soak")))
