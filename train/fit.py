"""`fit`: build network, loaders and trainer, begin or resume the run, train it, and leave a run folder."""

from contextlib import ExitStack
from pathlib import Path

import torch

from pipeline.loader import ChipLoader
from train import run_folder
from train.checkpoint import load_checkpoint
from train.checkpoint_files import sweep
from train.contract.record import read_record
from train.device import prepare_torch
from train.loop import RunLoop
from train.losses import positive_weights
from train.run_life import ActiveRun
from train.setup import Job, check_graphs, make_eval_loader, make_model, make_train_loader
from train.signals import StopSignals
from train.step import make_trainer
from train.sync_batchnorm import share_statistics


def fit(job: Job, name: str | None, resume: Path | None) -> Path:
    """Train, and leave a run folder.

    Args:
        job: what is trained, on which chips, where, by which ranks.
        name: folder of a new run; None: the next free one.
        resume: folder of a run to continue instead.

    Returns:
        The run's folder.

    Raises:
        UserError: what the user can put right. The folder of a new run without a checkpoint is removed.
        Stopped: a signal asked for it; a checkpoint is written.
    """
    with ExitStack() as locks:
        return _fit(job, name, resume, locks)


def _fit(job: Job, name: str | None, resume: Path | None, locks: ExitStack) -> Path:
    config, data, device, world = job.config, job.data, job.device, job.world
    prepare_torch(config, device)
    if resume and world.main:
        locks.enter_context(run_folder.locked(resume))
        sweep(resume)
    record = read_record(resume) if resume else None
    checkpoint = load_checkpoint(resume, config, record) if resume and record else None
    world.barrier()  # all ranks have read: from here on, rank 0 may write these files
    net = _make_network(job, pretrained=checkpoint is None)
    train_loader = make_train_loader(config, data, device, world)
    splits = ["val", "test"] if len(data.split.val) else ["test"]
    eval_loaders = {split: make_eval_loader(config, data, device, split, world) for split in splits}
    loaders: tuple[ChipLoader, ...] = (train_loader, *eval_loaders.values())
    check_graphs(config, device, loaders)
    steps_per_epoch = len(train_loader) // config.accumulate
    weight = positive_weights(data.store.labels[data.split.train], config.balance)
    trainer = make_trainer(net, config, device, steps_per_epoch, positive_weight=weight, ranks=world.size)
    run = ActiveRun(
        job=job, trainer=trainer, steps_per_epoch=steps_per_epoch, locks=locks,
        loader_bytes=max(loader.device_bytes for loader in loaders),
    )  # fmt: skip
    with StopSignals() as stop:
        if resume and checkpoint and record:
            run.resume(resume, checkpoint, record)
        else:
            run.begin(name)
        try:
            RunLoop(run=run, train_loader=train_loader, eval_loaders=eval_loaders, stop=stop).run_epochs()
        except BaseException as error:
            run.leave(error)
            raise
    run.finish()
    for loader in loaders:
        loader.close()
    return run.folder


def _make_network(job: Job, *, pretrained: bool) -> torch.nn.Module:
    """The network on its device; with several ranks its BatchNorm layers share their statistics."""
    net = make_model(job.config, job.data, pretrained=pretrained)
    if job.world.size > 1:
        net = share_statistics(net, job.device.kind)
    moved: torch.nn.Module = net.to(job.device.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved
