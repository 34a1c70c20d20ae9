"""DALI's callback: planned batches -> host buffers, filled ahead of time by threads.

A ring of buffers is allocated once and reused: fresh memory costs page faults, ten times the copy itself.
DALI reads the buffers in place (`no_copy`), so one is filled again only when the batch that used it has come
out of the pipeline. Leaves what to read to `loader` and what to do with it to `graph`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.chunks import ChunkReader
from pipeline.order import Augmentation, draws_used

Allocate = Callable[[tuple[int, ...], np.dtype], np.ndarray]
PREFETCH_QUEUE_DEPTH = 2  # batches inside DALI
READ_AHEAD = 2  # batches being filled before DALI asks for them


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """One batch before it is read: tile numbers (B,) int64; the first `num_valid` count, the rest is padding."""

    tiles: np.ndarray
    num_valid: int
    augmentation: Augmentation | None  # None: a test batch


class _HostSlot:
    """One buffer of the ring for host decode: decoded tiles."""

    def __init__(self, reader: ChunkReader, batch_size: int, allocate: Allocate) -> None:
        layout = reader.layout
        self._reader = reader
        shape = (batch_size, len(reader.bands), layout.height, layout.width)
        self._tiles = allocate(shape, np.dtype(layout.dtype))

    def fill(self, row: int, tile: int, *, flip_rows: bool) -> None:
        self._reader.read_tile(tile, self._tiles[row], flip_rows=flip_rows)

    def outputs(self) -> list[Any]:
        return [self._tiles]


class _DeviceSlot:
    """One buffer of the ring for device decode: encoded tiles, and where their LZ4 blocks lie."""

    def __init__(self, reader: ChunkReader, batch_size: int, allocate: Allocate) -> None:
        self._reader = reader
        self._encoded = allocate((batch_size, reader.max_span_bytes), np.dtype(np.uint8))
        self._offsets = np.zeros((batch_size, reader.chunks_per_tile), np.int32)
        self._sizes = np.zeros_like(self._offsets)
        self._num_bytes = np.zeros(batch_size, np.int64)

    def fill(self, row: int, tile: int, *, flip_rows: bool) -> None:
        del flip_rows  # the graph does it, on the device
        self._num_bytes[row] = self._reader.read_compressed(
            tile, self._encoded[row], self._offsets[row], self._sizes[row]
        )

    def outputs(self) -> list[Any]:
        encoded = [row[:count] for row, count in zip(self._encoded, self._num_bytes, strict=True)]
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
            batch_size: tiles a batch.
            decode: "host" or "device".
            workers: reading threads.
            flips: which draws a train batch needs; see `order.draws_used`.
            room: (height - crop height, width - crop width), to express crops as DALI does.
            allocate: makes the buffers (pinned where there is a GPU).
        """
        self._workers, self._draws, self._room = workers, draws_used(flips, decode), room
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="canopy-read")
        # One buffer more than can be in use at once: DALI holds `depth`, and asks for the next before it
        # lets go of the oldest.
        num_slots = PREFETCH_QUEUE_DEPTH + READ_AHEAD + 1
        make_slot = _HostSlot if decode == "host" else _DeviceSlot
        self._slots = [make_slot(reader, batch_size, allocate) for _ in range(num_slots)]
        self._plans: Iterator[BatchPlan] = iter(())
        self._filling: deque[tuple[BatchPlan, _HostSlot | _DeviceSlot, list[Future[None]]]] = deque()
        self._next_slot = 0

    def begin(self, plans: Iterable[BatchPlan]) -> None:
        """Start an epoch; what is left of an earlier one is dropped."""
        self._drop()
        self._plans = iter(plans)
        for _ in range(READ_AHEAD):
            self._fill_next()

    def stop(self) -> None:
        """Give out no further batch: the next call raises StopIteration."""
        self._drop()
        self._plans = iter(())

    def close(self) -> None:
        """End the threads."""
        self.stop()
        self._pool.shutdown()

    def __call__(self) -> list[Any]:
        """The next batch's arrays, decode's first, then the draws."""
        if not self._filling:
            raise StopIteration
        plan, slot, futures = self._filling.popleft()
        for future in futures:
            future.result()
        self._fill_next()
        return self._outputs(plan, slot)

    def _drop(self) -> None:
        for _, _, futures in self._filling:
            for future in futures:
                future.cancel() or future.exception()
        self._filling.clear()

    def _fill_next(self) -> None:
        plan = next(self._plans, None)
        if plan is None:
            return
        slot = self._slots[self._next_slot]
        self._next_slot = (self._next_slot + 1) % len(self._slots)
        rows = np.array_split(np.arange(len(plan.tiles)), self._workers)
        futures = [self._pool.submit(_fill, plan, slot, part) for part in rows if len(part)]
        self._filling.append((plan, slot, futures))

    def _outputs(self, plan: BatchPlan, slot: _HostSlot | _DeviceSlot) -> list[Any]:
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


def _fill(plan: BatchPlan, slot: _HostSlot | _DeviceSlot, rows: np.ndarray) -> None:
    for row in rows.tolist():
        flip_rows = plan.augmentation is not None and bool(plan.augmentation.flip_rows[row])
        slot.fill(row, int(plan.tiles[row]), flip_rows=flip_rows)


def crop_position(pixels: np.ndarray, room: int) -> np.ndarray:
    """Pixels from the top or left as DALI wants them: float32, 0..1 of the room there is.

    DALI multiplies by the room again and rounds; float32 is exact enough to give back every pixel of it.
    """
    return (pixels / max(room, 1)).astype(np.float32)
