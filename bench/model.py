"""Mode `model`: Task 1's train step on one resident batch, without a loader: what each setting gains.

In: nothing. Out: a record's rows. CPU: channels-last or not. GPU: with and without AMP, channels-last and
torch.compile. 64 and 224 pixels, batch 64. Settings take turns, one block of steps each, round after round.
"""

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from bench.work import BATCH
from models.build import build
from models.resnet import branch
from preprocess.console import say
from train.config import TASKS, Config, make_config
from train.cuda_driver import gpu_available
from train.device import Device, choose_device
from train.step import Trainer, make_trainer, train_step

SIDES = (64, 224)
NUM_CLASSES = 17
BLOCK_S, MIN_STEPS = 2.0, 3
Step = Callable[[], None]


def config() -> Config:
    """Task 1 with the default recipe; no store is read."""
    gpu = "0" if gpu_available() else "cpu"
    return make_config("default", task=1, store="-", gpu=gpu, weights="none", batch=BATCH)


def trainer_on(device: Device, *, channels_last: bool = True, compiled: bool = False) -> Trainer:
    """ResNet-18 on RGB in the trainer of `make train`."""
    torch.manual_seed(0)
    model: Any = build("resnet18", (branch(*TASKS[1][0]),), NUM_CLASSES)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(device.device, memory_format=memory_format).train()
    # The schedule steps with every batch, and a benchmark takes any number of steps.
    net: Any = torch.compile(model, dynamic=False) if compiled else model
    return make_trainer(net, config(), device, 1_000_000)


def resident_batch(device: Device, side: int, *, channels_last: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """(images, labels) on the device, from a seed, in the dtype and memory format of the loader."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, side, side, generator=generator).to(device.device, device.image_dtype)
    labels = (torch.rand(BATCH, NUM_CLASSES, generator=generator) < 0.2).float().to(device.device)
    return images.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format), labels


def run(rounds: int) -> dict[str, Any]:
    """The record's rows; `ratio` compares with the setting of `make train`."""
    device = choose_device(config())
    torch.backends.cudnn.benchmark = True
    rows, samples = _settings(device), {}
    for side in SIDES:
        steps = {name: _step(row, side) for name, row in rows.items()}
        for name, step in steps.items():
            rate(step, device)  # warm-up: compiles, chooses kernels
            samples[f"resnet18-{side}-{name}"] = list[float]()
        for _ in range(rounds):
            for name, step in steps.items():
                samples[f"resnet18-{side}-{name}"].append(rate(step, device))
        say(f"model: {side} px done")
    medians = {name: statistics.median(rates) for name, rates in samples.items()}
    default = next(iter(rows))
    return {
        "device": device.name,
        "batch": BATCH,
        "rows": [
            {
                "name": name, "chips_per_s": medians[name],
                "ratio": medians[name] / medians["-".join([*name.split("-")[:2], default])],
                "threads": torch.get_num_threads(), "samples": samples[name],
            }
            for name in samples
        ],
    }  # fmt: skip


def _settings(device: Device) -> dict[str, dict[str, Any]]:
    """name -> arguments; `make train` uses the first."""
    if device.kind == "cpu":
        return {
            "channels-last": {"device": device, "channels_last": True},
            "contiguous": {"device": device, "channels_last": False},
        }
    settings = {}
    for amp, channels_last, compiled in itertools.product((True, False), (True, False), (False, True)):
        name = f"{'amp' if amp else 'float32'}-{'channels-last' if channels_last else 'contiguous'}"
        on = device if amp else replace(device, amp=None)
        settings[name + "-compiled" * compiled] = {"device": on, "channels_last": channels_last, "compiled": compiled}
    return settings


def _step(arguments: dict[str, Any], side: int) -> Step:
    trainer = trainer_on(**arguments)
    images, labels = resident_batch(arguments["device"], side, channels_last=arguments["channels_last"])
    return lambda: void(train_step(trainer, images, labels))


def void(result: object) -> None:
    """Drop a result."""


def rate(step: Step, device: Device) -> float:
    """Chips/s over at least 2 s and 3 steps. Synchronises with the device before and after, rarely in between."""
    synchronize(device)
    started, count, elapsed = time.perf_counter(), 0, 0.0
    while elapsed < BLOCK_S or count < MIN_STEPS:
        step()
        count += 1
        if device.kind == "cuda" and count % 20:  # the host runs ahead of a GPU: read the clock rarely
            continue
        synchronize(device)
        elapsed = time.perf_counter() - started
    return count * BATCH / elapsed


def synchronize(device: Device) -> None:
    """Wait until the GPU has finished its work."""
    if device.kind == "cuda":
        torch.cuda.synchronize(device.device)
