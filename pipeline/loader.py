"""The only border between DALI and torch: plans epochs, runs the graph, yields `Batch`.

In: a store, tile numbers, `Inputs`. Out: batches whose images are NCHW views in channels-last memory, on the
device, without a copy in torch. Leaves the split to `preprocess.splits`, the model to others.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from pipeline.chunks import ChunkReader
from pipeline.graph import GraphSpec, eval_graph, train_graph
from pipeline.inputs import Inputs
from pipeline.order import FLIPS, augmentation, epoch_order
from pipeline.source import BatchPlan, Source
from preprocess.console import UserError
from preprocess.schema import Store

TESTS = ("center", "resize")
CROP_SHARE = 7 / 8  # of the side: 224 of 256


@dataclass(frozen=True)
class Batch:
    """One batch. Padding, at the end of a test epoch only, repeats the last tile.

    images_nchw: (B, channels, height, width), float32 or float16, channels-last memory, on the device.
    labels: (B, classes) float32, on the device.
    tiles: (B,) int64 indices in the store, on the host.
    num_valid: the first `num_valid` rows count.
    """

    images_nchw: torch.Tensor
    labels: torch.Tensor
    tiles: np.ndarray
    num_valid: int


def default_crop(store: Store) -> tuple[int, int]:
    """(height, width): 7/8 of the sides."""
    return max(1, round(store.layout.height * CROP_SHARE)), max(1, round(store.layout.width * CROP_SHARE))


def default_workers() -> int:
    """Threads to read with: the cores this process may use, at most 8."""
    return min(8, len(os.sched_getaffinity(0)))


def train_loader(
    store: Store, tiles: np.ndarray, inputs: Inputs, *, batch_size: int, seed: int = 0, flips: str = "dihedral",
    crop: tuple[int, int] | None = None, device: str | torch.device = "cpu", workers: int | None = None,
    dtype: torch.dtype | None = None,
) -> "TileLoader":  # fmt: skip
    """Shuffled, augmented batches; the last short batch of an epoch is dropped.

    Args:
        store: from `preprocess.schema.open_store`.
        tiles: indices in the store, e.g. `split.train`.
        inputs: bands and scaling, from `raw_inputs` or `course_inputs`.
        batch_size: tiles a batch.
        seed: order and augmentation are functions of (seed, epoch, tile) and of nothing else.
        flips: "none", "horizontal", "both" or "dihedral"; see `order.augmentation`.
        crop: (height, width) in pixels; default 7/8 of the sides.
        device: "cpu" or "cuda:N". On a GPU, LZ4 chunks are decoded there.
        workers: reading threads; default: the cores, at most 8.
        dtype: of the images; default float16 on a GPU, float32 on the CPU.

    Raises:
        UserError: fewer tiles than a batch, or arguments that make no sense.
    """
    if len(tiles) < batch_size:
        raise UserError(f"BATCH={batch_size}: the train part has only {len(tiles)} chips. Choose a smaller BATCH.")
    return TileLoader(
        store, tiles, inputs, batch_size=batch_size, seed=seed, flips=flips, test=None,
        crop=crop, device=device, workers=workers, dtype=dtype,
    )  # fmt: skip


def eval_loader(
    store: Store, tiles: np.ndarray, inputs: Inputs, *, batch_size: int, test: str = "center",
    crop: tuple[int, int] | None = None, device: str | torch.device = "cpu", workers: int | None = None,
    dtype: torch.dtype | None = None,
) -> "TileLoader":  # fmt: skip
    """The tiles in the order given, each exactly once; the last batch is padded and `num_valid` says so.

    `test` is "center" (centre crop at native scale) or "resize" (whole tile scaled to the crop's size,
    antialiased). No random input exists. The other arguments are `train_loader`'s.
    """
    return TileLoader(
        store, tiles, inputs, batch_size=batch_size, seed=0, flips="none", test=test,
        crop=crop, device=device, workers=workers, dtype=dtype,
    )  # fmt: skip


class TileLoader:
    """Made by `train_loader` or `eval_loader`; `epoch(n)` yields its batches, `len()` counts them.

    `hand_over_s` adds up the seconds between a batch's images and the batch: what torch does with them, and labels.
    """

    def __init__(
        self, store: Store, tiles: np.ndarray, inputs: Inputs, *, batch_size: int, seed: int, flips: str,
        test: str | None, crop: tuple[int, int] | None, device: str | torch.device, workers: int | None,
        dtype: torch.dtype | None,
    ) -> None:  # fmt: skip
        self._tiles, self._batch_size, self._seed = np.asarray(tiles, np.int64), batch_size, seed
        self._device = torch.device(device)
        on_gpu = self._device.type == "cuda"
        if on_gpu and not torch.cuda.is_available():
            raise UserError(f"device={device}: no GPU can be used on this machine; device='cpu' works.")
        if on_gpu and self._device.index is None:  # "cuda" is torch's current GPU; DALI wants its number
            self._device = torch.device("cuda", torch.cuda.current_device())
        device_id = self._device.index if on_gpu else None
        layout = store.layout
        crop = crop or default_crop(store)
        _check(store, crop, flips, test, batch_size)
        dtype = dtype or (torch.float16 if on_gpu else torch.float32)
        workers = workers or default_workers()
        self.spec = GraphSpec(
            layout=layout, inputs=inputs, crop=crop, flips=flips, test=test or "center",
            decode="device" if on_gpu and layout.codec == "lz4" else "host",
            dtype=str(dtype).removeprefix("torch."), batch_size=batch_size, threads=workers, device_id=device_id,
        )  # fmt: skip
        self._train = test is None
        self._labels = torch.from_numpy(store.labels.astype(np.float32))
        self._source = Source(
            ChunkReader(store, inputs.stored_bands),
            batch_size=batch_size, decode=self.spec.decode, workers=workers,
            flips=flips, room=(layout.height - crop[0], layout.width - crop[1]),
            allocate=_pinned if on_gpu else _touched,
        )  # fmt: skip
        self.deal(0, 1)
        self.hand_over_s = 0.0
        make_graph = train_graph if self._train else eval_graph
        self._pipeline: Any = make_graph(self.spec, self._source)  # DALI ships no types
        self._pipeline.build()

    def deal(self, rank: int, world: int) -> None:
        """Of a train epoch's order give out every `world`-th tile, from place `rank` on."""
        self._rank, self._world = rank, world

    def __len__(self) -> int:
        """Batches an epoch."""
        num_tiles = len(self._tiles)
        return num_tiles // self._world // self._batch_size if self._train else -(-num_tiles // self._batch_size)

    def plans(self, epoch: int, first_step: int = 0) -> list[BatchPlan]:
        """What `epoch(epoch, first_step)` will read: a pure function of its arguments."""
        spec, size = self.spec, self._batch_size
        if not self._train:
            padding = -len(self._tiles) % size
            padded = np.concatenate([self._tiles, np.repeat(self._tiles[-1:], padding)])
            return [
                BatchPlan(
                    tiles=padded[start : start + size],
                    num_valid=min(size, len(self._tiles) - start),
                    augmentation=None,
                )
                for start in range(first_step * size, len(padded), size)
            ]
        order = epoch_order(self._seed, epoch, self._tiles)[self._rank :: self._world]
        draws = augmentation(
            self._seed, epoch, order, height=spec.layout.height, width=spec.layout.width,
            crop=spec.crop, flips=spec.flips,
        )  # fmt: skip
        return [
            BatchPlan(
                tiles=order[start : start + size],
                num_valid=size,
                augmentation=draws.take(slice(start, start + size)),
            )
            for start in range(first_step * size, len(self) * size, size)
        ]

    def epoch(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch from `first_step` on. One epoch at a time a loader."""
        plans = self.plans(epoch, first_step)
        self._source.begin(plans)
        try:
            for plan in plans:
                (images,) = self._pipeline.run()
                started = time.perf_counter()
                batch = self._batch(plan, images)
                self.hand_over_s += time.perf_counter() - started
                yield batch
        finally:
            # Also when the caller breaks off: take out what is under way, so that the next epoch starts clean.
            self._source.stop()
            _drain(self._pipeline)

    def close(self) -> None:
        """End the reading threads. A loader that is not closed ends with the process."""
        self._source.close()

    def _batch(self, plan: BatchPlan, images: Any) -> Batch:
        # DALI's tensor owns the memory and torch holds it alive: no copy (see DALI's own PyTorch iterator).
        images_nhwc = from_dlpack(images.as_tensor())
        labels = self._labels[torch.from_numpy(plan.tiles)]
        if self._device.type == "cuda":
            labels = labels.pin_memory().to(self._device, non_blocking=True)
        return Batch(images_nhwc.permute(0, 3, 1, 2), labels, plan.tiles, plan.num_valid)


def _drain(pipeline: Any) -> None:
    try:
        while True:
            pipeline.run()
    except StopIteration:
        pipeline.reset()


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


def _touched(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Host memory with every page faulted in, so that the first epoch is as fast as the others."""
    return np.full(shape, 1, dtype)


def _pinned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Page-locked host memory: copies to the GPU run at full speed, beside compute."""
    num_bytes = int(np.prod(shape)) * dtype.itemsize
    return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True).numpy().view(dtype).reshape(shape)
