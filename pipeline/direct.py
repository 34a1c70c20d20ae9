"""The direct engine: stored bytes -> images on the CPU in one compiled pass, `kernels.augment`, without DALI.

It is two to three times as fast as decoding for DALI's graph (docs/log.md): a chunk's values are cropped, flipped and
scaled while they are in the inner caches, and each image is written once. The images equal those of the graph to the
bit (tests/test_direct.py). Float32 only, no resizing, no INPUT=course.

Several small batches are made as one: what threads and Python do for a batch takes longer than its images.
The memory of these batches is filled again, without page faults, when nobody holds one of them any more.
"""

import weakref
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from pipeline.chunks import ChunkReader
from pipeline.inputs import Inputs
from pipeline.order import Augmentation, center
from pipeline.plans import BatchPlan, JoinedPlan, join
from pipeline.readahead import ReadAhead

# Images that are made as one: of 32 x 32 x 3, 13 batches of 64. 0, 1, 2, 4 and 8 MiB took 3.8, 3.9, 3.5, 3.2 and 2.9 us
# of CPU per chip.
JOINED_BYTES, JOINED_CHIPS = 8 << 20, 1024


class _Slot:
    """Images of one or several batches (N, height, width, channels) float32."""

    def __init__(self, owner: "DirectEngine", images: np.ndarray) -> None:
        self.images, self._owner = images, owner

    def fill(self, plan: BatchPlan, rows: slice) -> None:
        owner = self._owner
        parameters = plan.augmentation or owner.center  # test batches take the first of these, which are all the same
        owner.reader.augment(plan.chips[rows], parameters.take(rows), self.images[rows], owner.mean, owner.scale)


class DirectEngine:
    """Makes the images of planned batches on the CPU."""

    def __init__(
        self, reader: ChunkReader, inputs: Inputs, *, batch_size: int, crop: tuple[int, int], workers: int
    ) -> None:
        layout = reader.layout
        self.device_bytes, self.reader = 0, reader
        self._batch_size = batch_size
        chip_bytes = 4 * crop[0] * crop[1] * len(inputs.bands)
        self._batches = max(1, min(JOINED_CHIPS, JOINED_BYTES // chip_bytes) // batch_size)
        most = self._batches * batch_size
        self.center: Augmentation = center(most, height=layout.height, width=layout.width, crop=crop)
        # As DALI does: rounded to float32, then one subtraction and one multiplication per value.
        self.mean = np.array(inputs.mean, np.float32)
        self.scale = np.float32(1) / np.array(inputs.std, np.float32)
        self._shape = (most, *crop, len(inputs.bands))
        self._free: list[np.ndarray] = []
        self._ahead = ReadAhead(workers, self._make_slot, reader)

    def epoch(self, plans: Iterable[BatchPlan]) -> Iterator[tuple[BatchPlan, torch.Tensor]]:
        """Each plan with its images (B, channels, height, width) float32, in channels-last memory."""
        self._ahead.begin(join(plans, self._batches))
        try:
            while (filled := self._ahead.next()) is not None:
                plan, slot = filled
                assert isinstance(plan, JoinedPlan)
                # Sliced by torch: its views keep `slot.images`, numpy's would keep the memory below it.
                images = torch.from_numpy(slot.images)[: len(plan.chips)].permute(0, 3, 1, 2)
                batches = images.split(self._batch_size)  # type: ignore[no-untyped-call]
                yield from zip(plan.plans, batches, strict=True)
                del filled, slot, images, batches  # otherwise the buffer would be in use while the next batch is made
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
