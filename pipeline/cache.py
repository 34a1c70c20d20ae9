"""CACHE: the whole store decoded once and kept, in RAM or on the GPU; later epochs touch no disk and inflate nothing.

`resident_reader` keeps the stored values in RAM and reads them as `ChunkReader` reads chunks, so both engines work on
it. `DeviceBatches` keeps them on the GPU and makes a batch by one gather there. Loaders of one store share what is
kept. What does not fit is said in one line, and the next smaller thing is done.
"""

import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from pipeline.chunks import ChunkReader
from pipeline.inputs import Inputs
from pipeline.order import Augmentation, center
from pipeline.readahead import BatchPlan
from preprocess.codecs import CODECS
from preprocess.console import Progress, say
from preprocess.zarr_store import Store

CACHES = ("none", "host", "device")
ROOM = 0.5  # of the free memory that a cache may take: batches, the model and the page cache need the rest
_BLOCK = 64  # chips decoded at a time
_GIB = 1024**3
_readers: weakref.WeakValueDictionary[tuple[str, tuple[str, ...]], "ResidentReader"] = weakref.WeakValueDictionary()


class ResidentReader(ChunkReader):
    """A `ChunkReader` whose chunks are decoded and in memory: `values` (chips, bands, height, width)."""

    _within: np.ndarray | None = None  # where a chip's chunks lie, once all are decoded

    def __init__(self, store: Store, bands: tuple[str, ...], workers: int) -> None:
        super().__init__(store, bands)
        layout = self.layout
        self.values = np.empty((store.num_chips, len(bands), layout.height, layout.width), layout.dtype)

        def fill(first: int) -> None:
            chips = np.arange(first, min(first + _BLOCK, store.num_chips))
            self.decode(chips, self.values[chips[0] : chips[-1] + 1])

        _fill_all(fill, store.num_chips, workers)
        # From here on `_locate` gives decoded chunks: a size of 0 says that they need no check.
        self._kernel_kind = CODECS["none"].kernel_kinds[layout.dtype]
        chunks = np.arange(self.chunks_per_chip, dtype=np.int64).reshape(len(bands), layout.chunks_per_band)
        self._within = chunks * layout.chunk_bytes
        self._chip_bytes = self.values[0].nbytes

    def _locate(self, chips: np.ndarray) -> tuple[np.ndarray, np.ndarray, object]:
        if self._within is None:
            return super()._locate(chips)
        starts = self.values.ctypes.data + chips * self._chip_bytes
        addresses = starts[:, None, None] + self._within
        return addresses, np.zeros_like(addresses), self.values


class DeviceBatches:
    """Images of planned batches from values that lie on the device; the counterpart of `dali.DaliBatches`.

    `values` is (chips, bands, height, width) of the store's dtype.
    """

    def __init__(self, values: torch.Tensor, inputs: Inputs, *, crop: tuple[int, int], dtype: torch.dtype) -> None:
        self._values, self._crop, self._dtype = values, crop, dtype
        device = values.device
        mean, std = (np.array(part, np.float32) for part in (inputs.mean, inputs.std))
        self._mean, self._scale = (torch.from_numpy(part).to(device) for part in (mean, np.float32(1) / std))

    def epoch(self, plans: Iterable[BatchPlan]) -> Iterator[tuple[BatchPlan, torch.Tensor]]:
        """Each plan with its images (B, channels, height, width), in channels-last memory."""
        height, width = self._values.shape[2:]
        for plan in plans:
            draws = plan.augmentation or center(len(plan.chips), height=height, width=width, crop=self._crop)
            images = gather(self._values, plan.chips, draws, self._crop, self._mean, self._scale)
            yield plan, images.to(self._dtype)

    def close(self) -> None:
        """Nothing runs beside the device."""


def gather(
    values: torch.Tensor, chips: np.ndarray, draws: Augmentation, crop: tuple[int, int], mean: torch.Tensor,
    scale: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """Flip, transpose, crop, mirror and scale `chips` of `values` by indexing: every pixel is read once.

    Returns:
        (B, bands, crop height, crop width) float32, channels-last memory, on the device of `values`.
    """
    device, (height, width) = values.device, values.shape[2:]

    def column(name: str) -> torch.Tensor:
        found = torch.from_numpy(np.ascontiguousarray(getattr(draws, name))).reshape(-1, 1, 1)
        return found.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else found

    down = torch.arange(crop[0], device=device).reshape(1, -1, 1)
    across = torch.arange(crop[1], device=device).reshape(1, 1, -1)
    # Backwards from what leaves: mirrored, cropped, transposed, rows flipped.
    y = column("crop_y") + down
    x = column("crop_x") + torch.where(column("mirror"), crop[1] - 1 - across, across)
    transpose = column("transpose")
    y, x = torch.where(transpose, x, y), torch.where(transpose, y, x)
    y = torch.where(column("flip_rows"), height - 1 - y, y)
    rows = torch.from_numpy(chips).reshape(-1, 1, 1).to(device, non_blocking=True)
    stored = values.view(torch.int16) if values.dtype is torch.uint16 else values  # torch indexes no uint16
    pixels = stored.flatten(2)[rows, :, y * width + x]  # (B, crop height, crop width, bands)
    if values.dtype is torch.uint16:
        pixels = pixels.to(torch.int32) & 0xFFFF
    return ((pixels.to(torch.float32) - mean) * scale).permute(0, 3, 1, 2)


def resident_reader(store: Store, bands: tuple[str, ...], workers: int) -> ResidentReader | None:
    """The store in RAM, or None, in one line, where it does not fit."""
    key = (store.fingerprint, bands)
    found = _readers.get(key)
    if found is None:
        needed, free = _num_bytes(store, bands), free_host_bytes() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if needed > ROOM * free:
            say(
                f"CACHE=host: {needed / _GIB:.1f} GiB would be needed, and {ROOM:.0%} of the {free / _GIB:.1f} GiB of "
                "free memory may be used. Streaming from the store instead."
            )
            return None
        found = _readers[key] = ResidentReader(store, bands, workers)
    return found


def resident_values(store: Store, bands: tuple[str, ...], workers: int, device: torch.device) -> torch.Tensor | None:
    """The store on the GPU, or None, in one line, where it does not fit."""
    key = (store.fingerprint, bands, str(device))
    found = _on_device.get(key)
    if found is None:
        needed, free = _num_bytes(store, bands), torch.cuda.mem_get_info(device)[0]
        if needed > ROOM * free:
            say(
                f"CACHE=device: {needed / _GIB:.1f} GiB would be needed, and {ROOM:.0%} of the {free / _GIB:.1f} GiB "
                "that are free on the GPU may be used. Trying CACHE=host."
            )
            return None
        found = _on_device[key] = to_device(ChunkReader(store, bands), store.num_chips, workers, device)
    return found


_on_device: weakref.WeakValueDictionary[tuple[str, tuple[str, ...], str], torch.Tensor] = weakref.WeakValueDictionary()


def to_device(reader: ChunkReader, num_chips: int, workers: int, device: torch.device) -> torch.Tensor:
    """Decode all chips, a block at a time, into a tensor for `DeviceBatches`."""
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


def free_host_bytes() -> int:
    """Memory that can be had without swapping: the system's, or the control group's where that is less."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and (text := limit.read_text().strip()) != "max":
        free = min(free, max(0, int(text) - int(used.read_text())))
    return free


def _num_bytes(store: Store, bands: tuple[str, ...]) -> int:
    return store.num_chips * store.layout.chip_bytes * len(bands) // len(store.layout.bands)
