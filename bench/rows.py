"""What is compared: each row makes the same batches (same tiles, crops, flips, scaling) in its own way.

A row is built with a number of workers and yields (images (B, C, 224, 224) float32, labels) for an epoch. All draw
from `pipeline.order`, so that one batch of each can be checked against the reference before it is timed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
import zarr
from torch.utils.data import DataLoader, Dataset

from bench.chips import BANDS
from pipeline.chunks import ChunkReader
from pipeline.inputs import Inputs, raw_inputs
from pipeline.loader import train_loader
from pipeline.order import augmentation, epoch_order
from preprocess.schema import Store, open_store

BATCH, CROP, SEED, FLIPS = 64, (224, 224), 0, "both"
Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]
Epoch = Callable[[int], Batches]


@dataclass(frozen=True, kw_only=True)
class Row:
    """`make(folder, workers)` builds it; `workers` are the settings to choose the best of."""

    name: str
    make: Callable[[Path, int], Epoch]
    workers: tuple[int, ...] = (0, 1, 2)
    bands: tuple[str, ...] = BANDS
    codec: str | None = None  # of the store it reads, if it is one of ours
    checked: bool = True


def canopy(codec: str, bands: tuple[str, ...]) -> Callable[[Path, int], Epoch]:
    """Our loader on the CPU."""

    def make(folder: Path, workers: int) -> Epoch:
        store = open_store(folder / f"{codec}.zarr")
        loader = train_loader(
            store, np.arange(store.num_tiles), scaling(store, bands), batch_size=BATCH, seed=SEED, flips=FLIPS,
            crop=CROP, workers=workers,
        )  # fmt: skip
        return lambda epoch: ((batch.images_nchw, batch.labels) for batch in loader.epoch(epoch))

    return make


def scaling(store: Store, bands: tuple[str, ...]) -> Inputs:
    """The same for every row: statistics of all chips."""
    return raw_inputs(store, bands, np.arange(store.num_tiles))


def device_host(folder: Path, workers: int) -> Epoch:
    """The host's part of device decode: read compressed chunks of 4 bands, build the table, fill a reused buffer."""
    del workers  # one thread: the row says what one core does
    store = open_store(folder / "lz4.zarr")
    reader = ChunkReader(store, BANDS)
    encoded = np.ones((BATCH, reader.max_span_bytes), np.uint8)
    offsets, sizes = (np.ones((BATCH, reader.chunks_per_tile), np.int32) for _ in range(2))
    used = np.ones(BATCH, np.int64)
    nothing = torch.zeros(BATCH, 0)

    def epoch(number: int) -> Batches:
        order = epoch_order(SEED, number, np.arange(store.num_tiles))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            reader.copy_encoded(order[start : start + BATCH], encoded, offsets, sizes, used)
            yield nothing, nothing

    return epoch


class Chips(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """What a PyTorch user writes: read one chip, crop, flip, scale. `read(index)` gives (band, y, x)."""

    def __init__(self, folder: Path, open_source: Callable[[Path], Callable[[int], np.ndarray]]) -> None:
        store = open_store(folder / "lz4.zarr")
        inputs = scaling(store, BANDS)
        self._folder, self._open = folder, open_source
        self._read: Callable[[int], np.ndarray] | None = None
        self._labels = torch.from_numpy(store.labels.astype(np.float32))
        self._mean = torch.tensor(inputs.mean).reshape(-1, 1, 1)
        self._std = torch.tensor(inputs.std).reshape(-1, 1, 1)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the order, crops and flips of an epoch."""
        tiles = np.arange(len(self._labels))
        self._order = epoch_order(SEED, epoch, tiles)
        self._draws = augmentation(SEED, epoch, self._order, height=256, width=256, crop=CROP, flips=FLIPS)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self._read is None:  # in the worker: open files do not survive a fork well
            self._read = self._open(self._folder)
        tile, draws = int(self._order[position]), self._draws
        image = torch.from_numpy(self._read(tile))
        top = int(draws.crop_y[position])
        if draws.flip_rows[position]:
            image = image.flip(1)
        left = int(draws.crop_x[position])
        image = image[:, top : top + CROP[0], left : left + CROP[1]]
        if draws.mirror[position]:
            image = image.flip(2)
        return (image.float() - self._mean) / self._std, self._labels[tile]


def with_dataloader(open_source: Callable[[Path], Callable[[int], np.ndarray]]) -> Callable[[Path, int], Epoch]:
    """A `DataLoader` over `Chips`."""

    def make(folder: Path, workers: int) -> Epoch:
        dataset = Chips(folder, open_source)

        def epoch(number: int) -> Batches:
            dataset.set_epoch(number)
            # Workers are started anew each epoch, as they are by default; torch's one thread a worker is its own.
            loader = DataLoader(
                dataset,
                BATCH,
                num_workers=workers,
                drop_last=True,
                prefetch_factor=4 if workers else None,
                multiprocessing_context="fork" if workers else None,
            )
            yield from loader

        return epoch

    return make


def _tifffile(folder: Path) -> Callable[[int], np.ndarray]:
    return lambda tile: np.moveaxis(tifffile.imread(folder / "tif" / f"chip_{tile}.tif"), -1, 0)


def _zarr(codec: str) -> Callable[[Path], Callable[[int], np.ndarray]]:
    def open_source(folder: Path) -> Callable[[int], np.ndarray]:
        tiles: Any = zarr.open_group(folder / f"{codec}.zarr", mode="r")["tiles"]
        return lambda tile: np.asarray(tiles[tile])

    return open_source


def _npy(folder: Path) -> Callable[[int], np.ndarray]:
    path = folder / "chips.npy"
    if not path.exists():
        tiles: Any = zarr.open_group(folder / "none.zarr", mode="r")["tiles"]
        out = np.lib.format.open_memmap(path.with_suffix(".part"), "w+", np.uint16, tiles.shape)
        for first in range(0, tiles.shape[0], 128):
            out[first : first + 128] = tiles[first : first + 128]
        out.flush()
        path.with_suffix(".part").replace(path)
    values = np.load(path, mmap_mode="r")
    return lambda tile: values[tile].copy()


BASELINE = "dataloader-tifffile"
LOADERS = (
    Row(name=BASELINE, make=with_dataloader(_tifffile)),
    Row(name="canopy-lz4", make=canopy("lz4", BANDS), workers=(1, 2), codec="lz4"),
    Row(name="canopy-none", make=canopy("none", BANDS), workers=(1, 2), codec="none"),
    Row(name="canopy-lz4-rgb", make=canopy("lz4", ("red", "green", "blue")), workers=(1, 2), codec="lz4",
        bands=("red", "green", "blue")),
    Row(name="canopy-device-host", make=device_host, workers=(1,), checked=False),
)  # fmt: skip
PEERS = (
    Row(name="dataloader-zarr-python", make=with_dataloader(_zarr("lz4"))),
    Row(name="dataloader-npy-memmap", make=with_dataloader(_npy)),
)
