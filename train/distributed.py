"""One process, or several that torchrun started: the rank of this one, and what ranks exchange.

Ranks wait for each other only here and inside a step. Here: `gather` and `mean` at the end of an epoch and for a
checkpoint, and `barrier`; `agree` works one step late, so that no rank blocks. Inside a step, gradients are averaged
(DistributedDataParallel) and BatchNorm statistics are shared (`sync_batchnorm`).
"""

import os
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import distributed

# What the operating system says of a connection to a rank or a machine that is gone, as gloo quotes it.
_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "No route to host")


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@dataclass(kw_only=True)
class World:
    """`rank` of `size` processes, `local_rank` on this machine. With one process every method returns its argument."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    _host_group: Any = None  # gloo, for small messages on the host; gradients may use NCCL
    _highest: torch.Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64))
    _pending: Any = None

    @property
    def main(self) -> bool:
        """Whether this is rank 0, which writes files and prints."""
        return self.rank == 0

    def share(self, chips: np.ndarray) -> np.ndarray:
        """The chips of this rank: rank, rank + size, rank + 2 * size, ...

        All ranks get the same number: a shorter share repeats a chip, which `gather` drops.
        """
        if self.size == 1:
            return chips
        share = chips[self.rank :: self.size]
        missing = -(-len(chips) // self.size) - len(share)
        return np.concatenate([share, np.repeat(chips[:1], missing)])

    def gather(self, rows: torch.Tensor, count: int | None = None) -> torch.Tensor:
        """The rows of all ranks, on the host, in the order before `share`.

        Args:
            rows: (n, ...), the same n on each rank.
            count: the number of rows before `share`.
        """
        rows = rows.cpu()
        if self.size == 1:
            return rows
        shares = [torch.empty_like(rows) for _ in range(self.size)]
        distributed.all_gather(shares, rows.contiguous(), group=self._host_group)
        return torch.stack(shares, dim=1).flatten(0, 1)[:count]

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over the ranks, on the host."""
        values = values.cpu()
        if self.size > 1:
            distributed.all_reduce(values, group=self._host_group)
            values /= self.size
        return values

    def agree(self, value: int) -> int:
        """Maximum over ranks of the value passed on the previous call. One step late, so no rank blocks."""
        if self.size == 1:
            return value
        agreed = 0
        if self._pending is not None:
            self._pending.wait()
            agreed = int(self._highest)
        self._pending = None
        if not agreed:
            self._highest = torch.tensor([value])
            self._pending = distributed.all_reduce(
                self._highest, op=distributed.ReduceOp.MAX, group=self._host_group, async_op=True
            )
        return agreed

    def barrier(self) -> None:
        """Wait until all ranks have called this."""
        if self.size > 1:
            distributed.barrier(group=self._host_group)


def join_world(device: torch.device, timeout: timedelta) -> World:
    """The world that torchrun's environment variables describe; one process without them.

    Args:
        device: where the gradients are. NCCL exchanges them between GPUs, gloo between CPUs.
        timeout: how long a rank waits for the others before an exchange fails.
    """
    size = int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if size == 1:
        return World()
    if device.type == "cuda":
        # After NCCL's time-out its watchdog aborts the process. gloo's exchange of the same step fails first, with an
        # exception.
        distributed.init_process_group("nccl", timeout=timeout + timedelta(minutes=1))
    else:
        distributed.init_process_group("gloo", timeout=timeout)
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    group = distributed.new_group(backend="gloo", timeout=timeout)
    return World(rank=rank, size=size, local_rank=local_rank, _host_group=group)


def lost_another(error: RuntimeError) -> bool:
    """Whether an exchange failed because another rank has ended or cannot be reached. gloo has no exception type for
    that."""
    return timed_out(error) or any(text in str(error) for text in _LOST) or isinstance(error, distributed.DistError)


def timed_out(error: RuntimeError) -> bool:
    """Whether an exchange failed because another rank did not answer in time."""
    return "timed out" in str(error).lower()


def leave_world(world: World) -> None:
    """Undo `join_world`."""
    if world.size > 1:
        distributed.destroy_process_group()
