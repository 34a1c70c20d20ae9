"""From a checked configuration to a run that is under way: store, device, ranks. Torch and DALI load here."""

import dataclasses
import io
import os
import shlex
import sys
import time
from pathlib import Path

from preprocess.console import UserError, say
from preprocess.splits import Split
from preprocess.zarr_store import Store
from train import run_folder
from train.commands import TrainRequest
from train.config import Config
from train.contract.record import read_record
from train.device import AMP_SETTING, Device, amp_name, choose_device, processes
from train.distributed import join_world, leave_world, lost_another
from train.fit import fit
from train.initial_weights import resolve_weights
from train.launch import launch, under_torchrun
from train.memory import is_out_of_memory, too_much
from train.record import check_inputs
from train.setup import Data, Job, check_batch, open_data
from train.signals import Stopped

# Most often the rank that failed first has said why. torchrun then ends this process before it says the same; on a
# machine with many other processes that took more than 5 s.
_LET_RANK_0_SPEAK_S = 30


def start(request: TrainRequest, opened: tuple[Store, Split] | None) -> int:
    """Train; returns the exit code. `opened` are the store and its split, if they are open already.

    Raises:
        UserError: what the user can put right.
    """
    ranks = under_torchrun()
    if int(os.environ.get("RANK", "0")):
        _be_quiet()
    config, resume = request.config, request.resume
    data = open_data(config, opened)
    if not ranks and (count := processes(config)) > 1:
        check_batch(config, count)
        return launch(count, request.words())
    device = _device(config, data, resume, int(os.environ["LOCAL_RANK"]) if ranks else None)
    world = join_world(device.device)
    try:
        if resume is None:
            config = resolve_weights(config)
        job = Job(config=config, data=data, device=device, world=world)
        folder = fit(job, request.run, resume)
    except Stopped as stopped:
        return stopped.code
    except (UserError, OSError):
        if not world.main:
            time.sleep(_LET_RANK_0_SPEAK_S)
        raise
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise UserError(too_much(config, world.size)) from error
        if isinstance(error, RuntimeError) and world.size > 1 and lost_another(error):
            time.sleep(_LET_RANK_0_SPEAK_S)
            raise UserError("another process of this run has ended.") from error
        raise
    finally:
        leave_world(world)
    if request.run_file and world.main:
        request.run_file.write_text(f"{folder}\n")
    check = f"make reproduce RUN={shlex.quote(str(folder))}"
    say(f"{folder}: model.safetensors, results.npz, metrics.jsonl, run.json. Check it: {check}")
    return 0


class _NoTerminal(io.TextIOWrapper):
    """Errors come through; progress bars, which look for a terminal, do not."""

    def isatty(self) -> bool:
        return False


def _be_quiet() -> None:
    """Of several ranks, only the first speaks; all may say what is wrong."""
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  # for as long as the process lives
    sys.stderr = _NoTerminal(sys.stderr.buffer, line_buffering=True)


def _device(config: Config, data: Data, resume: Path | None, local_rank: int | None) -> Device:
    """The device; of a run that goes on, with the number format that it had, if this one has that too."""
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
        say(f"{resume}: {'; '.join(changed)}: the same chips in the same order, but other roundings.")
    return device
