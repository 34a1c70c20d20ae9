"""One training step, one evaluation step. Knows nothing of Zarr, DALI or files; nothing here waits for the GPU."""

from dataclasses import dataclass

import torch
from torch import nn

from train.config import Config
from train.device import Device
from train.metrics import loss_function


@dataclass(kw_only=True)
class Trainer:
    """What a step changes: model, optimiser, schedule, and the scaler that fp16 needs (off otherwise)."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler
    device: Device
    loss: str
    step_every_batch: bool


def make_trainer(model: nn.Module, config: Config, device: Device, steps_per_epoch: int) -> Trainer:
    """Optimiser over the parameters that may learn, and the schedule; the model is already on the device."""
    optimizer = _optimizer(model, config, device)
    total = steps_per_epoch * config.epochs
    schedule: torch.optim.lr_scheduler.LRScheduler
    if config.schedule == "onecycle":
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            # torch wants two steps at least, and 0.3 of the way up is its own default.
            optimizer, max_lr=config.lr, total_steps=max(total, 2), cycle_momentum=False,
        )  # fmt: skip
    else:
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, config.step_epochs, config.step_gamma)
    return Trainer(
        model=model, optimizer=optimizer, schedule=schedule,
        scaler=torch.amp.GradScaler(device.kind, enabled=device.amp is torch.float16),
        device=device, loss=config.loss, step_every_batch=config.schedule == "onecycle",
    )  # fmt: skip


def _optimizer(model: nn.Module, config: Config, device: Device) -> torch.optim.Optimizer:
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Norms' scales and all biases are one-dimensional; decaying them only shrinks what should be free.
    groups = [
        {"params": [p for p in learning if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in learning if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = device.kind == "cuda"
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, fused=fused)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=fused)


def train_step(trainer: Trainer, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Forward, backward, update.

    Args:
        images: (B, channels, height, width), channels-last memory.
        labels: (B, classes) float32.

    Returns:
        Scalar loss and (B, classes) float32 logits, both on the device and detached.
    """
    device = trainer.device
    trainer.optimizer.zero_grad(set_to_none=True)
    with torch.autocast(device.kind, device.amp, enabled=device.amp is not None):
        logits = trainer.model(images)
    loss = loss_function(trainer.loss, logits, labels)
    trainer.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch
    trainer.scaler.step(trainer.optimizer)
    trainer.scaler.update()
    if trainer.step_every_batch:
        trainer.schedule.step()
    return loss.detach(), logits.detach().float()


@torch.inference_mode()
def eval_step(model: nn.Module, device: Device, images: torch.Tensor) -> torch.Tensor:
    """(B, classes) float32 logits on the device. The model is in eval mode."""
    with torch.autocast(device.kind, device.amp, enabled=device.amp is not None):
        logits: torch.Tensor = model(images)
    return logits.float()
