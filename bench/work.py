"""What every row does, whatever its library: the chips, the batch, the crop, the flips, and what a row is made of.

Knows no library. `rows` and `peers` say how, `check` what must come out, `measure` how fast it does.
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
    """The chips, and where other formats of them are made and kept.

    stores: codec -> store of the same chips. tif: None where there are only stores. bands: all of the store.
    """

    folder: Path
    stores: dict[str, Path]
    tif: Path | None
    bands: tuple[str, ...]
    height: int
    width: int

    @property
    def crop(self) -> tuple[int, int]:
        """(height, width): 224 of 256."""
        return round(self.height * CROP_SHARE), round(self.width * CROP_SHARE)

    def store(self, codec: str | None = None) -> Store:
        """The chips' store; any, if the codec does not matter. Opened once a process."""
        return _open(self.stores[codec or next(iter(self.stores))])

    def scaling(self, bands: tuple[str, ...]) -> Inputs:
        """The same for every row: statistics of all chips."""
        store = self.store()
        return raw_inputs(store, bands, np.arange(store.num_chips))


_open = functools.cache(open_store)


class RowBatch(NamedTuple):
    """What a row yields.

    images: (B, channels, crop height, crop width) float32. labels: (B, classes) float32. chips: (B,) ids.
    draws: how each was augmented, if the row drew that itself. chunks: (offsets, sizes) of the blocks in `images`,
    if those are compressed chunks, (B, bytes) uint8.
    """

    images: torch.Tensor
    labels: torch.Tensor
    chips: np.ndarray
    draws: Augmentation | None = None
    chunks: tuple[np.ndarray, np.ndarray] | None = None


Epoch = Callable[[int], Iterator[RowBatch]]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a row chooses its best of. `persistent`: a DataLoader's workers outlive an epoch."""

    workers: int
    persistent: bool = False

    def __str__(self) -> str:
        return f"{self.workers}{' kept' if self.persistent else ''}"


THREADS = (Setting(workers=1), Setting(workers=2))
DATALOADER = (Setting(workers=0), *THREADS, *(Setting(workers=count, persistent=True) for count in (1, 2)))


@dataclass(frozen=True, kw_only=True)
class Row:
    """`make(work, setting)` builds it, once its `modules` are imported.

    order: "given" (the project's own order and draws), "own" (the library shuffles; a batch then carries its draws).
    values: "raw", or "course" for what PIL makes of the files. library: its environment under .venv-peers, if not
    the project's. codec: of the store it reads, if it is one of ours. format: what it reads, for bytes on disk.
    """

    name: str
    make: Callable[[Work, Setting], Epoch]
    settings: tuple[Setting, ...] = DATALOADER
    order: str = "given"
    values: str = "raw"
    bands: tuple[str, ...] | None = None  # None: all
    codec: str | None = None
    format: str = "tif"
    library: str | None = None
    modules: tuple[str, ...] = ()
    note: str = ""
