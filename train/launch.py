"""GPU=0,1,2,3: run this command once per GPU, with torchrun's launcher. Leaves the ranks to `distributed`."""

import logging
import os
import signal
import sys
import uuid

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from train.signals import CTRL_C, STOPPED


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launch(processes: int, arguments: list[str]) -> int:
    """Run `python -m train ARGUMENTS` in that many processes; returns the exit code that one process would have.

    A signal is passed on to all of them. They write a checkpoint and end, and the launcher waits for that.
    """
    # Each rank prints one line about its error; torchrun would add a page.
    logging.disable(logging.ERROR)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=uuid.uuid4().hex, rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=0, monitor_interval=0.1,
        signals_to_handle="SIGTERM,SIGINT,SIGUSR1",
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-m", "train", *arguments)
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    except SignalException as stopped:
        return CTRL_C if stopped.sigval == signal.SIGINT else STOPPED
    return 0
