"""Measurements that exist only on a GPU: its waits by its own clock, and the limits of the transfer to it.

In: steps and chips. Out: seconds and bytes/s. Small on purpose: all other code of `e2e` is the same on both devices.
"""

import time
from typing import Any

import numpy as np
import torch
from nvidia.dali import pipeline_def

from bench.rows import device_host
from bench.work import BATCH, Setting, Work
from pipeline.graph import GraphSpec, inflate_chips

_MIB, _REPEATS = 1024 * 1024, 50


class Waits:
    """GPU idle time: from the end of a step until the batch of the next step is on the GPU."""

    def __init__(self) -> None:
        self._ends: list[torch.cuda.Event] = []
        self._starts: list[torch.cuda.Event] = []

    def step_begins(self) -> None:
        """Call when the batch is ready and no kernel of the step is launched yet."""
        self._starts.append(_mark())

    def step_ends(self) -> None:
        """Call when all kernels of the step are launched."""
        self._ends.append(_mark())

    def seconds(self) -> float:
        """Sum of all waits by the device's clock. Synchronises with the device."""
        torch.cuda.synchronize()
        pairs = zip(self._ends, self._starts[1:], strict=False)
        return float(sum(end.elapsed_time(start) for end, start in pairs)) / 1000


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def limits(work: Work, device: torch.device) -> dict[str, float]:
    """Bytes/s from pinned host memory to the device, and of `inflate_chips` on one batch repeatedly.

    The second counts decoded bytes and includes the transfer to the device.
    """
    source = torch.empty(256 * _MIB, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(source, device=device)
    target.copy_(source)
    begin = _mark()
    for _ in range(_REPEATS):
        target.copy_(source, non_blocking=True)
    end = _mark()
    torch.cuda.synchronize()
    h2d = _REPEATS * len(source) / (begin.elapsed_time(end) / 1000)
    return {"h2d_bytes_per_s": h2d, "inflate_bytes_per_s": _inflate(work, device)}


def _inflate(work: Work, device: torch.device) -> float:
    from nvidia.dali import fn, types

    batch = next(device_host(work, Setting(workers=1))(0))
    assert batch.chunks is not None
    layout = work.store("lz4").layout
    sent: list[Any] = [batch.images.numpy(), *(np.ascontiguousarray(table) for table in batch.chunks)]
    spec = GraphSpec(
        layout=layout, inputs=work.scaling(work.bands), crop=work.crop, flips="none", test="center", decode="device",
        dtype="float16", batch_size=BATCH, threads=2, device_id=device.index,
    )  # fmt: skip

    @pipeline_def(batch_size=BATCH, num_threads=2, device_id=device.index)  # type: ignore[untyped-decorator]
    def graph() -> Any:
        inputs = fn.external_source(
            lambda: sent, num_outputs=3, batch=True, no_copy=True, dtype=[types.UINT8, types.INT32, types.INT32], ndim=1
        )
        return inflate_chips(spec, *inputs)

    pipeline: Any = graph()
    pipeline.build()
    pipeline.run()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(_REPEATS):
        pipeline.run()
    torch.cuda.synchronize()
    return _REPEATS * BATCH * layout.chip_bytes / (time.perf_counter() - started)
