"""DALI's callback: planned batches -> host buffers that DALI reads in place.

A ring of buffers is allocated once and reused: fresh memory costs page faults, ten times the copy itself. DALI reads
the buffers without a copy (`no_copy`), so a buffer is filled again only when the batch that used it has come out of the
pipeline. Leaves what to read to `plans` and what to do with it to `graph`.
"""

from collections.abc import Callable, Iterable
from itertools import cycle
from typing import Any, Protocol

import numpy as np

from pipeline.chunks import ChunkReader
from pipeline.order import augmentation_fields
from pipeline.plans import BatchPlan
from pipeline.readahead import DEPTH, ReadAhead
from preprocess.layout import Layout

Allocate = Callable[[tuple[int, ...], np.dtype], np.ndarray]
PREFETCH_QUEUE_DEPTH = 2  # batches inside DALI


class ChipReader(Protocol):
    """Reads chips by number: `chunks.ChunkReader` from a store, `analysis.chip_folder.FolderReader` from files.

    layout: of the chips. bands: the bands that `decode` gives, in this order.
    """

    layout: Layout
    bands: tuple[str, ...]

    def decode(self, chips: np.ndarray, out: np.ndarray, flip_rows: np.ndarray | None = None) -> None:
        """Read chips into `out`, (N, bands, height, width) of the layout's dtype. Chips with `flip_rows` (N,) get their
        rows in reverse order. Called from several threads."""


class _HostSlot:
    """One buffer of the ring for host decode: decoded chips."""

    def __init__(self, reader: ChipReader, batch_size: int, allocate: Allocate) -> None:
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
        self, reader: ChipReader, *, batch_size: int, decode: str, workers: int, flips: str, slack: tuple[int, int],
        allocate: Allocate,
    ) -> None:  # fmt: skip
        """
        Args:
            reader: where chips come from; a `ChunkReader` for device decode.
            batch_size: chips per batch.
            decode: "host" or "device".
            workers: reading threads.
            flips: decides which augmentation parameters a train batch has; see `order.augmentation_fields`.
            slack: (height - crop height, width - crop width), to express crop positions as DALI does.
            allocate: makes the buffers (pinned where there is a GPU).
        """
        self._fields, self._slack = augmentation_fields(flips, decode), slack

        def make_slot() -> _HostSlot | _DeviceSlot:
            if decode == "host":
                return _HostSlot(reader, batch_size, allocate)
            assert isinstance(reader, ChunkReader)
            return _DeviceSlot(reader, batch_size, allocate)

        # One buffer more than can be in use at once: DALI holds PREFETCH_QUEUE_DEPTH, and asks for the next before it
        # releases the oldest.
        ring = cycle([make_slot() for _ in range(PREFETCH_QUEUE_DEPTH + DEPTH + 1)])
        announced = reader if isinstance(reader, ChunkReader) else None
        self._ahead: ReadAhead[_HostSlot | _DeviceSlot] = ReadAhead(workers, lambda: next(ring), announced)

    def begin(self, plans: Iterable[BatchPlan]) -> None:
        """Start an epoch; batches of an earlier one that are left are dropped."""
        self._ahead.begin(plans)

    def stop(self) -> None:
        """Give no further batch: the next call raises StopIteration."""
        self._ahead.stop()

    def close(self) -> None:
        """End the threads."""
        self._ahead.close()

    def __call__(self) -> list[Any]:
        """The arrays of the next batch: first those of the chips, then the augmentation parameters."""
        filled = self._ahead.next()
        if filled is None:
            raise StopIteration
        plan, slot = filled
        outputs = slot.outputs()
        if plan.augmentation is not None:
            parameters = plan.augmentation
            values = {
                "crop_y": crop_position(parameters.crop_y, self._slack[0]),
                "crop_x": crop_position(parameters.crop_x, self._slack[1]),
                "mirror": parameters.mirror.astype(np.int32),
                "flip_rows": parameters.flip_rows,
                "transpose": parameters.transpose,
            }
            outputs += [values[name] for name in self._fields]
        return outputs


def crop_position(pixels: np.ndarray, slack: int) -> np.ndarray:
    """Pixels from the top or left, as DALI takes them: float32, a share (0 to 1) of the crop slack.

    DALI multiplies by the slack again and rounds. float32 is exact enough to give every pixel of it back.
    """
    return (pixels / max(slack, 1)).astype(np.float32)
