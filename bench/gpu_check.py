"""`make gpu-check`: is the GPU path correct on this machine, and does the GPU wait for data? The last line is the
verdict.

In: a GPU, tests/test_gpu.py, the bench chips. Out: lines on the terminal and gpu-check.log. The tests compare batches
of every kind with the CPU's, bit by bit for integers; then loader and train step run for half a minute. Exit code 0:
all is correct; 1: something is wrong, and the last line says where; 2: no GPU can be used. Needs only the packages of
training and pytest.
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
from preprocess.console import UserError, one_line, say
from train.cuda_driver import obstacle
from train.device import choose_device, prepare_torch
from train.step import train_step

LOG = Path("gpu-check.log")
RUN_S = 6.0
_CHIPS = 512


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Chips/s: of each loader alone, by name; of the train step alone; of both together."""

    loaders: dict[str, float]
    step: float
    together: float


def main() -> int:
    """Run the tests, measure, print the verdict."""
    if missing := obstacle():
        raise UserError(f"gpu-check: no GPU can be used on this machine: {missing.reason}. Nothing was checked.")
    say(f"{torch.cuda.get_device_name()}: running the GPU tests, which takes minutes (their output goes to {LOG})")
    result = run_tests(ROOT / "tests" / "test_gpu.py", LOG)
    if line := what_failed(result):
        say(line)
        return 1
    try:
        speed = measure(make_chips(Path("bench/data"), _CHIPS))
    except UserError:
        raise
    except Exception as error:
        # Any exception of DALI, CUDA or torch: finding it is the purpose of this command.
        with LOG.open("a") as log:
            traceback.print_exc(file=log)
        reason = one_line(" ".join(str(error).split()))[:200]
        say(f"gpu-check: WRONG: {count_tests(result)}, but the short bench failed ({reason}); see {LOG}.")
        return 1
    say(f"ResNet-18 step on a resident batch: {speed.step:,.0f} chips/s; with the loader: {speed.together:,.0f}")
    say(verdict(result, speed))
    return 0


def what_failed(result: Result) -> str:
    """One line if a test failed or could not run; "" otherwise."""
    if result.problem or result.failed:
        reasons = [result.problem] if result.problem else []
        if result.failed:
            reasons.append(f"{len(result.failed)} tests failed, first {result.failed[0]}")
        return f"gpu-check: WRONG: {'; '.join(reasons)}; see {LOG}. DECODE=host may help."
    if not result.passed:
        why = f"all {result.skipped} were skipped" if result.skipped else "no test was collected"
        return f"gpu-check: WRONG: no test was run ({why}), so nothing was checked; see {LOG}."
    return ""


def count_tests(result: Result) -> str:
    """Numbers of passed and skipped tests, as text."""
    return f"{result.passed} tests passed" + (f" ({result.skipped} skipped)" if result.skipped else "")


def verdict(result: Result, speed: Speed) -> str:
    """The last line if all tests passed: how long the GPU waits for data."""
    share = speed.together / speed.step
    best = max(speed.loaders, key=lambda name: speed.loaders[name])
    if share < 0.95:
        return (
            f"gpu-check: correct, but the GPU waits {1 - share:.0%} of the time: {count_tests(result)}; "
            f"the best loader here is {best}. `make tune` chooses its settings."
        )
    waits = f"the GPU waits {max(0.0, 1 - share):.0%} of the time"
    return f"gpu-check: correct: {count_tests(result)}; {waits}; the best loader is {best}."


def measure(work: Work) -> Speed:
    """Measure for half a minute: each loader alone, the train step alone, and the default loader with the step."""
    device = choose_device(config())
    prepare_torch(config(), device)  # as in `make train`: cuDNN chooses its fastest kernels
    bands = ("red", "green", "blue")
    settings = {
        "LZ4 inflated on the GPU": ("lz4", "device", "none"),
        "LZ4 inflated on the host": ("lz4", "host", "none"),
        "CODEC=none": ("none", "auto", "none"),
        "CACHE=device": ("lz4", "auto", "device"),
    }
    loaders = {}
    for name, (codec, decode, cache) in settings.items():
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
    for _ in range(2):  # the first is a warm-up: kernels are loaded and chosen
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
