"""Mode `e2e`: real training against the same train step on one resident batch, and how fast an accelerator can be fed.

In: the bench chips. Out: a record's rows. Training is Task 1: ResNet-18 on RGB, batch 64; at 224 px on crops of the 256
x 256 chips, at 64 px on whole 64 x 64 chips. Several divisions of the cores between torch and the loader take turns,
one block of steps each. `ratio_to_synthetic` compares with the resident batch, which has all cores. On a GPU there is
one division, and `bench.gpu` adds the GPU's own measurements. Rows `fed-...`: the highest rate of a simulated
accelerator that is still busy 90 % of the time.
"""

import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.measure import timed_pass
from bench.model import MIN_STEPS, config, rate, resident_batch, synchronize, trainer_on, void
from bench.process_usage import cores
from bench.remote_generator import Remote
from bench.rows import canopy
from bench.small_stores import SIDE, chips_store
from bench.work import BATCH, FLIPS, SEED, Setting, Work
from pipeline.inputs import raw_inputs
from pipeline.loader import ChipLoader, train_loader
from preprocess.console import say
from preprocess.zarr_store import open_store
from train.device import choose_device
from train.step import Trainer, train_step
from train.telemetry import GpuUse

SMALL_CHIPS = 10_000
BUSY = 0.9
_BLOCK_S = 4.0


def run(work: Work, rounds: int) -> dict[str, Any]:
    """The record's rows."""
    small = chips_store(work.folder / "scale", SMALL_CHIPS)
    crop = work.crop[0]
    rows = []
    for side, path in ((SIDE, small), (crop, work.stores["lz4"])):
        remote = Remote("bench.e2e:serve_train", path, side)
        samples = [remote.ask(number) for number in range(rounds)]
        remote.close()
        rows += _train_rows(side, samples)
        say(f"e2e: {side} px done")
    for num_cores in sorted({1, cores()}):
        for codec in work.stores:
            remote = Remote("bench.e2e:serve_fed", work, codec, cores=num_cores)
            fed = [remote.ask(number) for number in range(rounds)]
            remote.close()
            rows.append({
                "name": f"fed-{codec}-{num_cores}-core{'s' * (num_cores > 1)}", "chips_per_s": statistics.median(fed),
                "samples": fed, "note": f"the fastest accelerator that is busy {BUSY:.0%} of the time",
            })  # fmt: skip
    device = choose_device(config())
    record: dict[str, Any] = {"device": device.name, "batch": BATCH, "rows": rows}
    if device.kind == "cuda":
        from bench.gpu import limits

        record["gpu_limits"] = limits(work, device.device)
    return record


def _train_rows(side: int, samples: list[dict[str, dict[str, float]]]) -> list[dict[str, Any]]:
    rows = []
    for name in samples[0]:
        rates = [sample[name]["chips_per_s"] for sample in samples]
        ratios = [sample[name]["chips_per_s"] / sample["synthetic"]["chips_per_s"] for sample in samples]
        waits = [sample[name]["wait_share"] for sample in samples]
        used = [sample[name]["gpu_percent"] for sample in samples if "gpu_percent" in sample[name]]
        rows.append({
            "name": f"e2e-{side}-{name}", "chips_per_s": statistics.median(rates),
            "ratio_to_synthetic": statistics.median(ratios), "wait_share": statistics.median(waits), "samples": rates,
            "ratio_samples": ratios, **({"gpu_percent": statistics.median(used)} if used else {}),
        })  # fmt: skip
    return rows


def divisions(num_cores: int) -> list[tuple[int, int]]:
    """(torch threads, loader threads) to try; `make train` uses the first."""
    return list(dict.fromkeys([(num_cores, num_cores), (num_cores, 1), (max(1, num_cores - 1), 1)]))


def serve_train(path: Path, side: int) -> Iterator[Any]:
    """For every number received: division -> chips/s and the share of time that the step waited for data."""
    device = choose_device(config())
    torch.backends.cudnn.benchmark = True
    store = open_store(path)
    chips = np.arange(store.num_chips)
    bands = ("red", "green", "blue")
    tried = divisions(cores()) if device.kind == "cpu" else [(cores(), cores())]
    streams = {
        workers: _Stream(
            train_loader(
                store, chips, raw_inputs(store, bands, chips), batch_size=BATCH, seed=SEED, flips=FLIPS,
                crop=(side, side), device=device.device, workers=workers, dtype=device.image_dtype,
            )
        )
        for _, workers in tried
    }  # fmt: skip
    trainer = trainer_on(device)
    images, labels = resident_batch(device, side)
    _real(trainer, next(iter(streams.values())), 0.1)
    message: Any = yield None
    while True:
        del message
        torch.set_num_threads(cores())
        # Measured before and after: otherwise a machine that slows down in between makes the loader look slow.
        before = rate(lambda: void(train_step(trainer, images, labels)), device)
        rates = {}
        for threads, workers in tried:
            torch.set_num_threads(threads)
            rates[f"{threads}-torch-{workers}-loader"] = _real(trainer, streams[workers], _BLOCK_S)
        torch.set_num_threads(cores())
        after = rate(lambda: void(train_step(trainer, images, labels)), device)
        message = yield {"synthetic": {"chips_per_s": (before + after) / 2, "wait_share": 0.0}, **rates}


class _Stream:
    """Endless batches, epoch after epoch."""

    def __init__(self, loader: ChipLoader) -> None:
        self._loader, self._epoch = loader, 0
        self._batches = loader.epoch(0)

    def __call__(self) -> Any:
        batch = next(self._batches, None)
        if batch is None:
            self._epoch += 1
            self._batches = self._loader.epoch(self._epoch)
            batch = next(self._batches)
        return batch


def _real(trainer: Trainer, stream: _Stream, block_s: float) -> dict[str, float]:
    """Time at least `block_s` seconds and 3 steps. An untimed step before uses up batches loaded ahead."""
    if trainer.device.kind == "cuda":
        return _real_on_gpu(trainer, stream, block_s)
    batch = stream()
    train_step(trainer, batch.images_nchw, batch.labels)
    started, wait_s, count, elapsed = time.perf_counter(), 0.0, 0, 0.0
    while elapsed < block_s or count < MIN_STEPS:
        asked = time.perf_counter()
        batch = stream()
        wait_s += time.perf_counter() - asked
        train_step(trainer, batch.images_nchw, batch.labels)
        count += 1
        elapsed = time.perf_counter() - started
    return {"chips_per_s": count * BATCH / elapsed, "wait_share": wait_s / elapsed}


def _real_on_gpu(trainer: Trainer, stream: _Stream, block_s: float) -> dict[str, float]:
    """The same, timed by device events: the host runs ahead of the GPU, so the host's waits mean nothing."""
    from bench.gpu import Waits

    batch = stream()
    train_step(trainer, batch.images_nchw, batch.labels)
    synchronize(trainer.device)
    waits, use, started, count, elapsed = Waits(), GpuUse(trainer.device), time.perf_counter(), 0, 0.0
    while elapsed < block_s:
        for _ in range(20):  # read the clock rarely: each reading waits for the device
            batch = stream()
            waits.step_begins()
            train_step(trainer, batch.images_nchw, batch.labels)
            waits.step_ends()
            use.sample()
        count += 20
        synchronize(trainer.device)
        elapsed = time.perf_counter() - started
    rates = {"chips_per_s": count * BATCH / elapsed, "wait_share": waits.seconds() / elapsed}
    return rates | ({"gpu_percent": busy["busy_percent"]} if (busy := use.summary()) else {})


def serve_fed(work: Work, codec: str) -> Iterator[Any]:
    """For every number received: the highest rate, in chips/s, that keeps the accelerator busy 90 % of the time."""
    epoch = canopy(codec)(work, Setting(workers=cores()))
    timed_pass(epoch, 0, min_s=0)
    number: Any = yield None
    while True:
        low, high = 0.0, 1.2 * timed_pass(epoch, 100 * (number + 1)).chips_per_s
        for step in range(6):
            middle = (low + high) / 2 if step else 0.8 * high
            if busy_share(epoch, middle, 100 * (number + 1) + step) >= BUSY:
                low = middle
            else:
                high = middle
        number = yield low


def busy_share(epoch: Any, chips_per_s: float, number: int) -> float:
    """Share of an epoch in which a simulated accelerator of this rate (it sleeps) has work.

    Counted from the first batch on: epochs are short here, so the time to fill the pipeline would count 20 times too
    much.
    """
    step_s, started, count = BATCH / chips_per_s, 0.0, 0
    for _ in epoch(number):
        started = started or time.perf_counter()
        time.sleep(step_s)
        count += 1
    return count * step_s / (time.perf_counter() - started)
