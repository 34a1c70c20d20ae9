"""Loaders of libraries that run a function of the user: grain, torchdata's nodes, SPDL.

In: `Work`. Out: rows. All three read the memory-mapped .npy, the fastest plain format, with the data set and the order
of the DataLoader rows. Their workers make whole batches, so that a library's own cost is per batch and not per chip.
Leaves libraries with formats of their own to `peers`.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from bench.rows import Chips, Order, read_npy
from bench.work import PROCESSES, THREADS, Epoch, Row, RowBatch, Setting, Work

_EPOCHS = 1_000_000  # grain's workers start anew with each iterator, so one iterator has all epochs


class Batches:
    """Keys of chips, or the number of a batch counted over all epochs, to the arrays of a batch."""

    def __init__(self, work: Work) -> None:
        self._chips = Chips(work, read_npy, "raw")
        self.batch, self.per_epoch = work.batch, len(self._chips) // work.batch

    def keys(self, epoch: int) -> list[list[tuple[int, int]]]:
        """(epoch, position) of each chip of each batch of an epoch."""
        return [
            [(epoch, position) for position in range(index * self.batch, (index + 1) * self.batch)]
            for index in range(self.per_epoch)
        ]

    def load(self, keys: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
        """Images, labels and chips of a batch."""
        images, labels, chips = zip(*(self._chips[key] for key in keys), strict=True)
        return torch.stack(images), torch.stack(labels), np.array(chips)

    def numbered(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same for batch `number` of all epochs, as arrays: grain shares these with its processes, no tensors."""
        epoch, index = divmod(int(number), self.per_epoch)
        first = index * self.batch
        images, labels, chips = self.load([(epoch, position) for position in range(first, first + self.batch)])
        return images.numpy(), labels.numpy(), chips


def grain(work: Work, setting: Setting) -> Epoch:
    """A MapDataset, read by threads or processes. Its epochs follow each other whatever number is asked for."""
    from grain import MapDataset, MultiprocessingOptions, ReadOptions

    batches = Batches(work)
    in_process = not setting.processes
    options = ReadOptions(num_threads=setting.workers if in_process else 0, prefetch_buffer_size=4 if in_process else 0)
    dataset: Any = MapDataset.range(_EPOCHS * batches.per_epoch).map(batches.numbered).to_iter_dataset(options)
    if setting.processes:
        dataset = dataset.mp_prefetch(MultiprocessingOptions(num_workers=setting.workers, per_worker_buffer_size=2))
    iterator = iter(dataset)

    def epoch(number: int) -> Iterator[RowBatch]:
        del number
        for _ in range(batches.per_epoch):
            images, labels, chips = next(iterator)
            yield RowBatch(torch.from_numpy(images), torch.from_numpy(labels), np.asarray(chips))

    return epoch


def torchdata_nodes(work: Work, setting: Setting) -> Epoch:
    """Sampler, Batcher, ParallelMapper, Prefetcher, as its guide for users of DataLoader shows."""
    from torchdata import nodes

    batches = Batches(work)
    order = Order(batches.per_epoch * batches.batch)
    node: Any = nodes.Batcher(nodes.SamplerWrapper(order), work.batch, drop_last=True)
    node = nodes.ParallelMapper(
        node, batches.load, num_workers=setting.workers, method="process" if setting.processes else "thread",
        multiprocessing_context="fork" if setting.processes else None,
    )  # fmt: skip
    loader: Any = nodes.Loader(nodes.Prefetcher(node, prefetch_factor=2))

    def epoch(number: int) -> Iterator[RowBatch]:
        order.epoch = number
        for batch in loader:
            yield RowBatch(*batch)

    return epoch


def spdl(work: Work, setting: Setting) -> Epoch:
    """A pipeline of threads, built for each epoch."""
    from spdl.pipeline import PipelineBuilder

    batches = Batches(work)

    def epoch(number: int) -> Iterator[RowBatch]:
        pipeline: Any = (
            PipelineBuilder()
            .add_source(batches.keys(number))
            .pipe(batches.load, concurrency=setting.workers, output_order="input")
            .add_sink(2)
            .build(num_threads=setting.workers)
        )
        with pipeline.auto_stop():
            for batch in pipeline:
                yield RowBatch(*batch)

    return epoch


_NPY = "reads the .npy file of all chips"
PIPELINES = (
    Row(name="grain", make=grain, settings=(*THREADS, *PROCESSES), format="npy", library="grain",
        modules=("grain",), note=_NPY),
    Row(name="torchdata-nodes", make=torchdata_nodes, settings=(*THREADS, *PROCESSES), format="npy",
        library="torchdata", modules=("torchdata.nodes",), note=_NPY),
    Row(name="spdl", make=spdl, settings=THREADS, format="npy", library="spdl", modules=("spdl.pipeline",), note=_NPY),
)  # fmt: skip
