"""The DALI graph at work: source -> graph -> torch tensors, without a copy. The only border between DALI and torch."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from pipeline.chunks import ChunkReader
from pipeline.graph import GraphSpec, eval_graph, train_graph
from pipeline.readahead import BatchPlan
from pipeline.source import Source


class DaliBatches:
    """Images of planned batches, on the CPU or a GPU."""

    def __init__(self, reader: ChunkReader, spec: GraphSpec, *, train: bool) -> None:
        layout, crop = spec.layout, spec.crop
        self._source = Source(
            reader, batch_size=spec.batch_size, decode=spec.decode, workers=spec.threads, flips=spec.flips,
            room=(layout.height - crop[0], layout.width - crop[1]),
            allocate=_touched if spec.device_id is None else _pinned,
        )  # fmt: skip
        make_graph = train_graph if train else eval_graph
        self._pipeline: Any = make_graph(spec, self._source)  # DALI ships no types
        self._pipeline.build()

    def epoch(self, plans: Iterable[BatchPlan]) -> Iterator[tuple[BatchPlan, torch.Tensor]]:
        """Each plan with its images (B, channels, height, width), in channels-last memory on the graph's device."""
        inside: deque[BatchPlan] = deque()  # given to DALI, not yet out of it
        self._source.begin(_noted(plans, inside))
        try:
            while True:
                try:
                    (images,) = self._pipeline.run()
                except StopIteration:
                    return
                # DALI's tensor owns the memory and torch holds it alive: no copy (see DALI's own PyTorch iterator).
                yield inside.popleft(), from_dlpack(images.as_tensor()).permute(0, 3, 1, 2)
        finally:
            # Also when the caller breaks off: take out what is under way, so that the next epoch starts clean.
            self._source.stop()
            _drain(self._pipeline)

    def close(self) -> None:
        """End the reading threads."""
        self._source.close()


def _noted(plans: Iterable[BatchPlan], inside: deque[BatchPlan]) -> Iterator[BatchPlan]:
    for plan in plans:
        inside.append(plan)
        yield plan


def _drain(pipeline: Any) -> None:
    try:
        while True:
            pipeline.run()
    except StopIteration:
        pipeline.reset()


def _touched(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Host memory with every page faulted in, so that the first epoch is as fast as the others."""
    return np.full(shape, 1, dtype)


def _pinned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Page-locked host memory: copies to the GPU run at full speed, beside compute.

    (DALI 2.4 cannot see that a numpy array is, and copies once more into memory of its own: docs/bench.md.)
    """
    num_bytes = int(np.prod(shape)) * dtype.itemsize
    return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True).numpy().view(dtype).reshape(shape)
