"""Plans epochs and yields `Batch`: what the trainer, and any other user, imports.

In: a store, chip numbers, `Inputs`. Out: batches whose images are NCHW views in channels-last memory, on the
device, without a copy in torch. Images are made by `dali` (DALI's graph, on a GPU or the CPU) or by `direct` (one
compiled pass, on the CPU), to the bit the same. Leaves the split to `preprocess.splits`, the model to others.
"""

import ctypes
import functools
import os
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from pipeline.cache import CACHES, DeviceBatches, resident_reader, resident_values
from pipeline.chunks import MAX_INFLATE_CHUNKS, ChunkReader
from pipeline.direct import DirectBatches
from pipeline.inputs import Inputs
from pipeline.order import FLIPS, augmentation, epoch_order
from pipeline.readahead import BatchPlan
from preprocess.codecs import CODECS
from preprocess.console import UserError, one_line, say
from preprocess.zarr_store import Store

TESTS = ("center", "resize")
ENGINES = ("auto", "direct", "dali")
DECODES = ("auto", "host", "device")
CROP_SHARE = 7 / 8  # of the side: 224 of 256


@dataclass(frozen=True)
class Batch:
    """One batch. Padding, at the end of a test epoch only, repeats the last chip.

    images_nchw: (B, channels, height, width), float32 or float16, channels-last memory, on the device.
    labels: (B, classes) float32, on the device.
    chips: (B,) int64 indices in the store, on the host.
    num_valid: the first `num_valid` rows count.
    """

    images_nchw: torch.Tensor
    labels: torch.Tensor
    chips: np.ndarray
    num_valid: int


def default_crop(store: Store) -> tuple[int, int]:
    """(height, width): 7/8 of the sides."""
    return max(1, round(store.layout.height * CROP_SHARE)), max(1, round(store.layout.width * CROP_SHARE))


def default_workers() -> int:
    """Threads to read with: the cores this process may use, at most 8."""
    return min(8, len(os.sched_getaffinity(0)))


class Images(Protocol):
    """What makes the images of planned batches."""

    def epoch(self, plans: Iterable[BatchPlan]) -> Iterator[tuple[BatchPlan, torch.Tensor]]:
        """Each plan with its (B, channels, height, width) images, on the device."""

    def close(self) -> None:
        """End its threads."""


def train_loader(
    store: Store, chips: np.ndarray, inputs: Inputs, *, batch_size: int, seed: int = 0, flips: str = "dihedral",
    crop: tuple[int, int] | None = None, device: str | torch.device = "cpu", workers: int | None = None,
    dtype: torch.dtype | None = None, engine: str = "auto", cache: str = "none",
    decode: str = "auto",
) -> "ChipLoader":  # fmt: skip
    """Shuffled, augmented batches; the last short batch of an epoch is dropped.

    Args:
        store: from `preprocess.zarr_store.open_store`.
        chips: indices in the store, e.g. `split.train`.
        inputs: bands and scaling, from `raw_inputs` or `course_inputs`.
        batch_size: chips a batch.
        seed: order and augmentation are functions of (seed, epoch, chip) and of nothing else.
        flips: "none", "horizontal", "both" or "dihedral"; see `order.augmentation`.
        crop: (height, width) in pixels; default 7/8 of the sides.
        device: "cpu" or "cuda:N". On a GPU, LZ4 chunks are decoded there.
        workers: reading threads; default: the cores, at most 8.
        dtype: of the images; default float16 on a GPU, float32 on the CPU.
        engine: "dali" (the graph), "direct" (one compiled pass; CPU, float32, raw input, no resizing), or "auto":
            direct where it can be.
        cache: "host" keeps the decoded store in RAM, "device" on the GPU (for raw input, without resizing); what does
            not fit is said, and the next smaller is done. Loaders of one store share it.
        decode: where a GPU's LZ4 chunks are inflated: "device", "host", or "auto": on the device, where a batch has no
            more chunks than DALI's decoder takes.

    Raises:
        UserError: fewer chips than a batch, or arguments that make no sense.
    """
    if len(chips) < batch_size:
        raise UserError(f"BATCH={batch_size}: the train split has only {len(chips)} chips. Choose a smaller BATCH.")
    return ChipLoader(
        store, chips, inputs, batch_size=batch_size, seed=seed, flips=flips, test=None,
        crop=crop, device=device, workers=workers, dtype=dtype, engine=engine, cache=cache, decode=decode,
    )  # fmt: skip


def eval_loader(
    store: Store, chips: np.ndarray, inputs: Inputs, *, batch_size: int, test: str = "center",
    crop: tuple[int, int] | None = None, device: str | torch.device = "cpu", workers: int | None = None,
    dtype: torch.dtype | None = None, engine: str = "auto", cache: str = "none",
    decode: str = "auto",
) -> "ChipLoader":  # fmt: skip
    """The chips in the order given, each exactly once; the last batch is padded and `num_valid` says so.

    `test` is "center" (centre crop at native scale) or "resize" (whole chip scaled to the crop's size,
    antialiased). No random input exists. The other arguments are `train_loader`'s.
    """
    return ChipLoader(
        store, chips, inputs, batch_size=batch_size, seed=0, flips="none", test=test,
        crop=crop, device=device, workers=workers, dtype=dtype, engine=engine, cache=cache, decode=decode,
    )  # fmt: skip


class ChipLoader:
    """Made by `train_loader` or `eval_loader`; `epoch(n)` yields its batches, `len()` counts them.

    `engine` ("direct", "dali", or "gather" from a cache on the GPU), `decode` ("host" or "device") and `cache` ("none",
    "host" or "device") say what was chosen. `device_bytes`: GPU memory that it takes at most, 0 on a CPU.
    `hand_over_s` adds up the seconds between a batch's images and the batch: what torch does with them, and labels.
    """

    def __init__(
        self, store: Store, chips: np.ndarray, inputs: Inputs, *, batch_size: int, seed: int, flips: str,
        test: str | None, crop: tuple[int, int] | None, device: str | torch.device, workers: int | None,
        dtype: torch.dtype | None, engine: str, cache: str, decode: str,
    ) -> None:  # fmt: skip
        self._chips, self._batch_size, self._seed = np.asarray(chips, np.int64), batch_size, seed
        self._device = _device(device)
        on_gpu = self._device.type == "cuda"
        self._layout, self._crop, self._flips, self._train = store.layout, crop or default_crop(store), flips, not test
        _check(store, self._crop, flips, test, batch_size)
        dtype = dtype or (torch.float16 if on_gpu else torch.float32)
        workers = workers or default_workers()
        self.set_shard(0, 1)
        self.hand_over_s = 0.0
        reasons = _not_direct(on_gpu, dtype, inputs, test)
        if engine not in ENGINES or (engine == "direct" and reasons):
            raise UserError(f"engine={engine}: expected one of {', '.join(ENGINES)}{reasons and f', and {reasons}'}.")
        if cache not in CACHES:
            raise UserError(f"CACHE={cache}: expected one of {', '.join(CACHES)}.")
        self.engine = "dali" if engine == "dali" or reasons else "direct"
        inflates = on_gpu and CODECS[self._layout.codec].inflates
        if decode not in DECODES or (decode == "device" and not inflates):
            raise UserError(f"DECODE={decode}: expected one of {', '.join(DECODES)}; device needs a GPU and CODEC=lz4.")
        self._labels = torch.from_numpy(store.labels)
        self._images: Images
        if cache == "device" and on_gpu and inputs.kind == "raw" and test != "resize":
            values = resident_values(store, inputs.stored_bands, workers, self._device)
            if values is not None:
                self.engine, self.decode, self.cache = "gather", "host", "device"
                self._images = DeviceBatches(values, inputs, crop=self._crop, dtype=dtype)
                self.device_bytes = values.nbytes
                return
            cache = "host"
        if cache == "device":
            _say_once("CACHE=device: it is for a GPU, INPUT=raw and TEST=center. Taken as CACHE=host.")
        kept = resident_reader(store, inputs.stored_bands, workers) if cache != "none" else None
        self.cache = "none" if kept is None else "host"
        self.decode = "host"
        if inflates and kept is None:
            self.decode = decode_place(decode, batch_size, len(inputs.stored_bands) * self._layout.chunks_per_band)
        self.device_bytes = 0
        reader = ChunkReader(store, inputs.stored_bands) if kept is None else kept
        if self.engine == "direct":
            self._images = DirectBatches(reader, inputs, batch_size=batch_size, crop=self._crop, workers=workers)
        else:
            # Imported here: it takes a second, which a CPU's first batch need not wait for.
            from pipeline.dali import DaliBatches
            from pipeline.graph import GraphSpec

            spec = GraphSpec(
                layout=self._layout, inputs=inputs, crop=self._crop, flips=flips, test=test or "center",
                decode=self.decode, dtype=str(dtype).removeprefix("torch."), batch_size=batch_size, threads=workers,
                device_id=self._device.index if on_gpu else None,
            )  # fmt: skip
            images = DaliBatches(reader, spec, train=self._train)
            self._images, self.device_bytes = images, images.device_bytes
        _give_back_memory()

    def set_shard(self, rank: int, world: int) -> None:
        """Of a train epoch's order give out every `world`-th chip, from place `rank` on."""
        self._rank, self._world = rank, world

    def __len__(self) -> int:
        """Batches an epoch."""
        num_chips = len(self._chips)
        return num_chips // self._world // self._batch_size if self._train else -(-num_chips // self._batch_size)

    def plans(self, epoch: int, first_step: int = 0) -> Iterator[BatchPlan]:
        """What `epoch(epoch, first_step)` will read: a pure function of its arguments."""
        layout, size = self._layout, self._batch_size
        if not self._train:
            padding = -len(self._chips) % size
            padded = np.concatenate([self._chips, np.repeat(self._chips[-1:], padding)])
            for start in range(first_step * size, len(padded), size):
                yield BatchPlan(
                    chips=padded[start : start + size],
                    num_valid=min(size, len(self._chips) - start),
                    augmentation=None,
                )
            return
        order = epoch_order(self._seed, epoch, self._chips)[self._rank :: self._world]
        draws = augmentation(
            self._seed, epoch, order, height=layout.height, width=layout.width, crop=self._crop, flips=self._flips
        )
        for start in range(first_step * size, len(self) * size, size):
            batch = slice(start, start + size)
            yield BatchPlan(chips=order[batch], num_valid=size, augmentation=draws.take(batch))

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch from `first_step` on. One epoch at a time a loader."""
        images = self._images.epoch(self.plans(epoch, first_step))
        try:
            for plan, images_nchw in images:
                started = time.perf_counter()
                batch = Batch(images_nchw, self._batch_labels(plan), plan.chips, plan.num_valid)
                self.hand_over_s += time.perf_counter() - started
                yield batch
        finally:
            images.close()  # type: ignore[attr-defined]  # a generator; also when the caller breaks off

    def close(self) -> None:
        """End the reading threads. A loader that is not closed ends with the process."""
        self._images.close()

    def _batch_labels(self, plan: BatchPlan) -> torch.Tensor:
        labels = self._labels[torch.from_numpy(plan.chips)].float()
        return labels.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else labels


def _device(device: str | torch.device) -> torch.device:
    found = torch.device(device)
    if found.type == "cuda":
        with warnings.catch_warnings(record=True) as caught:  # torch says there why: a driver that is too old
            available = torch.cuda.is_available()
        if not available:
            reason = "".join(f" ({one_line(' '.join(str(warning.message).split()))})" for warning in caught)
            raise UserError(f"device={device}: no GPU can be used on this machine{reason}; device='cpu' works.")
    if found.type == "cuda" and found.index is None:  # "cuda" is torch's current GPU; DALI wants its number
        return torch.device("cuda", torch.cuda.current_device())
    return found


def decode_place(decode: str, batch_size: int, chunks_per_chip: int) -> str:
    """Where LZ4 chunks that a GPU could inflate are decoded, "device" or "host".

    Raises:
        UserError: "device" was asked for, and a batch has more chunks than DALI's decoder takes.
    """
    if decode == "host":
        return "host"
    largest = MAX_INFLATE_CHUNKS // chunks_per_chip
    if batch_size <= largest:
        return "device"
    text = (
        f"a batch of {batch_size} chips has {batch_size * chunks_per_chip:,} LZ4 chunks, and the GPU decodes at most "
        f"{MAX_INFLATE_CHUNKS:,} at a time, which is {largest} chips"
    )
    if decode == "device":
        raise UserError(f"DECODE=device: {text}. Choose a smaller batch, or DECODE=host.")
    _say_once(f"DECODE=auto: {text}. Decoding on the host.")
    return "host"


def _not_direct(on_gpu: bool, dtype: torch.dtype, inputs: Inputs, test: str | None) -> str:
    """What the direct engine does not do of this, "" if it can do all."""
    wanted = {
        "device='cpu'": not on_gpu,
        "dtype=float32": dtype is torch.float32,
        "INPUT=raw": inputs.kind == "raw",
        "TEST=center": test != "resize",
    }
    return ", ".join(name for name, holds in wanted.items() if not holds)


def _check(store: Store, crop: tuple[int, int], flips: str, test: str | None, batch_size: int) -> None:
    layout = store.layout
    if flips not in FLIPS:
        raise UserError(f"FLIPS={flips}: expected one of {', '.join(FLIPS)}.")
    if test is not None and test not in TESTS:
        raise UserError(f"TEST={test}: expected one of {', '.join(TESTS)}.")
    if not (1 <= crop[0] <= layout.height and 1 <= crop[1] <= layout.width):
        raise UserError(f"CROP={crop[0]}x{crop[1]}: chips are {layout.height} x {layout.width} pixels.")
    if batch_size < 1:
        raise UserError(f"BATCH={batch_size}: expected 1 or more.")


@functools.cache  # a run's loaders would all say it
def _say_once(text: str) -> None:
    say(text)


def _give_back_memory() -> None:
    """What opening a store took and freed goes back to the system; glibc would keep it for later (3 MB at 100,000
    chips)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own
    if trim is not None:
        trim(0)
