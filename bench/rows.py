"""Our rows, the baseline, and the peers that run in the project's own environment.

In: `Work`. Out: rows. All make the same batches from the order and augmentation of `pipeline.order`, so that each can
be checked before it is timed. `peers` has the libraries that must be installed.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import tifffile
import torch
import zarr
from torch.utils.data import DataLoader, Dataset, Sampler

from bench import formats
from bench.work import FLIPS, SEED, THREADS, Epoch, Row, RowBatch, Setting, Work
from pipeline.chunks import ChunkReader
from pipeline.inputs import COURSE_MEAN, COURSE_STD
from pipeline.loader import train_loader
from pipeline.order import Augmentation, augmentation, epoch_order

RGB = ("red", "green", "blue")
ReadChip = Callable[[int], np.ndarray]  # chip -> (band, y, x)


def canopy(
    codec: str, bands: tuple[str, ...] | None = None, page_cache: int | None = None
) -> Callable[[Work, Setting], Epoch]:
    """canopy's loader on the CPU."""

    def make(work: Work, setting: Setting) -> Epoch:
        store = work.store(codec)
        loader = train_loader(
            store, np.arange(store.num_chips), work.scaling(bands or work.bands), batch_size=work.batch, seed=SEED,
            flips=FLIPS, crop=work.crop, workers=setting.workers, page_cache=page_cache,
        )  # fmt: skip
        return lambda epoch: (RowBatch(batch.images_nchw, batch.labels, batch.chips) for batch in loader.epoch(epoch))

    return make


def device_host(work: Work, setting: Setting) -> Epoch:
    """One core's work when the GPU decodes: read compressed chunks, build the table, fill a reused buffer."""
    del setting
    store = work.store("lz4")
    reader = ChunkReader(store, work.bands)
    encoded = np.ones((work.batch, reader.max_span_bytes), np.uint8)
    offsets, sizes = (np.ones((work.batch, reader.chunks_per_chip), np.int32) for _ in range(2))
    used = np.ones(work.batch, np.int64)
    images, labels = torch.from_numpy(encoded), torch.from_numpy(store.labels.astype(np.float32))

    def epoch(number: int) -> Iterator[RowBatch]:
        order = epoch_order(SEED, number, np.arange(store.num_chips))
        for start in range(0, len(order) - work.batch + 1, work.batch):
            chips = order[start : start + work.batch]
            reader.copy_encoded(chips, encoded, offsets, sizes, used)
            yield RowBatch(images, labels[chips], chips, chunks=(offsets, sizes))

    return epoch


class Order(Sampler[tuple[int, int]]):
    """Indices (epoch, position): persistent workers learn the current epoch from them."""

    def __init__(self, num_chips: int) -> None:
        self.epoch, self._num_chips = 0, num_chips

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter((self.epoch, position) for position in range(self._num_chips))

    def __len__(self) -> int:
        return self._num_chips


class Chips(Dataset[tuple[torch.Tensor, torch.Tensor, int]]):
    """The data set of a typical PyTorch user: read one chip, crop, flip, scale. `open_source(work)` opens it."""

    def __init__(self, work: Work, open_source: Callable[[Work], ReadChip], values: str) -> None:
        self._work, self._open = work, open_source
        self._read: ReadChip | None = None
        self._labels = torch.from_numpy(work.store().labels.astype(np.float32))
        self._mean, self._std = mean_std(work, values)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor, int]:
        if self._read is None:  # opened in the worker: open files do not survive a fork well
            self._read = self._open(self._work)
        epoch, position = index
        order, drawn = _drawn(len(self._labels), epoch, self._work.height, self._work.width, self._work.crop)
        chip = int(order[position])
        image = augment(
            torch.from_numpy(self._read(chip)), self._work.crop,
            (bool(drawn.flip_rows[position]), int(drawn.crop_y[position]), int(drawn.crop_x[position]),
             bool(drawn.mirror[position])),
        )  # fmt: skip
        return (image.float() - self._mean) / self._std, self._labels[chip], chip


@functools.lru_cache(maxsize=4)  # threads of a library may be in two epochs at once
def _drawn(
    num_chips: int, epoch: int, height: int, width: int, crop: tuple[int, int]
) -> tuple[np.ndarray, Augmentation]:
    """Order and augmentation of an epoch."""
    order = epoch_order(SEED, epoch, np.arange(num_chips))
    return order, augmentation(SEED, epoch, order, height=height, width=width, crop=crop, flips=FLIPS)


def mean_std(work: Work, values: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and std, (bands, 1, 1) float32 each, in the units of the values."""
    if values == "course":
        mean, std = (tuple(255 * value for value in constants) for constants in (COURSE_MEAN, COURSE_STD))
    else:
        scaling = work.scaling(work.bands)
        mean, std = scaling.mean, scaling.std
    return torch.tensor(mean).reshape(-1, 1, 1), torch.tensor(std).reshape(-1, 1, 1)


def augment(image: torch.Tensor, crop: tuple[int, int], parameters: tuple[bool, int, int, bool]) -> torch.Tensor:
    """Flip rows, crop, mirror columns of a (band, y, x) chip; parameters: (flip_rows, crop_y, crop_x, mirror)."""
    flip_rows, top, left, mirror = parameters
    if flip_rows:
        image = image.flip(1)
    image = image[:, top : top + crop[0], left : left + crop[1]]
    return image.flip(2) if mirror else image


def with_dataloader(
    open_source: Callable[[Work], ReadChip], *, values: str = "raw", context: str = "fork"
) -> Callable[[Work, Setting], Epoch]:
    """A `DataLoader` over `Chips`."""

    def make(work: Work, setting: Setting) -> Epoch:
        dataset = Chips(work, open_source, values)
        order = Order(len(dataset))
        loader = DataLoader(
            dataset, work.batch, sampler=order, drop_last=True, num_workers=setting.workers,
            persistent_workers=setting.persistent, prefetch_factor=4 if setting.workers else None,
            multiprocessing_context=context if setting.workers else None,
        )  # fmt: skip

        def epoch(number: int) -> Iterator[RowBatch]:
            order.epoch = number
            for images, labels, chips in loader:
                yield RowBatch(images, labels, chips.numpy())

        return epoch

    return make


def tif_path(work: Work, chip: int) -> str:
    """File of a chip."""
    return f"{work.tif}/chip_{chip}.tif"


def _tifffile(work: Work) -> ReadChip:
    return lambda chip: np.moveaxis(tifffile.imread(tif_path(work, chip)), -1, 0)


def _pil(work: Work) -> ReadChip:
    from PIL import Image

    def read(chip: int) -> np.ndarray:
        with Image.open(tif_path(work, chip)) as image:
            return np.moveaxis(np.array(image), -1, 0)

    return read


def _zarr(work: Work) -> ReadChip:
    chips: Any = zarr.open_group(work.store("lz4").path, mode="r")["tiles"]
    return lambda chip: np.asarray(chips[chip])


def read_npy(work: Work) -> ReadChip:
    """Chips of the memory-mapped .npy file."""
    values = np.load(formats.written(work, "npy").path / "chips.npy", mmap_mode="r")
    return lambda chip: values[chip].copy()


BASELINE = "dataloader-tifffile"
_LZ4 = Row(name="canopy-lz4", make=canopy("lz4"), settings=THREADS, codec="lz4", format="lz4")
OURS = (
    _LZ4,
    replace(_LZ4, name="canopy-none", make=canopy("none"), codec="none", format="none"),
    replace(_LZ4, name="canopy-lz4-rgb", make=canopy("lz4", RGB), bands=RGB),
    Row(
        name="canopy-device-host", make=device_host, settings=THREADS[:1], format="lz4",
        note="one core; compressed chunks for the GPU, not batches",
    ),
)  # fmt: skip
PLAIN = (
    Row(name=BASELINE, make=with_dataloader(_tifffile)),
    Row(
        name="dataloader-zarr-python", make=with_dataloader(_zarr), format="lz4", note="reads the LZ4 store",
    ),
    Row(name="dataloader-npy-memmap", make=with_dataloader(read_npy), format="npy", note="one .npy file of all chips"),
)  # fmt: skip
PIL = Row(
    name="dataloader-pil", make=with_dataloader(_pil, values="course"), values="course", modules=("PIL.Image",),
    note="8-bit values divided by NIR, not the chips' values; checked against PIL's formula",
)  # fmt: skip
