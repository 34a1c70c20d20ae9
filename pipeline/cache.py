"""CACHE: the whole store decoded once and kept in memory. Later epochs read no disk and decode nothing.

In: a store, bands. Out: `host_reader`, which reads from RAM as `ChunkReader` reads chunks, so that the direct and the
dali engine work on it; `device_values`, a tensor on the GPU for the gather engine. Loaders of one store share a cache.
Where the chips do not fit, one line says so and the result is None; `engines` then falls back to a smaller cache.
"""

import os
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from pipeline.chunks import ChunkReader
from pipeline.host_memory import free_host_bytes
from preprocess.codecs import CODECS
from preprocess.console import Progress, say
from preprocess.zarr_store import Store

MAX_SHARE = 0.5  # of the free memory, for a cache: batches, the model and the page cache need the rest
_BLOCK = 64  # chips decoded at a time
_GIB = 1024**3
_on_host: weakref.WeakValueDictionary[tuple[str, tuple[str, ...]], "ResidentReader"] = weakref.WeakValueDictionary()
_on_device: weakref.WeakValueDictionary[tuple[str, tuple[str, ...], str], torch.Tensor] = weakref.WeakValueDictionary()


class ResidentReader(ChunkReader):
    """A `ChunkReader` whose chunks lie decoded in memory: `values` (chips, bands, height, width)."""

    _chunk_offsets: np.ndarray | None = None  # of the chunks within a chip, once all chips are decoded

    def __init__(self, store: Store, bands: tuple[str, ...], workers: int) -> None:
        super().__init__(store, bands)
        layout = self.layout
        self.values = np.empty((store.num_chips, len(bands), layout.height, layout.width), layout.dtype)

        def fill(first: int) -> None:
            chips = np.arange(first, min(first + _BLOCK, store.num_chips))
            self.decode(chips, self.values[chips[0] : chips[-1] + 1])

        _fill_all(fill, store.num_chips, workers)
        # From here on `locate` gives decoded chunks. A size of 0 says that they need no check.
        self._kernel_kind = CODECS["none"].kernel_kinds[layout.dtype]
        chunks = np.arange(self.chunks_per_chip, dtype=np.int64).reshape(len(bands), layout.chunks_per_band)
        self._chunk_offsets = chunks * layout.chunk_bytes
        self._chip_bytes = self.values[0].nbytes

    def locate(self, chips: np.ndarray) -> tuple[np.ndarray, np.ndarray, object]:
        """Addresses of decoded chunks, once all chips are decoded; their sizes are 0."""
        if self._chunk_offsets is None:
            return super().locate(chips)
        starts = self.values.ctypes.data + chips * self._chip_bytes
        addresses = starts[:, None, None] + self._chunk_offsets
        return addresses, np.zeros_like(addresses), self.values

    def announce(self, chips: np.ndarray) -> None:
        """Nothing: all chips lie in memory."""


def host_reader(store: Store, bands: tuple[str, ...], workers: int) -> ResidentReader | None:
    """The store in RAM; None, after one line, where it does not fit. Ranks on one machine share its free memory."""
    key = (store.fingerprint, bands)
    reader = _on_host.get(key)
    if reader is None:
        free = free_host_bytes() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if not _fits(
            "host", _num_bytes(store, bands), free, "free memory", "Reading the store in every epoch instead."
        ):
            return None
        reader = _on_host[key] = ResidentReader(store, bands, workers)
    return reader


def device_values(store: Store, bands: tuple[str, ...], workers: int, device: torch.device) -> torch.Tensor | None:
    """The store on the GPU, (chips, bands, height, width); None, after one line, where it does not fit."""
    key = (store.fingerprint, bands, str(device))
    values = _on_device.get(key)
    if values is None:
        free = torch.cuda.mem_get_info(device)[0]
        if not _fits("device", _num_bytes(store, bands), free, "free GPU memory", "Trying cache=host."):
            return None
        values = _on_device[key] = to_device(ChunkReader(store, bands), store.num_chips, workers, device)
    return values


def _fits(cache: str, num_bytes: int, free: int, memory: str, instead: str) -> bool:
    if num_bytes <= MAX_SHARE * free:
        return True
    say(
        f"cache={cache}: the chips need {num_bytes / _GIB:.1f} GiB, more than {MAX_SHARE:.0%} of the {free / _GIB:.1f} "
        f"GiB of {memory}. {instead}"
    )
    return False


def to_device(reader: ChunkReader, num_chips: int, workers: int, device: torch.device) -> torch.Tensor:
    """Decode all chips, a block at a time, into a tensor for `gather.GatherEngine`."""
    layout = reader.layout
    shape = (len(reader.bands), layout.height, layout.width)
    values = torch.empty((num_chips, *shape), dtype=getattr(torch, layout.dtype), device=device)

    def fill(first: int) -> None:
        chips = np.arange(first, min(first + _BLOCK, num_chips))
        block = np.empty((len(chips), *shape), layout.dtype)
        reader.decode(chips, block)
        values[first : first + len(chips)] = torch.from_numpy(block)

    _fill_all(fill, num_chips, workers)
    return values


def _fill_all(fill: Callable[[int], None], num_chips: int, workers: int) -> None:
    with Progress("cache", total=num_chips, unit="chips") as progress, ThreadPoolExecutor(workers) as pool:
        for first, _ in enumerate(pool.map(fill, range(0, num_chips, _BLOCK))):
            progress.update(min(_BLOCK, num_chips - first * _BLOCK))


def _num_bytes(store: Store, bands: tuple[str, ...]) -> int:
    return store.num_chips * store.layout.chip_bytes * len(bands) // len(store.layout.bands)
