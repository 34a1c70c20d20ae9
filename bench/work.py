"""The task that every benchmark row solves, whatever its library: chips, batch size, crop, flips; and what a row is.

In: nothing. Out: `Work`, `Row`, `RowBatch`. Knows no library: `rows` and `peers` implement the task, `check` compares
the first batch with the expected one, `measure` times it.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from pipeline.inputs import Inputs, raw_inputs
from pipeline.loader import CROP_SHARE
from pipeline.order import Augmentation
from preprocess.zarr_store import Store, open_store

BATCH, SEED, FLIPS = 64, 0, "both"


@dataclass(frozen=True, kw_only=True)
class Work:
    """The chips, and the folder for their copies in other formats.

    stores: codec -> store of the same chips. tif: folder of TIFFs, None where only stores exist. bands: all of the
    store. batch: chips per batch.
    """

    folder: Path
    stores: dict[str, Path]
    tif: Path | None
    bands: tuple[str, ...]
    height: int
    width: int
    batch: int = BATCH

    @property
    def crop(self) -> tuple[int, int]:
        """(height, width): 224 of 256."""
        return round(self.height * CROP_SHARE), round(self.width * CROP_SHARE)

    def store(self, codec: str | None = None) -> Store:
        """The store with this codec, or any store of the chips. Opened once per process."""
        return _open(self.stores[codec or next(iter(self.stores))])

    def scaling(self, bands: tuple[str, ...]) -> Inputs:
        """Mean and std of all chips, the same for every row."""
        store = self.store()
        return raw_inputs(store, bands, np.arange(store.num_chips))


_open = functools.cache(open_store)


class RowBatch(NamedTuple):
    """One batch of a row.

    images: (B, channels, crop height, crop width) float32. labels: (B, classes) float32. chips: (B,) ids. augmentation:
    the parameters that the row drew for each chip; None if it uses the project's. chunks: (offsets, sizes) of the
    blocks in `images`, if `images` holds compressed chunks, (B, bytes) uint8.
    """

    images: torch.Tensor
    labels: torch.Tensor
    chips: np.ndarray
    augmentation: Augmentation | None = None
    chunks: tuple[np.ndarray, np.ndarray] | None = None


Epoch = Callable[[int], Iterator[RowBatch]]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One candidate of which each row uses its fastest.

    persistent: a DataLoader keeps its workers between epochs. processes: the workers of a library that has both are
    processes, not threads.
    """

    workers: int
    persistent: bool = False
    processes: bool = False

    def __str__(self) -> str:
        return f"{self.workers}{' kept' if self.persistent else ''}{' processes' if self.processes else ''}"


THREADS = (Setting(workers=1), Setting(workers=2))
PROCESSES = tuple(Setting(workers=count, processes=True) for count in (1, 2))
DATALOADER = (Setting(workers=0), *THREADS, *(Setting(workers=count, persistent=True) for count in (1, 2)))


@dataclass(frozen=True, kw_only=True)
class Row:
    """`make(work, setting)` builds it, once its `modules` are imported.

    order: "project" (order and augmentation of `pipeline.order`), "library" (the library shuffles and augments; its
    batches carry the augmentation). values: "raw", or "course" for the values that PIL makes of the files. library:
    name of its environment under .venv-peers; None for the project's. codec: of the canopy store that it reads.
    format: name of the format on disk that it reads.
    """

    name: str
    make: Callable[[Work, Setting], Epoch]
    settings: tuple[Setting, ...] = DATALOADER
    order: str = "project"
    values: str = "raw"
    bands: tuple[str, ...] | None = None  # None: all
    codec: str | None = None
    format: str = "tif"
    library: str | None = None
    modules: tuple[str, ...] = ()
    note: str = ""
