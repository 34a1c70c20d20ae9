"""`make gpu-check`: is the GPU path right on this machine, and does the GPU wait? One verdict in the last line.

The tests of tests/test_gpu.py first (batches of every kind against the CPU's, to the bit where numbers are whole), then
half a minute of loader and step on the bench chips. Exit code 0: all is well; 1: something is wrong, and the line says
where; 2: there is no GPU to check. It needs what training needs and pytest, nothing else.
"""

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch

from bench.chips import make_chips
from bench.gpu_tests import ROOT, Result, run_tests
from bench.model import config, rate, resident_batch, trainer_on, void
from bench.work import BATCH, FLIPS, SEED, Work
from pipeline.inputs import raw_inputs
from pipeline.loader import ChipLoader, train_loader
from preprocess.console import UserError, one_line, run, say
from train.cuda_driver import obstacle
from train.device import choose_device, prepare_torch
from train.step import train_step

LOG = Path("gpu-check.log")
RUN_S = 6.0
_CHIPS = 512


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Chips a second: the loader alone (by name of its way), the step alone, and both together."""

    loaders: dict[str, float]
    step: float
    together: float


def main() -> int:
    """Check, measure, judge."""
    if hindered := obstacle():
        raise UserError(f"gpu-check: no GPU can be used on this machine: {hindered.reason}. Nothing was checked.")
    say(f"{torch.cuda.get_device_name()}: running the GPU tests (minutes; what they print goes to {LOG})")
    result = run_tests(ROOT / "tests" / "test_gpu.py", LOG)
    if line := what_failed(result):
        say(line)
        return 1
    try:
        speed = measure(make_chips(Path("bench/data"), _CHIPS))
    except UserError:
        raise
    except Exception as error:
        # Whatever DALI, CUDA or torch raise here: it is what this command is there to find.
        with LOG.open("a") as log:
            traceback.print_exc(file=log)
        reason = one_line(" ".join(str(error).split()))[:200]
        say(f"gpu-check: WRONG: {count_tests(result)}, but the short bench failed ({reason}); see {LOG}.")
        return 1
    say(f"ResNet-18 step on a resident batch: {speed.step:,.0f} chips/s; with the loader: {speed.together:,.0f}")
    say(verdict(result, speed))
    return 0


def what_failed(result: Result) -> str:
    """One line if the tests say that something is wrong; "" if not."""
    if result.problem or result.failed:
        parts = [result.problem] if result.problem else []
        if result.failed:
            parts.append(f"{len(result.failed)} tests failed, first {result.failed[0]}")
        return f"gpu-check: WRONG: {'; '.join(parts)}; see {LOG}. DECODE=host may help."
    if not result.passed:
        why = f"all {result.skipped} were skipped" if result.skipped else "there was none"
        return f"gpu-check: WRONG: no test was run ({why}), so nothing is known; see {LOG}."
    return ""


def count_tests(result: Result) -> str:
    """How many tests passed, and how many could not be run here."""
    return f"{result.passed} tests passed" + (f" ({result.skipped} skipped)" if result.skipped else "")


def verdict(result: Result, speed: Speed) -> str:
    """The tests passed: does the GPU wait?"""
    share = speed.together / speed.step
    best = max(speed.loaders, key=lambda name: speed.loaders[name])
    if share < 0.95:
        return (
            f"gpu-check: right, but the GPU waits {1 - share:.0%} of the time: {count_tests(result)}; "
            f"the best loader here is {best}. `make tune` chooses its settings."
        )
    waits = f"the GPU waits {max(0.0, 1 - share):.0%} of the time"
    return f"gpu-check: right: {count_tests(result)}; {waits}; the best loader is {best}."


def measure(work: Work) -> Speed:
    """Half a minute: every way of loading on its own, the step on its own, and the default loader under the step."""
    device = choose_device(config())
    prepare_torch(config(), device)  # as `make train` does: cuDNN may choose its fastest kernels
    bands = ("red", "green", "blue")
    ways = {
        "LZ4 inflated on the GPU": ("lz4", "device", "none"),
        "LZ4 inflated on the host": ("lz4", "host", "none"),
        "CODEC=none": ("none", "auto", "none"),
        "CACHE=device": ("lz4", "auto", "device"),
    }
    loaders = {}
    for name, (codec, decode, cache) in ways.items():
        store = work.store(codec)
        chips = np.arange(store.num_chips)
        loaders[name] = train_loader(
            store, chips, raw_inputs(store, bands, chips), batch_size=BATCH, seed=SEED, flips=FLIPS,
            device=device.device, dtype=device.image_dtype, decode=decode, cache=cache,
        )  # fmt: skip
    rates = {}
    for name, loader in loaders.items():
        rates[name] = _loader_rate(loader)
        say(f"loader, {name}: {rates[name]:,.0f} chips/s")
    trainer = trainer_on(device)
    images, labels = resident_batch(device, work.crop[0])
    for _ in range(2):  # first a warm-up: kernels are loaded and chosen
        step = rate(lambda: void(train_step(trainer, images, labels)), device)
    batches = _endless(loaders["LZ4 inflated on the GPU"])

    def real() -> None:
        batch = next(batches)
        train_step(trainer, batch.images_nchw, batch.labels)

    return Speed(loaders=rates, step=step, together=rate(real, device))


def _endless(loader: ChipLoader) -> Iterator:
    for epoch in count():
        yield from loader.epoch(epoch)


def _loader_rate(loader: ChipLoader, synchronize: Callable[[], None] = torch.cuda.synchronize) -> float:
    batches = _endless(loader)
    for _ in range(len(loader)):
        next(batches)
    synchronize()
    started, taken = time.perf_counter(), 0
    while time.perf_counter() - started < RUN_S:
        taken += len(next(batches).chips)
    synchronize()
    return taken / (time.perf_counter() - started)


if __name__ == "__main__":
    run(main)
