"""The direct engine: stored bytes -> images on the CPU in one compiled pass, `kernels.augment`, without DALI.

It is two to three times as fast as decoding for DALI's graph (docs/log.md): a chunk's values are cropped, flipped and
scaled while they are in the inner caches, and each image is written once. The images equal those of the graph to the
bit (tests/test_direct.py). Float32 only, no resizing, no INPUT=course.

The memory of a batch is filled again, without page faults, when nobody holds the batch any more.
"""

import weakref
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from pipeline.chunks import ChunkReader
from pipeline.inputs import Inputs
from pipeline.order import Augmentation, center
from pipeline.plans import BatchPlan
from pipeline.readahead import ReadAhead


class _Slot:
    """One batch's images (B, height, width, channels) float32."""

    def __init__(self, owner: "DirectEngine", images: np.ndarray) -> None:
        self.images, self._owner = images, owner

    def fill(self, plan: BatchPlan, rows: slice) -> None:
        owner = self._owner
        parameters = plan.augmentation or owner.center
        owner.reader.augment(plan.chips[rows], parameters.take(rows), self.images[rows], owner.mean, owner.scale)


class DirectEngine:
    """Makes the images of planned batches on the CPU."""

    def __init__(
        self, reader: ChunkReader, inputs: Inputs, *, batch_size: int, crop: tuple[int, int], workers: int
    ) -> None:
        layout = reader.layout
        self.device_bytes, self.reader = 0, reader
        self.center: Augmentation = center(batch_size, height=layout.height, width=layout.width, crop=crop)
        # As DALI does: rounded to float32, then one subtraction and one multiplication per value.
        self.mean = np.array(inputs.mean, np.float32)
        self.scale = np.float32(1) / np.array(inputs.std, np.float32)
        self._shape = (batch_size, *crop, len(inputs.bands))
        self._free: list[np.ndarray] = []
        self._ahead = ReadAhead(workers, self._make_slot, reader)

    def epoch(self, plans: Iterable[BatchPlan]) -> Iterator[tuple[BatchPlan, torch.Tensor]]:
        """Each plan with its images (B, channels, height, width) float32, in channels-last memory."""
        self._ahead.begin(plans)
        try:
            while (filled := self._ahead.next()) is not None:
                plan, slot = filled
                yield plan, torch.from_numpy(slot.images).permute(0, 3, 1, 2)
                del filled, slot  # otherwise the buffer would be in use while the next batch is made
        finally:
            self._ahead.stop()

    def close(self) -> None:
        """End the threads."""
        self._ahead.close()

    def _make_slot(self) -> _Slot:
        memory = self._free.pop() if self._free else np.zeros(self._shape, np.float32)
        images = memory[:]
        weakref.finalize(images, self._free.append, memory).atexit = False
        return _Slot(self, images)
