"""LR=find: a learning-rate range test. The learning rate grows from step to step, and the losses show which one suits.

In: a `Job`. Out: an `LrCurve`. The network is thrown away, and no run's folder is made.

The method is Smith's (Cyclical Learning Rates for Training Neural Networks, arXiv:1506.01186, section 3.3) in the form
of fastai's `lr_find`: an exponential sweep that ends when the loss diverges. The package torch-lr-finder makes steps of
its own; these are those of the training, so AMP, ACCUMULATE, BALANCE, SMOOTHING, TRUNK_LR and FINETUNE act as there.
"""

from collections.abc import Generator
from contextlib import closing

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR

from pipeline.loader import Batch, ChipLoader
from preprocess.console import Progress, UserError
from train.device import prepare_torch
from train.losses import positive_weights
from train.lr_curve import LrCurve
from train.optim import make_optimizer
from train.setup import Job, check_graphs, make_model, make_train_loader
from train.step import Trainer, make_trainer, train_step

LOWEST, HIGHEST = 1e-6, 1.0
STEPS = 120  # 20 per factor of 10
DIVERGED = 4.0  # times the lowest loss of a step, as in fastai; a step's loss varies by less than 1.5 times


def find_lr(job: Job) -> LrCurve:
    """Train at most STEPS steps, from LR 1e-6 to 1, and return their losses. Waits for the device in each step.

    Raises:
        UserError: several processes, or losses that are not finite from the start.
    """
    if job.world.size > 1:
        raise UserError("LR=find: expected one process, found several. Add GPU=0; BATCH must fit into its memory.")
    config, data, device = job.config.replace(ema=0.0, lr=1.0), job.data, job.device
    prepare_torch(config, device)
    net = make_model(config, data, pretrained=True)
    net = net.to(device.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    loader = make_train_loader(config, data, device)
    check_graphs(config, device, (loader,))
    weight = positive_weights(data.store.labels[data.split.train], config.balance)
    trainer = make_trainer(net, config, device, len(loader), positive_weight=weight)
    trainer.optimizer = make_optimizer(net, config)  # without what the schedule has set
    trainer.schedule = LambdaLR(trainer.optimizer, lambda step: float(rate(step)))
    trainer.step_every_batch = True
    try:
        return _sweep(trainer, loader)
    finally:
        loader.close()


def rate(step: int) -> float:
    """The learning rate of a step, from 0."""
    return float(LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1)))


def _sweep(trainer: Trainer, loader: ChipLoader) -> LrCurve:
    trainer.net.train()
    losses: list[float] = []
    with closing(_forever(loader)) as batches, Progress("LR=find", total=STEPS, unit="steps") as progress:
        for step in range(STEPS):
            parts = []
            for micro_batch in range(trainer.accumulate):
                batch = next(batches)
                loss, _ = train_step(trainer, batch.images_nchw, batch.labels, micro_batch=micro_batch)
                parts.append(float(loss))  # waits for the device: the next step depends on it
            mean = float(np.mean(parts))
            if not np.isfinite(mean) or mean > DIVERGED * min([*losses, mean]):
                break
            losses.append(mean)
            progress.update(1, f"LR {rate(step):.1e} loss {mean:.3f}")
    if not losses:
        raise UserError("LR=find: the loss of the first step is not finite. `make preview` shows what is trained on.")
    return LrCurve(rates=np.array([rate(step) for step in range(len(losses))]), losses=np.array(losses))


def _forever(loader: ChipLoader) -> Generator[Batch, None, None]:
    """The batches of epoch 0, 1, 2 and so on."""
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1
