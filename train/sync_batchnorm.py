"""BatchNorm over the chips of all ranks, so that a batch on several processes gives what it gives on one.

On GPUs this is torch's SyncBatchNorm. That does not run on CPUs, so `GlobalBatchNorm` does the same there. It is
needed because the command accepts GPU=cpu,cpu, and torchrun on machines without a GPU. With statistics per rank, each
rank would score its test chips with another network. Tests use it to show, without a GPU, that two ranks train as one.
"""

from typing import cast

import torch
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable


class GlobalBatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with the training statistics of all ranks' batches together, which have equal sizes."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> the same, normalised."""
        if not self.training:
            return super().forward(input)
        values = input.float()
        mean = _mean_over_ranks(values.mean((0, 2, 3)))
        centred = values - mean[None, :, None, None]
        var = _mean_over_ranks(centred.square().mean((0, 2, 3)))
        self._update_running(mean.detach(), var.detach(), values.numel() // values.shape[1])
        scaled = centred * torch.rsqrt(var + self.eps)[None, :, None, None]
        return (scaled * self.weight[None, :, None, None] + self.bias[None, :, None, None]).to(input.dtype)

    @torch.no_grad()
    def _update_running(self, mean: torch.Tensor, var: torch.Tensor, count: int) -> None:
        count *= torch.distributed.get_world_size()
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * (count / (count - 1)), self.momentum)


class _Sum(torch.autograd.Function):
    """Sum over ranks. Every rank's result depends on this rank's values, so the gradients are summed, too.

    torch.distributed.nn.functional.all_reduce does the same, but it is deprecated and its successor is private.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, values: torch.Tensor) -> torch.Tensor:
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total


def _mean_over_ranks(values: torch.Tensor) -> torch.Tensor:
    total = cast(torch.Tensor, _Sum.apply(values))
    return total / torch.distributed.get_world_size()


def share_statistics(net: nn.Module, kind: str) -> nn.Module:
    """The network with all BatchNorm layers over all ranks. `kind` of the device: "cuda" or "cpu"."""
    if kind == "cuda":
        shared = nn.SyncBatchNorm.convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]  # torch
        return cast(nn.Module, shared)
    for module in net.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm
    return net
