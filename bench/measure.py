"""Rows in processes of their own, timed in interleaved rounds: A, B, C, A, B, C ...

A process is started and warmed up once a row, which chooses its best number of workers, and then waits while the
others run. CPU seconds and peak memory are the process's and its children's.
"""

import multiprocessing
import os
import resource
import statistics
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from bench.rows import BATCH, CROP, FLIPS, LOADERS, PEERS, SEED, Row
from preprocess.schema import open_store

ALL = {row.name: row for row in (*LOADERS, *PEERS)}


@dataclass(kw_only=True)
class Timed:
    """A row's samples; `chips_per_s` one a round."""

    name: str
    workers: int
    first_batch_s: float
    chips_per_s: list[float] = field(default_factory=list)
    cpu_s_per_1000: list[float] = field(default_factory=list)
    peak_mib: float = 0.0

    @property
    def median(self) -> float:
        """Chips a second."""
        return statistics.median(self.chips_per_s)


class Process:
    """One row in its own process."""

    def __init__(self, name: str, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(name, folder, other))
        self._process.start()
        workers, first_batch_s = self._answer()
        self.timed = Timed(name=name, workers=workers, first_batch_s=first_batch_s)

    def round(self, number: int) -> None:
        """One pass over all chips."""
        self._pipe.send(number)
        chips_per_s, cpu_s_per_1000, peak_mib = self._answer()
        self.timed.chips_per_s.append(chips_per_s)
        self.timed.cpu_s_per_1000.append(cpu_s_per_1000)
        self.timed.peak_mib = peak_mib

    def close(self) -> None:
        """End the process."""
        if self._process.is_alive():
            self._pipe.send(None)
        self._process.join()

    def _answer(self) -> Any:
        answer = self._pipe.recv()
        if isinstance(answer, BaseException):
            raise answer
        return answer


def _serve(name: str, folder: Path, pipe: Connection) -> None:
    try:
        row = ALL[name]
        started = time.perf_counter()
        epoch = row.make(folder, row.workers[-1])
        batches = epoch(0)
        images, _ = next(batches)
        first_batch_s = time.perf_counter() - started
        if row.checked:
            check(row, folder, images.numpy())
        batches.close()  # type: ignore[attr-defined]  # a generator
        del epoch, batches, images  # its buffers must not count in what follows
        # Its best setting: one warm-up pass each.
        rates = {}
        for workers in row.workers:
            candidate = row.make(folder, workers)
            _pass(candidate, 1)
            rates[workers] = _pass(candidate, 2)[0]
        best = max(rates, key=lambda workers: rates[workers])
        epoch = row.make(folder, best)
        _pass(epoch, 3)
        pipe.send((best, first_batch_s))
        while (number := pipe.recv()) is not None:
            pipe.send(_pass(epoch, 4 + number))
    except BaseException as error:
        pipe.send(error)
        raise


def _pass(epoch: Any, number: int) -> tuple[float, float, float]:
    before, started, count = _cpu_s(), time.perf_counter(), 0
    for _images, labels in epoch(number):
        count += len(labels)
    elapsed = time.perf_counter() - started
    peak_kib = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return count / elapsed, 1000 * (_cpu_s() - before) / count, peak_kib / 1024


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def check(row: Row, folder: Path, images: np.ndarray) -> None:
    """The first batch of epoch 0 against plain zarr-python and numpy, in float64."""
    import zarr

    from bench.rows import scaling
    from pipeline.order import augmentation, epoch_order

    store = open_store(folder / "lz4.zarr")
    inputs = scaling(store, row.bands)
    tiles: Any = zarr.open_group(folder / "lz4.zarr", mode="r")["tiles"]
    order = epoch_order(SEED, 0, np.arange(store.num_tiles))[:BATCH]
    draws = augmentation(SEED, 0, order, height=256, width=256, crop=CROP, flips=FLIPS)
    bands = list(store.band_indices(row.bands))
    for index, tile in enumerate(order.tolist()):
        chip = np.asarray(tiles[tile])[bands]
        chip = chip[:, ::-1] if draws.flip_rows[index] else chip
        top, left = int(draws.crop_y[index]), int(draws.crop_x[index])
        chip = chip[:, top : top + CROP[0], left : left + CROP[1]]
        chip = chip[:, :, ::-1] if draws.mirror[index] else chip
        shape = (-1, 1, 1)
        expected = (chip.astype(np.float64) - np.reshape(inputs.mean, shape)) / np.reshape(inputs.std, shape)
        if not np.allclose(images[index], expected, rtol=1e-5, atol=1e-4):
            raise ValueError(f"{row.name}: tile {tile} of the first batch is not what it must be")
