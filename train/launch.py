"""GPU=0,1,2,3 and NODES=2: run the command once per GPU, with torchrun's launcher. Leaves ranks to `distributed`."""

import functools
import logging
import os
import signal
import sys
import threading
import uuid
from typing import Any

from torch.distributed import DistError
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher import api
from torch.distributed.launcher.api import LaunchConfig

from preprocess.console import StoppedError, UserError, say
from train.commands import MachineWords
from train.signals import CTRL_C, STOPPED

_ANSWER_S = 5  # for machine 0 to say that it waits no more
_JOIN_MINUTES = 15  # how long a machine waits for the others to start the same command


def launch(processes: int, arguments: list[str], machines: MachineWords, timeout_s: float) -> int:
    """Run `python -m train ARGUMENTS` in that many processes here; returns the exit code that one process would have.

    When they have ended, machine 0 waits at most `timeout_s` for the others, and the others as long for its answer.

    A signal is passed on to all of them. They write a checkpoint and end, and the launcher waits for that.

    Raises:
        StoppedError: the machines did not find each other.
        UserError: the port of HEAD is in use.
    """
    # Each rank prints one line about its error; torchrun would add a page.
    logging.disable(logging.ERROR)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    config = LaunchConfig(
        nproc_per_node=processes, max_restarts=0, monitor_interval=0.1,
        signals_to_handle="SIGTERM,SIGINT,SIGUSR1", **_rendezvous(machines),
    )  # fmt: skip
    if machines.nodes > 1:
        if os.environ.get("TORCH_CPP_LOG_LEVEL") == "FATAL":
            os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # of the ranks; see `commands.train`
        say(f"waits at most {_JOIN_MINUTES} minutes for NODES={machines.nodes} machines (HEAD={machines.head})")
    # `elastic_launch` takes the class from its module.
    api.LocalElasticAgent = functools.partial(_Agent, timeout_s)  # type: ignore[attr-defined,assignment]
    try:
        api.elastic_launch(config, sys.executable)("-m", "train", *arguments)
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    except SignalException as stopped:
        return CTRL_C if stopped.sigval == signal.SIGINT else STOPPED
    except DistError as error:
        if "EADDRINUSE" in str(error):
            raise UserError(f"HEAD={machines.head}: expected a free port, found one in use. Choose another.") from error
        raise StoppedError(
            f"HEAD={machines.head}: expected NODES={machines.nodes} machines that run this command within "
            f"{_JOIN_MINUTES} minutes, found fewer, or no connection to this address."
        ) from error
    return 0


class _Agent(LocalElasticAgent):
    """Torchrun's launcher of one machine, which waits a limited time for the others after its processes have ended.

    Torchrun waits 300 s. And if the network is gone, a machine that is not the first waits for an answer of machine 0
    until the system gives up the connection: the request has no limit of its own.
    """

    def __init__(self, timeout_s: float, **named: Any) -> None:
        super().__init__(exit_barrier_timeout=timeout_s, **named)
        self._timeout_s = timeout_s

    def _exit_barrier(self) -> None:
        waits = threading.Thread(target=super()._exit_barrier, daemon=True)
        waits.start()
        waits.join(self._timeout_s + _ANSWER_S)


def _rendezvous(machines: MachineWords) -> dict[str, Any]:
    """The launcher's settings for these machines.

    With several, the rendezvous is static: rank 0, which writes the run, is on machine 0, and a launcher asks the
    others nothing while the ranks run. A dynamic one reads a store on machine 0 all the time; without a network it
    ended 2 minutes after the ranks.
    """
    nodes = {"min_nodes": machines.nodes, "max_nodes": machines.nodes}
    if machines.nodes == 1:
        return {**nodes, "run_id": uuid.uuid4().hex, "rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
    return {
        **nodes, "run_id": "canopy", "rdzv_backend": "static", "rdzv_endpoint": machines.head,
        "rdzv_configs": {"rank": machines.node, "timeout": 60 * _JOIN_MINUTES},
    }  # fmt: skip
