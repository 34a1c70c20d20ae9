"""The life of a run in its folder: begin or resume, save, publish, leave or finish.

In: a `Job` and its trainer. Out: run.json, checkpoints, results and lines on the terminal. Leaves the epochs to `loop`,
the texts and values of the files to `record`, and the format of checkpoints to `checkpoint`. Only rank 0 writes.
"""

import shlex
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from preprocess.console import UserError, say
from train import run_folder
from train.checkpoint import Checkpoint, check_same_run, restore, save_checkpoint
from train.checkpoint_files import last_good, mend_best, remove_checkpoints, save_best
from train.contract.metrics import EpochLine
from train.contract.record import Record, write_record
from train.hooks import Hooks, active_hooks
from train.initial_weights import model_metadata
from train.messages import introduce, preview_lines
from train.nan_checks import NotFiniteError, check_losses, check_weights
from train.record import describe, network_inputs, publish, surroundings
from train.run_state import State
from train.setup import Job, pools, stem_of
from train.step import Trainer
from train.telemetry import Tracker, open_trackers, scalars


@dataclass(kw_only=True)
class ActiveRun:
    """A run that is in progress, and its folder.

    `locks` holds the lock of the folder. `loader_bytes` is the GPU memory of the loader that needs most. `record` is
    None on all ranks but rank 0. `saved` is (epoch, step) of the newest checkpoint.
    """

    job: Job
    trainer: Trainer
    steps_per_epoch: int
    locks: ExitStack
    loader_bytes: int
    hooks: Hooks = field(default_factory=active_hooks)
    folder: Path = field(default_factory=Path)
    record: Record | None = None
    state: State = field(default_factory=State)
    trackers: list[Tracker] = field(default_factory=list)
    saved: tuple[int, int] | None = None
    saved_at_s: float = field(default_factory=time.monotonic)

    def begin(self, name: str | None) -> None:
        """Make and lock the folder of a new run, and write run.json.

        Args:
            name: the folder; None: the next free one.

        Raises:
            UserError: the folder exists, or it cannot be made.
        """
        job = self.job
        if not job.world.main:
            return
        self.folder = run_folder.new_run_folder(name, job.config.task)
        try:
            self.locks.enter_context(run_folder.locked(self.folder))
            self.record = describe(job)
            write_record(self.folder, self.record)
            introduce(job, self.trainer, self.folder, loader_bytes=self.loader_bytes)
            for line in preview_lines(job.config):
                say(line)
        except BaseException:
            run_folder.remove_if_empty(self.folder)
            raise

    def resume(self, run: Path, checkpoint: Checkpoint, record: Record) -> None:
        """Put trainer and state back to where the checkpoint was taken, and write the run's files as they were then.

        Raises:
            UserError: the checkpoint is not of this run.
        """
        job, world = self.job, self.job.world
        self.folder, self.state = run, restore(checkpoint, self.trainer)
        if self.state.step > self.steps_per_epoch:
            raise UserError(
                f"{checkpoint.path}: expected at most {self.steps_per_epoch} steps of an epoch, found "
                f"{self.state.step}."
            )
        if world.main and record.version == 1:
            check_same_run(run, record, checkpoint)
            record = record.as_version_2(network_inputs(job.config, job.data))
            # With its identity, before run.json has that: a kill in between leaves a run of version 1.
            save_checkpoint(run, self.trainer, self.state, record)
        self.state.accumulated.keep_share(world.rank, world.size)
        self.saved = self.state.epoch, self.state.step
        if not world.main:
            return
        mend_best(run, self.state)
        epoch, step = self.state.epoch + 1, self.state.step
        self.record = record.resumed_at(epoch, step, surroundings(job.device, world.size))
        write_record(run, self.record)
        self.publish(weights=True)
        introduce(job, self.trainer, self.folder, loader_bytes=self.loader_bytes)
        say(f"  resumes in epoch {epoch} after step {step} of {self.steps_per_epoch} ({checkpoint.path.name})")

    @contextmanager
    def tracking(self) -> Iterator[None]:
        """Open TensorBoard and the tracker, log all finished epochs again, and close both at the end."""
        try:
            if self.record:
                self.trackers = open_trackers(self.job.config, self.folder, self.record)
                for line in self.state.lines:  # a kill may have come before the last of them was logged
                    self.track(line)
            yield
        finally:
            # Before an empty folder is removed: TensorBoard's thread writes into it until then.
            for tracker in self.trackers:
                tracker.close()

    def track(self, line: EpochLine) -> None:
        """Log one epoch."""
        for tracker in self.trackers:
            tracker.log(scalars(line), line.epoch)

    @property
    def checkpoint_is_due(self) -> bool:
        """Whether CHECKPOINT_MINUTES have passed since the last checkpoint."""
        return time.monotonic() - self.saved_at_s >= 60 * self.job.config.checkpoint_minutes

    def save(self, *, best: bool = False) -> None:
        """Write a checkpoint, unless this step has one already; with `best`, write first the weights that it names.

        Raises:
            UserError: the checkpoint cannot be written.
            NotFiniteError: a loss or a weight is not finite.
        """
        with self.hooks.phase("checkpoint"):
            place = self.state.epoch, self.state.step
            if place == self.saved and not best:
                self.saved_at_s = time.monotonic()
                return
            started = time.perf_counter()
            job = self.job
            check_losses(self.state, job.config, job.data.store)
            check_weights(self.state, job.config, self.trainer.net, self.trainer.eval_model)
            state = self.state.gathered(job.world)
            if self.record:
                self._write_checkpoint(state, self.record, best=best)
            job.world.barrier()  # no rank ends while rank 0 writes
            self.saved, self.saved_at_s = place, time.monotonic()
            self.state.accumulated.seconds["checkpoint"] += time.perf_counter() - started

    def _write_checkpoint(self, state: State, record: Record, *, best: bool) -> None:
        job = self.job
        try:
            if best:
                data, config = job.data, job.config
                metadata = model_metadata(
                    config, data.branches, data.inputs, data.store.classes,
                    pool=pools(config, data), stem=stem_of(config, data),
                )  # fmt: skip
                state.best_sha256 = save_best(self.folder, self.trainer.eval_model, state.best, metadata)
                self.state.best_sha256 = state.best_sha256
            save_checkpoint(self.folder, self.trainer, state, record)
        except OSError as error:
            raise UserError(
                f"{self.folder}: no checkpoint could be written ({error.strerror}); {last_good(self.folder)}"
            ) from error

    def publish(self, *, weights: bool) -> None:
        """Write results.npz, metrics.jsonl and, with `weights`, model.safetensors of the best epoch so far."""
        if self.record:
            with self.hooks.phase("publish"):
                publish(self.folder, self.state, self.job.data, self.record, weights=weights)

    def leave(self, error: BaseException) -> None:
        """Tidy up after an interruption: keep a run that has a checkpoint, remove the folder of one that has none."""
        if not self.job.world.main or run_folder.remove_if_empty(self.folder):
            return
        if self.record:
            with suppress(OSError):  # a full disk may be the reason for the interruption
                write_record(self.folder, self.record.with_state("stopped", best_epoch=self.state.best + 1))
        if isinstance(error, NotFiniteError):
            say(f"{self.folder}: stopped. The last good checkpoint is kept, but resuming would diverge again.")
        else:
            say(f"{self.folder}: stopped. To resume it: make train RESUME={shlex.quote(str(self.folder))}")

    def finish(self) -> None:
        """Write that the run is done, and remove its checkpoints."""
        if self.record:
            epoch, sha256 = self.state.best + 1, self.state.best_sha256
            write_record(self.folder, self.record.with_state("done", best_epoch=epoch, model_sha256=sha256))
            remove_checkpoints(self.folder)
