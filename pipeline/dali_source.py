"""DALI's callback: planned batches -> host buffers that DALI reads in place.

A ring of buffers is allocated once and reused: fresh memory costs page faults, ten times the copy itself.
DALI reads the buffers without a copy (`no_copy`), so one is filled again only when the batch that used it has come
out of the pipeline. Leaves what to read to `loader` and what to do with it to `graph`.
"""

from collections.abc import Callable, Iterable
from itertools import cycle
from typing import Any

import numpy as np

from pipeline.chunks import ChunkReader
from pipeline.order import draws_used
from pipeline.readahead import DEPTH, BatchPlan, ReadAhead

Allocate = Callable[[tuple[int, ...], np.dtype], np.ndarray]
PREFETCH_QUEUE_DEPTH = 2  # batches inside DALI


class _HostSlot:
    """One buffer of the ring for host decode: decoded chips."""

    def __init__(self, reader: ChunkReader, batch_size: int, allocate: Allocate) -> None:
        layout = reader.layout
        self._reader = reader
        shape = (batch_size, len(reader.bands), layout.height, layout.width)
        self._chips = allocate(shape, np.dtype(layout.dtype))

    def fill(self, plan: BatchPlan, rows: slice) -> None:
        flip_rows = None if plan.augmentation is None else plan.augmentation.flip_rows[rows]
        self._reader.decode(plan.chips[rows], self._chips[rows], flip_rows)

    def outputs(self) -> list[Any]:
        return [self._chips]


class _DeviceSlot:
    """One buffer of the ring for device decode: encoded chips, and where their LZ4 blocks lie."""

    def __init__(self, reader: ChunkReader, batch_size: int, allocate: Allocate) -> None:
        self._reader = reader
        self._encoded = allocate((batch_size, reader.max_span_bytes), np.dtype(np.uint8))
        self._offsets = np.zeros((batch_size, reader.chunks_per_chip), np.int32)
        self._sizes = np.zeros_like(self._offsets)
        self._used = np.zeros(batch_size, np.int64)

    def fill(self, plan: BatchPlan, rows: slice) -> None:
        self._reader.copy_encoded(
            plan.chips[rows], self._encoded[rows], self._offsets[rows], self._sizes[rows], self._used[rows]
        )

    def outputs(self) -> list[Any]:
        encoded = [row[:count] for row, count in zip(self._encoded, self._used.tolist(), strict=True)]
        return [encoded, self._offsets, self._sizes]


class Source:
    """Give to `fn.external_source`; call `begin` with the plans of an epoch before running the pipeline."""

    def __init__(
        self, reader: ChunkReader, *, batch_size: int, decode: str, workers: int, flips: str, room: tuple[int, int],
        allocate: Allocate,
    ) -> None:  # fmt: skip
        """
        Args:
            reader: where bytes come from.
            batch_size: chips a batch.
            decode: "host" or "device".
            workers: reading threads.
            flips: which draws a train batch needs; see `order.draws_used`.
            room: (height - crop height, width - crop width), to express crops as DALI does.
            allocate: makes the buffers (pinned where there is a GPU).
        """
        self._draws, self._room = draws_used(flips, decode), room
        # One buffer more than can be in use at once: DALI holds `depth`, and asks for the next before it
        # lets go of the oldest.
        make_slot = _HostSlot if decode == "host" else _DeviceSlot
        ring = cycle([make_slot(reader, batch_size, allocate) for _ in range(PREFETCH_QUEUE_DEPTH + DEPTH + 1)])
        self._ahead: ReadAhead[_HostSlot | _DeviceSlot] = ReadAhead(workers, lambda: next(ring))

    def begin(self, plans: Iterable[BatchPlan]) -> None:
        """Start an epoch; what is left of an earlier one is dropped."""
        self._ahead.begin(plans)

    def stop(self) -> None:
        """Give out no further batch: the next call raises StopIteration."""
        self._ahead.stop()

    def close(self) -> None:
        """End the threads."""
        self._ahead.close()

    def __call__(self) -> list[Any]:
        """The next batch's arrays, decode's first, then the draws."""
        found = self._ahead.next()
        if found is None:
            raise StopIteration
        plan, slot = found
        outputs = slot.outputs()
        if plan.augmentation is not None:
            aug = plan.augmentation
            values = {
                "crop_y": crop_position(aug.crop_y, self._room[0]),
                "crop_x": crop_position(aug.crop_x, self._room[1]),
                "mirror": aug.mirror.astype(np.int32),
                "flip_rows": aug.flip_rows,
                "transpose": aug.transpose,
            }
            outputs += [values[name] for name in self._draws]
        return outputs


def crop_position(pixels: np.ndarray, room: int) -> np.ndarray:
    """Pixels from the top or left as DALI wants them: float32, 0..1 of the room there is.

    DALI multiplies by the room again and rounds; float32 is exact enough to give back every pixel of it.
    """
    return (pixels / max(room, 1)).astype(np.float32)
