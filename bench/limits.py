"""Limits of this machine: read, LZ4 and copy rates of one core, from which the speed of light follows.

In: a store. Out: `Limits`, probed in every round. Leaves the comparison with a loader to `loader`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numcodecs.lz4
import numpy as np

from bench.work import Work
from preprocess import shard, zarr_store
from preprocess.codecs import CODECS

_CHIPS = 64


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bytes/s of one core: page cache to a warm buffer, LZ4 (decoded bytes), copy between warm buffers.

    lz4: None without an LZ4 store.
    """

    read: float
    lz4: float | None
    memcpy: float


def probe(work: Work) -> Limits:
    """Measure all three rates, each over up to a few hundred megabytes; the best of three passes."""
    store = work.store("lz4" if "lz4" in work.stores else None)
    layout = store.layout
    path = zarr_store.shard_path(store.local_path, 0)
    chips = min(_CHIPS, layout.shard_tiles, store.num_chips)
    offsets, sizes = shard.read_index(path, layout, chips)
    buffer = bytearray(int((offsets + sizes).max()))
    view = memoryview(buffer)

    def read() -> int:
        with open(path, "rb", buffering=0) as file:
            return file.readinto(view) or 0

    read()
    blocks = [
        np.frombuffer(view[first : first + size - shard.CRC_BYTES], np.uint8)
        for first, size in zip(offsets.reshape(-1).tolist(), sizes.reshape(-1).tolist(), strict=True)
    ]
    decoded = np.ones(layout.chunk_bytes, np.uint8)

    def inflate() -> int:
        for block in blocks:
            numcodecs.lz4.decompress(block, decoded)
        return len(blocks) * layout.chunk_bytes

    # As large as a batch, so larger than the inner caches; source and target are both warm.
    source, target = (np.ones(chips * layout.chip_bytes, np.uint8) for _ in range(2))

    def copy() -> int:
        np.copyto(target, source)
        return len(source)

    return Limits(read=_best(read), lz4=_best(inflate) if CODECS[layout.codec].inflates else None, memcpy=_best(copy))


def _best(work: Callable[[], int]) -> float:
    rates = []
    for _ in range(3):
        started = time.perf_counter()
        rates.append(work() / (time.perf_counter() - started))
    return max(rates)


def speed_of_light(limits: Limits, *, stored: float, raw: float, crop_in: float, out: float, inflate: bool) -> float:
    """Chips/s of one core from bytes per chip: read, inflate, and copy the crop into the batch."""
    assert limits.lz4 or not inflate
    seconds = (
        stored / limits.read + (raw / limits.lz4 if limits.lz4 and inflate else 0.0) + (crop_in + out) / limits.memcpy
    )
    return 1 / seconds
