"""Batches for training and evaluation: `train_loader` and `eval_loader` for a store, `reader_loader` for other chips.

In: a store (or a reader of chips), chip numbers, `Inputs`. Out: `Batch`es whose images are NCHW views of channels-last
memory, on the device, without a copy in torch. Leaves the choice of an engine to `engines`, the order of the chips to
`plans`, the split to `preprocess.splits` and the model to others.
"""

import ctypes
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from pipeline.dali_source import ChipReader
from pipeline.engines import Choice, Engine, make_engine
from pipeline.inputs import Inputs
from pipeline.plans import BatchPlan, EvalPlans, TrainPlans, chip_numbers
from pipeline.view import Reading, View, default_dtype, usable_device
from preprocess.zarr_store import Store

CROP_SHARE = 7 / 8  # of a chip's side: 224 of 256


@dataclass(frozen=True)
class Batch:
    """One batch. Repeats of the last chip pad the last batch of an evaluation.

    images_nchw: (B, channels, height, width), float32 or float16, channels-last memory, on the device.
    labels: (B, classes) float32, on the device.
    chips: (B,) int64 indices in the store, on the host.
    num_valid: the first `num_valid` rows count; the others are padding.
    """

    images_nchw: torch.Tensor
    labels: torch.Tensor
    chips: np.ndarray
    num_valid: int


def default_crop(store: Store) -> tuple[int, int]:
    """(height, width): 7/8 of the sides of a chip."""
    return max(1, round(store.layout.height * CROP_SHARE)), max(1, round(store.layout.width * CROP_SHARE))


def default_workers() -> int:
    """Reading threads: one per core that this process may use, at most 8."""
    return min(8, len(os.sched_getaffinity(0)))


def train_loader(
    store: Store, chips: np.ndarray, inputs: Inputs, *, batch_size: int, seed: int = 0, flips: str = "dihedral",
    crop: tuple[int, int] | None = None, device: str | torch.device = "cpu", workers: int | None = None,
    dtype: torch.dtype | None = None, engine: str = "auto", cache: str = "none",
    decode: str = "auto", page_cache: int | None = None,
) -> "ChipLoader":  # fmt: skip
    """Shuffled, augmented batches. The last short batch of an epoch is dropped.

    Args:
        store: from `open_store`.
        chips: indices in the store, such as `split.train`.
        inputs: bands and scaling, from `raw_inputs` or `course_inputs`.
        batch_size: chips per batch.
        seed: order and augmentation are functions of (seed, epoch, chip) and of nothing else.
        flips: "none", "horizontal", "both" (rows and columns) or "dihedral" (all 8 symmetries of a square).
        crop: (height, width) in pixels; default: 7/8 of the sides.
        device: "cpu", "cuda" or "cuda:N". Where no GPU can be used, the loader falls back to the CPU and prints one
            line; `loader.device` is the device in use.
        workers: reading threads; default: one per core, at most 8.
        dtype: of the images, torch.float32 or torch.float16; default: float16 on a GPU, float32 on the CPU.
        engine: "auto" takes the fastest that can do what is asked for. "direct" (one compiled pass; CPU, float32, raw
            inputs, no resizing) and "dali" (DALI's graph) insist on one of them. See `pipeline.engines`.
        cache: "host" keeps the decoded store in RAM. "device" keeps it on the GPU (raw inputs, no resizing). Loaders of
            one store share it. What does not fit falls back, to "host" or "none", and one line is printed.
        decode: where LZ4 chunks are decoded for a GPU: "device", "host", or "auto", which is the GPU unless a batch has
            more chunks than DALI's decoder takes.
        page_cache: bytes of a local store that the OS may keep in memory; the rest of a larger store is read past the
            page cache in each epoch, which costs less CPU time. Default: 3/4 of the free memory.

    Raises:
        ArgumentError: fewer chips than a batch, or arguments that do not fit together or do not fit the store.
    """
    reading = Reading(
        device=usable_device(device), workers=workers or default_workers(), engine=engine, cache=cache, decode=decode,
        page_cache=page_cache,
    )  # fmt: skip
    view = View(
        inputs=inputs, crop=crop or default_crop(store), dtype=dtype or default_dtype(reading.device), flips=flips
    )  # fmt: skip
    view.check_crop(store.layout)
    plans = TrainPlans(
        chips=chip_numbers(chips, store.num_chips), batch_size=batch_size, seed=seed, crop=view.crop, flips=flips,
        size=(store.layout.height, store.layout.width),
    )  # fmt: skip
    return _loader(store, plans, view, reading, store.labels)


def eval_loader(
    store: Store, chips: np.ndarray, inputs: Inputs, *, batch_size: int, test: str = "center",
    crop: tuple[int, int] | None = None, device: str | torch.device = "cpu", workers: int | None = None,
    dtype: torch.dtype | None = None, engine: str = "auto", cache: str = "none",
    decode: str = "auto", page_cache: int | None = None,
) -> "ChipLoader":  # fmt: skip
    """The chips in the order given, each exactly once. The last batch is padded; `num_valid` says how many rows count.

    `test` is "center" (centre crop at native scale) or "resize" (the whole chip scaled to the size of the crop,
    antialiased). Nothing is random. The other arguments are those of `train_loader`.
    """
    reading = Reading(
        device=usable_device(device), workers=workers or default_workers(), engine=engine, cache=cache, decode=decode,
        page_cache=page_cache,
    )  # fmt: skip
    view = View(
        inputs=inputs, crop=crop or default_crop(store), dtype=dtype or default_dtype(reading.device), test=test
    )  # fmt: skip
    view.check_crop(store.layout)
    plans = EvalPlans(chips=chip_numbers(chips, store.num_chips), batch_size=batch_size)
    return _loader(store, plans, view, reading, store.labels)


def reader_loader(
    reader: ChipReader, num_chips: int, view: View, *, batch_size: int, device: torch.device, workers: int | None = None
) -> "ChipLoader":  # fmt: skip
    """Evaluation batches of chips that lie in no store: `reader` reads chips 0 to `num_chips` - 1. Labels are (B, 0).

    The engine is DALI's graph: the direct engine and decoding on a GPU need a store's chunks.
    """
    view.check_crop(reader.layout)
    reading = Reading(device=device, workers=workers or default_workers())
    plans = EvalPlans(chips=np.arange(num_chips), batch_size=batch_size)
    return _loader(reader, plans, view, reading, np.empty((num_chips, 0), np.uint8))


def _loader(
    source: Store | ChipReader, plans: TrainPlans | EvalPlans, view: View, reading: Reading, labels: np.ndarray
) -> "ChipLoader":
    engine, choice = make_engine(source, view, reading, plans.batch_size)
    _give_back_memory()
    return ChipLoader(engine, choice, plans, torch.from_numpy(labels), reading.device)


class ChipLoader:
    """Made by `train_loader`, `eval_loader` or `reader_loader`; `epoch(n)` yields its batches, `len()` counts them.

    Attributes:
        engine: "direct", "dali", or "gather" (from a cache on the GPU).
        decode: where chunks are decoded, "host" or "device".
        cache: "none", "host" or "device".
        device: where the batches are.
        other_engines: the engines that were not chosen, each with the reason.
        device_bytes: GPU memory that the loader takes at most, 0 on the CPU.
        hand_over_s: seconds so far between a batch's images and the batch: labels, and what torch does with both.
    """

    def __init__(
        self, engine: Engine, choice: Choice, plans: TrainPlans | EvalPlans, labels: torch.Tensor, device: torch.device
    ) -> None:
        self._engine, self._choice, self._plans, self._labels = engine, choice, plans, labels
        self.engine, self.decode, self.cache = choice.row.engine, choice.row.decode, choice.cache
        self.other_engines, self.device_bytes, self.device = choice.reasons, engine.device_bytes, device
        self.hand_over_s = 0.0

    def set_shard(self, rank: int, world: int) -> None:
        """Shard each training epoch: yield chips rank, rank + world, rank + 2 * world, ... of its order."""
        if isinstance(self._plans, TrainPlans):
            self._plans = replace(self._plans, rank=rank, world=world)

    def subset(self, chips: np.ndarray) -> "ChipLoader":
        """A loader of other chips that shares this loader's engine. Use one of the two at a time; close one."""
        plans = replace(self._plans, chips=chip_numbers(chips, len(self._labels)))
        return ChipLoader(self._engine, self._choice, plans, self._labels, self.device)

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self._plans)

    def plans(self, epoch: int, first_step: int = 0) -> Iterator[BatchPlan]:
        """What `epoch(epoch, first_step)` will read: a pure function of its arguments."""
        return self._plans.epoch(epoch, first_step)

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch from `first_step` on. Run one epoch of a loader at a time."""
        images = self._engine.epoch(self.plans(epoch, first_step))
        try:
            for plan, images_nchw in images:
                started = time.perf_counter()
                batch = Batch(images_nchw, self._batch_labels(plan), plan.chips, plan.num_valid)
                self.hand_over_s += time.perf_counter() - started
                yield batch
        finally:
            images.close()  # type: ignore[attr-defined]  # a generator; also when the caller breaks off

    def close(self) -> None:
        """End the reading threads. Those of a loader that is not closed end with the process."""
        self._engine.close()

    def _batch_labels(self, plan: BatchPlan) -> torch.Tensor:
        labels = self._labels[torch.from_numpy(plan.chips)].float()
        return labels.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else labels


def _give_back_memory() -> None:
    """Return memory that opening a store took and freed to the system; glibc would keep it (3 MB at 100,000 chips)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it
    if trim is not None:
        trim(0)
