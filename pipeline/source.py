"""DALI's callback: planned batches -> host buffers, filled ahead of time by threads.

A ring of buffers is allocated once and reused: fresh memory costs page faults, ten times the copy itself.
DALI reads the buffers in place (`no_copy`), so one is filled again only when the batch that used it has come
out of the pipeline. Leaves what to read to `loader` and what to do with it to `graph`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pipeline.chunks import ChunkReader
from pipeline.order import Augmentation

Allocate = Callable[[tuple[int, ...], np.dtype], np.ndarray]
PREFETCH_QUEUE_DEPTH = 2  # batches inside DALI
READ_AHEAD = 2  # batches being filled before DALI asks for them


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """One batch before it is read: tile numbers (B,) int64; the first `num_valid` count, the rest is padding."""

    tiles: np.ndarray
    num_valid: int
    augmentation: Augmentation | None  # None: a test batch


@dataclass(kw_only=True)
class _Slot:
    """One buffer of the ring. `tiles` for host decode; the other three for device decode."""

    tiles: np.ndarray | None = None
    compressed: np.ndarray | None = None
    offsets: np.ndarray | None = None
    sizes: np.ndarray | None = None
    num_bytes: np.ndarray | None = None


class Source:
    """Give to `fn.external_source`; call `begin` with the plans of an epoch before running the pipeline."""

    def __init__(
        self, reader: ChunkReader, *, batch_size: int, decode: str, workers: int, room: tuple[int, int] | None,
        allocate: Allocate,
    ) -> None:  # fmt: skip
        """
        Args:
            reader: where bytes come from.
            batch_size: tiles a batch.
            decode: "host" or "device".
            workers: reading threads.
            room: (height - crop height, width - crop width), to express crops as DALI does; None: a test graph.
            allocate: makes the buffers (pinned where there is a GPU).
        """
        self._reader, self._decode, self._workers, self._room = reader, decode, workers, room
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="canopy-read")
        # One buffer more than can be in use at once: DALI holds `depth`, and asks for the next before it
        # lets go of the oldest.
        num_slots = PREFETCH_QUEUE_DEPTH + READ_AHEAD + 1
        self._slots = [self._new_slot(batch_size, allocate) for _ in range(num_slots)]
        self._plans: Iterator[BatchPlan] = iter(())
        self._filling: deque[tuple[BatchPlan, _Slot, list[Future[None]]]] = deque()
        self._next_slot = 0

    def _new_slot(self, batch_size: int, allocate: Allocate) -> _Slot:
        reader, layout = self._reader, self._reader.layout
        if self._decode == "host":
            shape = (batch_size, len(reader.bands), layout.height, layout.width)
            return _Slot(tiles=allocate(shape, np.dtype(layout.dtype)))
        table = (batch_size, reader.chunks_per_tile)
        return _Slot(
            compressed=allocate((batch_size, reader.max_span_bytes), np.dtype(np.uint8)),
            offsets=np.zeros(table, np.int32),
            sizes=np.zeros(table, np.int32),
            num_bytes=np.zeros(batch_size, np.int64),
        )

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

    def __call__(self) -> list[np.ndarray | list[np.ndarray]]:
        """The next batch's arrays, in the order of `graph.source_outputs`."""
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
        futures = [self._pool.submit(self._fill, plan, slot, part) for part in rows if len(part)]
        self._filling.append((plan, slot, futures))

    def _fill(self, plan: BatchPlan, slot: _Slot, rows: np.ndarray) -> None:
        if slot.tiles is not None:
            for row in rows:
                self._reader.read_tile(int(plan.tiles[row]), slot.tiles[row])
            return
        assert slot.compressed is not None and slot.offsets is not None
        assert slot.sizes is not None and slot.num_bytes is not None
        for row in rows:
            slot.num_bytes[row] = self._reader.read_compressed(
                int(plan.tiles[row]), slot.compressed[row], slot.offsets[row], slot.sizes[row]
            )

    def _outputs(self, plan: BatchPlan, slot: _Slot) -> list[np.ndarray | list[np.ndarray]]:
        outputs: list[np.ndarray | list[np.ndarray]] = []
        if slot.tiles is not None:
            outputs.append(slot.tiles)
        else:
            assert slot.compressed is not None and slot.num_bytes is not None
            assert slot.offsets is not None and slot.sizes is not None
            outputs.append([row[:count] for row, count in zip(slot.compressed, slot.num_bytes, strict=True)])
            outputs += [slot.offsets, slot.sizes]
        if plan.augmentation is not None:
            assert self._room is not None
            aug = plan.augmentation
            outputs += [
                crop_position(aug.crop_y, self._room[0]),
                crop_position(aug.crop_x, self._room[1]),
                aug.mirror.astype(np.int32),
                aug.flip_rows,
                aug.transpose,
            ]
        return outputs


def crop_position(pixels: np.ndarray, room: int) -> np.ndarray:
    """Pixels from the top or left as DALI wants them: float32, 0..1 of the room there is.

    DALI multiplies by the room again and rounds; float32 is exact enough to give back every pixel of it.
    """
    return (pixels / max(room, 1)).astype(np.float32)
