"""Start a training: open the store, choose the device, join the ranks, and run `fit`. Torch and DALI load here.

In: a checked request. Out: an exit code. Leaves the run itself to `fit`.
"""

import dataclasses
import io
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from preprocess.console import StoppedError, UserError, say
from preprocess.splits import Split
from preprocess.zarr_store import Store
from train import run_folder
from train.commands import TrainRequest
from train.config import Config
from train.contract.metrics import read_metrics
from train.contract.record import read_record
from train.device import AMP_SETTING, Device, amp_name, choose_device, processes
from train.distributed import World, join_world, leave_world, lost_another, timed_out, under_torchrun
from train.fit import fit
from train.initial_weights import resolve_weights
from train.lr_curve import lr_lines, suggest
from train.lr_find import find_lr
from train.memory import is_out_of_memory, too_much
from train.messages import end_lines, next_lines
from train.record import check_inputs
from train.setup import Data, Job, check_batch, open_data
from train.signals import Stopped

# If a rank fails, the rank that failed first has most often printed why. The others wait, because torchrun ends them
# before they would print the same. On a machine with many other processes that took more than 5 s.
_WAIT_FOR_TORCHRUN_S = 30


def start(request: TrainRequest, opened: tuple[Store, Split] | None) -> int:
    """Train; returns the exit code. `opened` are the store and its split, if they are open already.

    Raises:
        UserError: what the user can put right.
    """
    local_rank = int(os.environ["LOCAL_RANK"]) if under_torchrun() else None
    if int(os.environ.get("RANK", "0")):
        _be_quiet()
    config, resume = request.config, request.resume
    data = open_data(config, opened)
    count, nodes = processes(config), request.machines.nodes
    if local_rank is None and count * nodes > 1:
        check_batch(config, count * nodes)
        from train.launch import launch  # here: torchrun's launcher imports 100 modules that one process never uses

        return launch(count, request.words(), request.machines, 60 * config.rank_timeout_minutes)
    device = _device(config, data, resume, local_rank)
    world = join_world(device.device, timedelta(minutes=config.rank_timeout_minutes))
    try:
        with _explained_errors(config, world):
            if resume is None:
                config = resolve_weights(config)
            job = Job(config=config, data=data, device=device, world=world)
            if request.find_lr:
                return _find_lr(request, job)
            folder = fit(job, request.run, resume)
    except Stopped as stopped:
        return stopped.code
    finally:
        leave_world(world)
    if not world.main:
        return 0
    record = read_record(folder)
    for line in end_lines(folder, record, read_metrics(folder, record)):
        say(line)
    if request.run_file:  # the caller goes on with the run, and says what is next when it has ended
        request.run_file.write_text(f"{folder}\n")
        return 0
    for line in next_lines(folder):
        say(line)
    return 0


def _find_lr(request: TrainRequest, job: Job) -> int:
    """LR=find: measure, keep the curve, and say what is suggested."""
    curve, path = find_lr(job), run_folder.RUNS / f"lr-find-task{job.config.task}.csv"
    curve.write(path)
    say(f"{path}: {len(curve.rates)} steps from LR {curve.rates[0]:.1e} to {curve.rates[-1]:.1e}")
    suggestion = suggest(curve)
    if request.run_file:  # the caller draws the curve, and then says what is suggested
        request.run_file.write_text(f"{path}\n")
        return 0
    for line in lr_lines(request, suggestion):
        say(line)
    return 0


@contextmanager
def _explained_errors(config: Config, world: World) -> Iterator[None]:
    """Turn full GPU memory and the end of another rank into a UserError; let rank 0 print its error first."""
    try:
        yield
    except (UserError, OSError):
        if not world.main:
            time.sleep(_WAIT_FOR_TORCHRUN_S)
        raise
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise UserError(too_much(config, world.size)) from error
        if isinstance(error, RuntimeError) and world.size > 1 and lost_another(error):
            if timed_out(error):
                minutes = config.rank_timeout_minutes
                raise StoppedError(
                    f"rank {world.rank}: no answer from another process of this run for {minutes:g} minutes "
                    f"(RANK_TIMEOUT_MINUTES={minutes:g})."
                ) from error
            time.sleep(_WAIT_FOR_TORCHRUN_S)
            raise StoppedError(f"rank {world.rank}: another process of this run has ended.") from error
        raise


class _NoTerminal(io.TextIOWrapper):
    """stderr for errors only: progress bars are shown on a terminal, and this says that it is none."""

    def isatty(self) -> bool:
        return False


def _be_quiet() -> None:
    """For all ranks but the first: print errors and nothing else."""
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  # for as long as the process lives
    sys.stderr = _NoTerminal(sys.stderr.buffer, line_buffering=True)


def _device(config: Config, data: Data, resume: Path | None, local_rank: int | None) -> Device:
    """The device. A resumed run keeps its number format, if this device has it; a line names what has changed."""
    if resume is None:
        return choose_device(config, local_rank=local_rank)
    record = read_record(resume)
    check_inputs(record, config, data, f"RESUME={resume}")
    settings = config.replace(amp=AMP_SETTING[record.amp])
    device = choose_device(settings, amp_may_differ=True, local_rank=local_rank)
    ranks = int(os.environ["WORLD_SIZE"]) if local_rank is not None else 1
    now = {"AMP": amp_name(device.amp), **run_folder.machine(device.name), "processes": ranks}
    before = {"AMP": record.amp, **dataclasses.asdict(record.machine)}
    if changed := [f"{name} was {before[name]}, is {value}" for name, value in now.items() if before[name] != value]:
        say(f"{resume}: {'; '.join(changed)}. The chips and their order stay the same; the rounding differs.")
    return device
