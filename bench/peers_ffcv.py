"""Crop, flips and scaling of 16-bit chips as an ffcv operation, which ffcv compiles with numba.

In: `Work`. Out: an operation for `peers.ffcv`. Runs only in the environment that has ffcv.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from ffcv.pipeline.allocation_query import AllocationQuery
from ffcv.pipeline.compiler import Compiler
from ffcv.pipeline.operation import Operation

from bench.work import FLIPS, SEED, Work
from pipeline.order import augmentation


def table(work: Work) -> np.ndarray:
    """(chips, 4) int64: flip_rows, crop_y, crop_x, mirror. Compiled in by ffcv, so the same in all epochs."""
    chips = np.arange(work.store().num_chips)
    draws = augmentation(SEED, 0, chips, height=work.height, width=work.width, crop=work.crop, flips=FLIPS)
    return np.stack([draws.flip_rows, draws.crop_y, draws.crop_x, draws.mirror], axis=1).astype(np.int64)


class CropFlipScale(Operation):  # type: ignore[misc]
    """(B, bands, y, x) uint16 -> (B, bands, crop y, crop x) float32."""

    def __init__(self, work: Work, draws: np.ndarray) -> None:
        super().__init__()
        scaling = work.scaling(work.bands)
        self._draws, self._shape = draws, (len(work.bands), *work.crop)
        self._mean = np.array(scaling.mean, np.float32)
        self._inverse = (1 / np.array(scaling.std)).astype(np.float32)

    def declare_state_and_memory(self, previous_state: Any) -> Any:
        """Float32 crops out."""
        dtype = np.dtype(np.float32)
        return replace(previous_state, shape=self._shape, dtype=dtype), AllocationQuery(self._shape, dtype)

    def generate_code(self) -> Callable[..., Any]:
        """The function that ffcv compiles."""
        my_range = Compiler.get_iterator()
        draws, mean, inverse, (bands, height, width) = self._draws, self._mean, self._inverse, self._shape

        def run(images, out, indices):  # type: ignore[no-untyped-def]
            for index in my_range(indices.shape[0]):
                flip_rows, top, left, mirror = draws[indices[index]]
                last = images.shape[2] - 1
                for band in range(bands):
                    for row in range(height):
                        source = last - top - row if flip_rows else top + row
                        values = images[index, band, source, left : left + width]
                        target = out[index, band, row]
                        if mirror:
                            for column in range(width):
                                value = np.float32(values[width - 1 - column])
                                target[column] = (value - mean[band]) * inverse[band]
                        else:
                            for column in range(width):
                                target[column] = (np.float32(values[column]) - mean[band]) * inverse[band]
            return out[: indices.shape[0]]

        run.is_parallel = True  # type: ignore[attr-defined]
        run.with_indices = True  # type: ignore[attr-defined]
        return run
