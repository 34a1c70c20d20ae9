"""Limits of this machine: rates of one core, and the rate of a loader that does nothing but read, decode and copy.

In: a store; a row's work. Out: `Limits` and `BareLoader`, measured in every round. Leaves the comparison with a loader
to `loader`.
"""

import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numba
import numcodecs.lz4
import numpy as np

from bench.work import FLIPS, SEED, Work
from pipeline.c_functions import lz4_decompress, memcpy
from pipeline.chunks import ChunkReader
from pipeline.order import augmentation, epoch_order
from preprocess import shard, zarr_store
from preprocess.codecs import CODECS, LZ4_HEADER_BYTES
from preprocess.shard import CRC_BYTES

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


PASSES, MIN_S = 3, 0.3


class BareLoader:
    """The least that a loader of a row's batches must do, with as many threads as the row.

    In the row's order it decodes the LZ4 chunks that a crop touches, or reads the lines of the crop, from the page
    cache into an inner cache. Then it writes as many bytes as the batch has, from an inner cache into warm memory.
    Epochs with one line per copy and with many lines per copy take turns; the faster way is the limit. Small chips need
    many lines per copy: with one, those of 32 x 32 x 3 spend most of the time in 112 calls of memcpy.
    """

    def __init__(self, work: Work, codec: str, bands: tuple[str, ...], threads: int) -> None:
        self._work, self._threads, store = work, threads, work.store(codec)
        self._layout, self._num_chips, self._inflate = store.layout, store.num_chips, CODECS[codec].inflates
        self._reader = ChunkReader(store, bands)
        shape = (work.batch, work.crop[0], work.crop[1] * len(bands))
        self._batches = [np.ones(shape, np.float32) for _ in range(_BATCHES)]
        self._most_lines = max(1, BLOCK_BYTES // (4 * shape[2]))
        sizes = (len(bands) * store.layout.chunk_bytes, 4 * shape[2] * self._most_lines)
        self._memory = [tuple(np.ones(size, np.uint8) for size in sizes) for _ in range(threads)]
        self._pool = ThreadPoolExecutor(threads)
        for lines in (1, self._most_lines):
            self._pass(0, lines)

    def rate(self, number: int) -> float:
        """Chips/s: the best of at least `PASSES` epochs of each way in `MIN_S` seconds."""
        started, rates = time.perf_counter(), [0.0]
        for epoch in itertools.count(1000 * number):
            rates += [self._pass(epoch, lines) for lines in (1, self._most_lines)]
            if len(rates) > 2 * PASSES and time.perf_counter() - started > MIN_S:
                return max(rates)
        raise AssertionError("never ends")

    def _pass(self, epoch: int, lines: int) -> float:
        work, (height, width) = self._work, self._work.crop
        order = epoch_order(SEED, epoch, np.arange(self._num_chips))
        drawn = augmentation(
            SEED, epoch, order, height=work.height, width=work.width, crop=work.crop, flips=FLIPS
        )  # fmt: skip
        tops = np.where(drawn.flip_rows, work.height - drawn.crop_y - height, drawn.crop_y).astype(np.int64)
        addresses, sizes, owner = self._reader.locate(order)
        starts = range(0, len(order) - work.batch + 1, work.batch)

        def share(thread: int) -> int:
            damaged, (scratch, line) = -1, self._memory[thread]
            for number, start in enumerate(starts):
                first, last = (work.batch * part // self._threads for part in (thread, thread + 1))
                rows = slice(start + first, start + last)
                damaged = max(damaged, _read_decode_copy(
                    addresses[rows], sizes[rows], tops[rows], self._layout.chunk_rows, self._layout.width,
                    self._layout.itemsize, width, self._inflate, lines, scratch, line,
                    self._batches[number % _BATCHES][first:last],
                ))  # fmt: skip
            return damaged

        started = time.perf_counter()
        assert max(self._pool.map(share, range(self._threads))) < 0, "a chunk does not decode"
        elapsed = time.perf_counter() - started
        del owner
        return len(starts) * work.batch / elapsed


BLOCK_BYTES = 64 << 10  # copied at once: what the loader writes at once
_BATCHES = 3  # as many as a loader has: one that is used, and two that are filled


@numba.njit(nogil=True, cache=True)
def _read_decode_copy(
    addresses: np.ndarray, sizes: np.ndarray, tops: np.ndarray, rows: int, width: int, itemsize: int, crop_width: int,
    inflate: bool, lines: int, scratch: np.ndarray, line: np.ndarray, out: np.ndarray,
) -> int:  # fmt: skip
    """Write all of `out` (N, crop height, values of a line); returns a chip that does not decode, or -1.

    addresses, sizes: (N, bands, chunks), as `ChunkReader.locate` gives them. tops: (N,), first row of each crop. lines:
    that are copied at once, at most.
    """
    count, crop_height, values = out.shape
    chunk_bytes, row_bytes, buffer = rows * width * itemsize, width * itemsize, np.int64(scratch.ctypes.data)
    target, warm = np.int64(out.ctypes.data), np.int64(line.ctypes.data)
    for chip in range(count):
        top, end = tops[chip], tops[chip] + crop_height
        for chunk in range(top // rows, (end - 1) // rows + 1):
            if inflate:
                for band in range(addresses.shape[1]):
                    block = addresses[chip, band, chunk] + LZ4_HEADER_BYTES
                    size = sizes[chip, band, chunk] - LZ4_HEADER_BYTES - CRC_BYTES
                    at = buffer + band * chunk_bytes
                    if lz4_decompress(np.uintp(block), np.uintp(at), np.int32(size), np.int32(chunk_bytes)) < 0:
                        return chip
            row, last = max(top, chunk * rows), min(end, (chunk + 1) * rows)
            while row < last:
                num = min(lines, last - row)
                if not inflate:  # whole lines, except the last
                    span = (num - 1) * row_bytes + crop_width * itemsize
                    for band in range(addresses.shape[1]):
                        source = addresses[chip, band, chunk] + (row - chunk * rows) * row_bytes
                        memcpy(np.uintp(buffer), np.uintp(source), np.uintp(span))
                memcpy(np.uintp(target), np.uintp(warm), np.uintp(4 * values * num))
                target += 4 * values * num
                row += num
    return -1
