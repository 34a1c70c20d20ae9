"""BatchNorm over the chips of all ranks, so that a batch dealt to several processes gives what it gives in one.

On GPUs that is torch's SyncBatchNorm. It does not run on CPUs: `GlobalBatchNorm` is the same written plainly.
"""

from typing import cast

import torch
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable


class GlobalBatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose training statistics are those of all ranks' batches together, which are of one size."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> the same, normalised."""
        if not self.training:
            return super().forward(input)
        values = input.float()
        mean = _over_ranks(values.mean((0, 2, 3)))
        centred = values - mean[None, :, None, None]
        var = _over_ranks(centred.square().mean((0, 2, 3)))
        self._follow(mean.detach(), var.detach(), values.numel() // values.shape[1])
        scaled = centred * torch.rsqrt(var + self.eps)[None, :, None, None]
        return (scaled * self.weight[None, :, None, None] + self.bias[None, :, None, None]).to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: torch.Tensor, var: torch.Tensor, count: int) -> None:
        count *= torch.distributed.get_world_size()
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * (count / (count - 1)), self.momentum)


class _Sum(torch.autograd.Function):
    """Sum over ranks; each rank's part in everybody's result gives it the sum of everybody's gradients."""

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


def _over_ranks(values: torch.Tensor) -> torch.Tensor:
    total = cast(torch.Tensor, _Sum.apply(values))
    return total / torch.distributed.get_world_size()


def share_statistics(net: nn.Module, kind: str) -> nn.Module:
    """The network with all BatchNorms over all ranks; `kind` is the device's, "cuda" or "cpu"."""
    if kind == "cuda":
        shared = nn.SyncBatchNorm.convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]  # torch
        return cast(nn.Module, shared)
    for module in net.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = GlobalBatchNorm
    return net
