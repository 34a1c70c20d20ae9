"""Loaders of other libraries, each used as its documentation shows, with the same augmentation and scaling.

In: `Work`. Out: rows. A library that shuffles by itself cannot follow the project's order. Its samples therefore carry
the chip's index and augmentation parameters, and `check` uses these for every chip of its first batch.
"""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from bench import formats
from bench.peers_pipelines import PIPELINES
from bench.rows import PIL, PLAIN, Chips, ReadChip, augment, mean_std, tif_path, with_dataloader
from bench.work import BATCH, SEED, THREADS, Epoch, Row, RowBatch, Setting, Work
from pipeline.order import Augmentation, epoch_order


class Transform:
    """Augment and scale one sample; draws its own parameters, as torchvision's transforms do."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._labels = torch.from_numpy(work.store().labels.astype(np.float32))
        self._mean, self._std = mean_std(work, "raw")

    def __call__(self, image: torch.Tensor, chip: int) -> tuple[torch.Tensor, torch.Tensor, int, list[int]]:
        """(band, y, x) uint16 -> scaled crop, labels, chip, augmentation parameters."""
        work = self._work
        parameters = (
            random.random() < 0.5, random.randint(0, work.height - work.crop[0]),
            random.randint(0, work.width - work.crop[1]), random.random() < 0.5,
        )  # fmt: skip
        image = augment(image, work.crop, parameters)
        scaled = (image.float() - self._mean) / self._std
        return scaled, self._labels[chip], chip, [int(value) for value in parameters]


def row_batch(images: torch.Tensor, labels: torch.Tensor, chips: Any, parameters: Any) -> RowBatch:
    """Make a batch of `Transform`'s samples; parameters: (B, 4)."""
    flip_rows, top, left, mirror = np.asarray(parameters, np.int64).T
    none = np.zeros(len(flip_rows), bool)
    augmentation = Augmentation(
        flip_rows=flip_rows > 0, transpose=none, crop_y=top, crop_x=left, mirror=mirror > 0
    )  # fmt: skip
    return RowBatch(images, labels, np.asarray(chips), augmentation)


def collate(samples: list[tuple[torch.Tensor, torch.Tensor, int, list[int]]]) -> tuple[Any, ...]:
    """Stack samples. torch's default collation would split the parameters into four tensors."""
    images, labels, chips, parameters = zip(*samples, strict=True)
    return torch.stack(images), torch.stack(labels), torch.tensor(chips), torch.tensor(parameters)


def _batches(loader: Any) -> Iterator[RowBatch]:
    for batch in loader:
        yield row_batch(*batch)


def _rasterio(work: Work) -> ReadChip:
    import warnings

    import rasterio

    # Advice of its documentation for many files in a folder: do not list the folder at every open.
    environment = rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR")
    environment.__enter__()
    warnings.filterwarnings("ignore", category=rasterio.errors.NotGeoreferencedWarning)

    def read(chip: int) -> np.ndarray:
        with rasterio.open(tif_path(work, chip)) as source:
            return np.asarray(source.read())

    return read


def _tensorstore_array(work: Work) -> Any:
    import tensorstore

    return tensorstore.open(
        {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(formats.written(work, "tensorstore").path)}},
        read=True, context=tensorstore.Context({"cache_pool": {"total_bytes_limit": 0}}),
    ).result()  # fmt: skip


def _tensorstore(work: Work) -> ReadChip:
    array = _tensorstore_array(work)
    return lambda chip: np.asarray(array[chip].read().result())


def tensorstore(work: Work, setting: Setting) -> Epoch:
    """In a DataLoader's workers or, without workers, by its own threads with two batches of futures read ahead."""
    if setting.workers:  # spawn: its threads do not survive a fork
        return with_dataloader(_tensorstore, context="spawn")(work, setting)
    array, ahead = _tensorstore_array(work), 2 * BATCH
    futures: dict[int, Any] = {}
    dataset = Chips(work, lambda _: lambda chip: np.asarray(futures.pop(chip).result()), "raw")

    def epoch(number: int) -> Iterator[RowBatch]:
        order = epoch_order(SEED, number, np.arange(len(dataset))).tolist()
        count = len(order) // BATCH * BATCH
        samples: list[tuple[torch.Tensor, torch.Tensor, int]] = []
        futures.update({chip: array[chip].read() for chip in order[: min(ahead, count)]})
        for position in range(count):
            if position + ahead < count:
                futures[order[position + ahead]] = array[order[position + ahead]].read()
            samples.append(dataset[number, position])
            if len(samples) == BATCH:
                images, labels, chips = zip(*samples, strict=True)
                yield RowBatch(torch.stack(images), torch.stack(labels), np.array(chips))
                samples.clear()

    return epoch


class _LitTransform:
    def __init__(self, work: Work) -> None:
        self._transform = Transform(work)

    def __call__(self, sample: dict[str, Any]) -> Any:
        return self._transform(torch.as_tensor(sample["image"]), int(sample["tile"]))


def litdata(work: Work, setting: Setting) -> Epoch:
    """StreamingDataset and StreamingDataLoader on local chunks."""
    from litdata import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(
        str(formats.written(work, "litdata").path),
        shuffle=True,
        drop_last=True,
        seed=SEED,
        transform=_LitTransform(work),
    )
    loader = StreamingDataLoader(
        dataset, batch_size=BATCH, num_workers=setting.workers, collate_fn=collate, drop_last=True,
        persistent_workers=setting.persistent,
    )  # fmt: skip
    return lambda number: _batches(loader)


def streaming(work: Work, setting: Setting) -> Epoch:
    """mosaicml-streaming's StreamingDataset on local MDS shards, in torch's DataLoader."""
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory
    from torch.utils.data import DataLoader

    transform = Transform(work)

    class Chips(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, index: int) -> Any:
            sample = super().__getitem__(index)
            return transform(torch.from_numpy(sample["image"]), int(sample["tile"]))

    clean_stale_shared_memory()
    dataset = Chips(
        local=str(formats.written(work, "mds").path), shuffle=True, shuffle_seed=SEED, batch_size=BATCH,
        num_canonical_nodes=1,
    )  # fmt: skip
    loader: Any = DataLoader(
        dataset, BATCH, num_workers=setting.workers, collate_fn=collate, drop_last=True,
        persistent_workers=setting.persistent,
    )  # fmt: skip
    return lambda number: _batches(loader)


def webdataset(work: Work, setting: Setting) -> Epoch:
    """Tar shards, shuffled by shard and in a buffer of 1,000 chips."""
    import webdataset as wds

    transform = Transform(work)
    urls = sorted(str(path) for path in formats.written(work, "webdataset").path.glob("*.tar"))
    dataset = (
        wds.WebDataset(urls, shardshuffle=len(urls), seed=SEED, empty_check=False)
        .shuffle(1000)
        .decode()
        .to_tuple("image.npy", "tile.cls")
        .map(lambda sample: transform(torch.from_numpy(sample[0]), int(sample[1])))
        .batched(BATCH, collation_fn=collate, partial=False)
    )
    loader = wds.WebLoader(dataset, batch_size=None, num_workers=setting.workers, persistent_workers=setting.persistent)
    return lambda number: _batches(loader)


def ffcv(work: Work, setting: Setting) -> Epoch:
    """ffcv's compiled pipeline. It has no 16-bit crop, flip or scaling; `peers_ffcv` adds an operation in its style."""
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.ndarray import NDArrayDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor

    from bench.peers_ffcv import CropFlipScale, table

    parameters = table(work)
    labels = torch.from_numpy(work.store().labels.astype(np.float32))
    loader = Loader(
        str(formats.written(work, "ffcv").path / "chips.beton"), batch_size=BATCH, num_workers=setting.workers,
        order=OrderOption.RANDOM, drop_last=True, seed=SEED, os_cache=True,
        pipelines={
            "image": [NDArrayDecoder(), CropFlipScale(work, parameters), ToTensor()],
            "tile": [IntDecoder(), ToTensor()],
        },
    )  # fmt: skip

    def epoch(number: int) -> Iterator[RowBatch]:
        del number  # its order continues from epoch to epoch
        for images, chips in loader:
            ids = chips.flatten().long().numpy()
            yield row_batch(images, labels[ids], ids, parameters[ids])

    return epoch


def _library(name: str, make: Callable[[Work, Setting], Epoch], format_name: str, module: str, **more: Any) -> Row:
    return Row(name=name, make=make, order="library", format=format_name, library=name, modules=(module,), **more)


PEERS = (
    *PLAIN[1:],
    PIL,
    Row(name="dataloader-rasterio", make=with_dataloader(_rasterio), library="rasterio", modules=("rasterio",)),
    Row(name="tensorstore", make=tensorstore, format="tensorstore",
        library="tensorstore", modules=("tensorstore",), note="uncompressed Zarr v3, one chunk per chip"),
    _library("litdata", litdata, "litdata", "litdata"),
    _library("mosaicml-streaming", streaming, "mds", "streaming"),
    _library("webdataset", webdataset, "webdataset", "webdataset", note="shuffles in a buffer of 1,000 chips"),
    _library("ffcv", ffcv, "ffcv", "ffcv", settings=THREADS,
         note="crop, flips, scaling: an operation written for this benchmark (ffcv has none for 16 bits), "
              "with the same augmentation each epoch"),
    *PIPELINES,
)  # fmt: skip
