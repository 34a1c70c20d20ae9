"""One process, or several that torchrun started: the rank of this one, and what ranks exchange.

Ranks wait for each other only here and inside a step. Here: `gather` and `mean` at the end of an epoch and for a
checkpoint, and `barrier`; `agree` works one step late, so that no rank blocks. Inside a step, gradients are averaged
(DistributedDataParallel) and BatchNorm statistics are shared (`sync_batchnorm`).
"""

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import distributed


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


def join_world(device: torch.device) -> World:
    """The world that torchrun's environment variables describe; one process without them.

    Args:
        device: where the gradients are. NCCL exchanges them between GPUs, gloo between CPUs.
    """
    size = int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if size == 1:
        return World()
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    return World(rank=rank, size=size, local_rank=local_rank, _host_group=distributed.new_group(backend="gloo"))


def lost_another(error: RuntimeError) -> bool:
    """Whether an exchange failed because another rank has ended. gloo has no exception type for that."""
    gone = any(text in str(error) for text in ("Connection closed by peer", "Connection reset by peer"))
    return gone or isinstance(error, distributed.DistError)


def leave_world(world: World) -> None:
    """Undo `join_world`."""
    if world.size > 1:
        distributed.destroy_process_group()
