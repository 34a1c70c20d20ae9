"""One process, or several that torchrun started: who I am, and the few things that ranks tell each other.

Ranks wait for each other here and nowhere else: `agree` (one step late, so that nobody waits in fact), `gather` and
`mean` at the end of an epoch and for a checkpoint, `barrier`; and inside a step, where gradients are averaged
(DistributedDataParallel) and BatchNorm statistics are shared.
"""

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import distributed


@dataclass(kw_only=True)
class World:
    """`rank` of `size` processes, `local_rank` on this machine. Alone, every method gives back what it is given."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    _side: Any = None  # a gloo group: small words on the host, whatever the gradients travel on
    _asked: torch.Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64))
    _pending: Any = None

    @property
    def main(self) -> bool:
        """The one that writes and speaks."""
        return self.rank == 0

    def share(self, chips: np.ndarray) -> np.ndarray:
        """Every size-th chip from mine on; as many for each rank (a short one repeats a chip; `gather` drops it)."""
        if self.size == 1:
            return chips
        mine = chips[self.rank :: self.size]
        missing = -(-len(chips) // self.size) - len(mine)
        return np.concatenate([mine, np.repeat(chips[:1], missing)])

    def gather(self, rows: torch.Tensor, count: int | None = None) -> torch.Tensor:
        """Rows of all ranks, on the host, in the order from which `share` dealt them.

        Args:
            rows: (n, ...), as many on each rank.
            count: how many there were before `share`.
        """
        rows = rows.cpu()
        if self.size == 1:
            return rows
        parts = [torch.empty_like(rows) for _ in range(self.size)]
        distributed.all_gather(parts, rows.contiguous(), group=self._side)
        return torch.stack(parts, dim=1).flatten(0, 1)[:count]

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over the ranks, on the host."""
        values = values.cpu()
        if self.size > 1:
            distributed.all_reduce(values, group=self._side)
            values /= self.size
        return values

    def agree(self, wish: int) -> int:
        """The highest wish of any rank at the last call: a step late, and so without waiting for anybody."""
        if self.size == 1:
            return wish
        agreed = 0
        if self._pending is not None:
            self._pending.wait()
            agreed = int(self._asked)
        self._pending = None
        if not agreed:
            self._asked = torch.tensor([wish])
            self._pending = distributed.all_reduce(
                self._asked, op=distributed.ReduceOp.MAX, group=self._side, async_op=True
            )
        return agreed

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.size > 1:
            distributed.barrier(group=self._side)


def join_world(device: torch.device) -> World:
    """The world that torchrun's environment tells of; alone without one.

    Args:
        device: where gradients are: they travel by NCCL between GPUs, by gloo between CPUs.
    """
    size = int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if size == 1:
        return World()
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    return World(rank=rank, size=size, local_rank=local_rank, _side=distributed.new_group(backend="gloo"))


def lost_another(error: RuntimeError) -> bool:
    """Whether ranks could not talk because one of them has ended. gloo has no type of its own for it."""
    gone = any(text in str(error) for text in ("Connection closed by peer", "Connection reset by peer"))
    return gone or isinstance(error, distributed.DistError)


def leave_world(world: World) -> None:
    """End what `join_world` began."""
    if world.size > 1:
        distributed.destroy_process_group()
