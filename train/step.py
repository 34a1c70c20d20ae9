"""One training step and one evaluation step. Leaves Zarr, DALI and files to others.

Nothing here waits for the GPU. (With several GPUs torch's SyncBatchNorm waits once per layer: docs/training.md.)
"""

import inspect
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from train.config import Config
from train.contract.checkpoint import TrainerValues
from train.device import Device
from train.losses import loss_function
from train.optim import Ema, make_optimizer, make_schedule

# Buffers need no broadcast, because BatchNorm statistics are shared. Torch before 2.14 (2.11 in some containers) has
# another name for that argument.
_PARAMETERS = inspect.signature(DistributedDataParallel.__init__).parameters
_NO_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _PARAMETERS else "broadcast_buffers": False
}


@dataclass(kw_only=True)
class Trainer:
    """All that a step changes: network, optimizer, schedule, moving average, and the scaler that fp16 needs.

    `net` holds the weights. `model` is what a step calls: `net`, wrapped for several ranks and compiled.
    """

    net: nn.Module
    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler
    ema: Ema | None
    device: Device
    loss: str
    smoothing: float
    positive_weight: torch.Tensor | None
    accumulate: int
    step_every_batch: bool
    updates: int = 0

    @property
    def eval_model(self) -> nn.Module:
        """The network that is evaluated and saved: the moving average, if there is one."""
        return self.ema.net if self.ema else self.net

    @property
    def last_lr(self) -> float:
        """The learning rate of the newest step. Checkpoints of earlier versions hold only that of the next step."""
        group = self.optimizer.param_groups[-1]
        return float(group.get("last_lr", group["lr"]))

    def unsynced(self) -> AbstractContextManager[None]:
        """A context in which each rank adds up its gradients without averaging them over the ranks."""
        inner = getattr(self.model, "_orig_mod", self.model)  # where torch.compile keeps the module
        return inner.no_sync() if isinstance(inner, DistributedDataParallel) else nullcontext()

    def tensors(self) -> dict[str, torch.Tensor]:
        """All tensors that a checkpoint keeps, by name."""
        tensors = {f"net.{name}": value for name, value in self.net.state_dict().items()}
        if self.ema:
            tensors |= {f"ema.{name}": value for name, value in self.ema.net.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items() if value is not None}
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.device.kind == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device.device)
        return tensors

    def values(self) -> TrainerValues:
        """Everything else that a checkpoint keeps."""
        return TrainerValues(
            updates=self.updates, groups=tuple(self.optimizer.state_dict()["param_groups"]),
            schedule=self.schedule.state_dict(), scaler=self.scaler.state_dict(),
        )  # fmt: skip

    def restore(self, tensors: dict[str, torch.Tensor], values: TrainerValues) -> None:
        """The reverse of `tensors` and `values`.

        Raises:
            RuntimeError, ValueError, KeyError, IndexError, TypeError: they are of another network or optimizer.
        """
        self.net.load_state_dict(_under("net.", tensors))
        if self.ema:
            self.ema.net.load_state_dict(_under("ema.", tensors))
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in _under("optimizer.", tensors).items():
            index, key = name.split(".")
            like = parameters[int(index)]
            if value.ndim and value.shape != like.shape:  # fused kernels do not check it
                raise ValueError(f"optimizer.{name} has the shape {tuple(value.shape)}")
            # In the memory order of the parameter: fused kernels read both in the same order.
            state.setdefault(int(index), {})[key] = (
                torch.empty_like(like, dtype=value.dtype).copy_(value) if value.shape == like.shape else value
            )
        self.optimizer.load_state_dict({"state": state, "param_groups": list(values.groups)})
        self.schedule.load_state_dict(values.schedule)
        if values.scaler and self.scaler.is_enabled():
            self.scaler.load_state_dict(values.scaler)
        self.updates = values.updates
        torch.set_rng_state(tensors["rng.cpu"])
        if self.device.kind == "cuda" and "rng.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.device.device)


def _under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def make_trainer(
    net: nn.Module, config: Config, device: Device, steps_per_epoch: int, *,
    positive_weight: torch.Tensor | None = None, ranks: int = 1,
) -> Trainer:  # fmt: skip
    """Optimizer, schedule and the rest for a network that is on its device.

    With several `ranks`, the network's BatchNorm layers already share their statistics (`sync_batchnorm`). This adds
    the averaging of gradients.
    """
    optimizer = make_optimizer(net, config)
    return Trainer(
        net=net, model=_model(net, config, device, ranks), optimizer=optimizer,
        schedule=make_schedule(optimizer, config, steps_per_epoch),
        scaler=torch.amp.GradScaler(device.kind, enabled=device.amp is torch.float16),
        ema=Ema(net, config.ema) if config.ema else None,
        device=device, loss=config.loss, smoothing=config.smoothing,
        positive_weight=None if positive_weight is None else positive_weight.to(device.device),
        accumulate=config.accumulate, step_every_batch=config.schedule != "step",
    )  # fmt: skip


def _model(net: nn.Module, config: Config, device: Device, ranks: int) -> nn.Module:
    if ranks > 1:
        net = DistributedDataParallel(
            net,
            [device.device] if device.kind == "cuda" else None,
            gradient_as_bucket_view=True,
            **_NO_BUFFERS,
        )
    if config.compile == "off":
        return net
    # "max" chooses kernels by timing and, on a GPU, replays the step as CUDA graphs. With gradient accumulation the
    # gradients would be in a graph's memory, which the next micro-batch overwrites.
    graphs = "" if config.accumulate == 1 else "-no-cudagraphs"
    mode = "default" if config.compile == "default" else f"max-autotune{graphs}"
    return cast(nn.Module, torch.compile(net, mode=mode))


def train_step(
    trainer: Trainer, images: torch.Tensor, labels: torch.Tensor, *, micro_batch: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Forward and backward pass of a micro-batch; with the last one of a step also the update.

    Args:
        images: (B, channels, height, width), channels-last memory.
        labels: (B, classes) float32.
        micro_batch: which of the `accumulate` micro-batches of this step it is, from 0.

    Returns:
        Scalar loss and (B, classes) float32 logits, both on the device and detached.
    """
    device = trainer.device
    if micro_batch == 0:
        trainer.optimizer.zero_grad(set_to_none=True)
    last = micro_batch == trainer.accumulate - 1
    with nullcontext() if last else trainer.unsynced():
        with torch.autocast(device.kind, device.amp, enabled=device.amp is not None):
            logits = trainer.model(images)
        loss = loss_function(
            trainer.loss, logits, labels, positive_weight=trainer.positive_weight, smoothing=trainer.smoothing
        )
        share = loss / trainer.accumulate if trainer.accumulate > 1 else loss
        trainer.scaler.scale(share).backward()  # type: ignore[no-untyped-call]  # torch
    if last:
        trainer.scaler.step(trainer.optimizer)
        trainer.scaler.update()
        if trainer.ema:
            trainer.ema.update(trainer.updates)
        trainer.updates += 1
        for group in trainer.optimizer.param_groups:
            group["last_lr"] = group["lr"]  # of this step; the schedule sets "lr" to that of the next step
        if trainer.step_every_batch:
            trainer.schedule.step()
    # A copy, because CUDA graphs overwrite the logits in the next step.
    return loss.detach(), logits.detach().float().clone()


@torch.inference_mode()
def eval_step(model: nn.Module, device: Device, images: torch.Tensor) -> torch.Tensor:
    """(B, classes) float32 logits on the device. The model is in eval mode."""
    with torch.autocast(device.kind, device.amp, enabled=device.amp is not None):
        logits: torch.Tensor = model(images)
    return logits.float()
