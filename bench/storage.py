"""Modes `io` (stored bytes to decoded chips) and `convert` (TIFFs to a store), each compared with zarr-python.

In: the bench chips. Out: a record's rows. Leaves other kinds of files to `conversions`.
"""

import os
import shutil
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import zarr

from bench import conversions
from bench.work import Work
from pipeline.chunks import ChunkReader
from preprocess import tiff, zarr_store
from preprocess.commands import ConversionSettings
from preprocess.convert import convert
from preprocess.zarr_store import Store, open_store

_ZARR_CHIPS = 128  # zarr-python reads a few hundred a second: more would only take longer


def run(mode: str, work: Work, rounds: int) -> dict[str, Any]:
    """Rows with one rate per round, compared with zarr-python and, for convert, with what libraries need."""
    one_round = io_round if mode == "io" else convert_round
    one_round(work, 0)  # warm-up
    samples = [one_round(work, number) for number in range(1, rounds + 1)]
    rows: list[dict[str, Any]] = []
    for name in samples[0]:
        rates = [sample[name] for sample in samples]
        rows.append({"name": name, "chips_per_s": statistics.median(rates), "samples": rates})
    median = {row["name"]: row["chips_per_s"] for row in rows}
    for row in rows:
        codec = str(row["name"]).rsplit("-", 1)[-1]
        peer = f"zarr-python-{codec}" if mode == "io" else "zarr-python"
        row["ratio_to_zarr_python"] = row["chips_per_s"] / median[peer]
        if mode == "convert":
            row["ratio_to_libraries"] = row["chips_per_s"] / median["libraries"]
    if mode == "convert":
        rows += conversions.rows(work.folder / "convert", rounds)
    return {"rows": rows}


def _rate(count: int, work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)


def io_round(work: Work, number: int) -> dict[str, float]:
    """Chips/s in random order, all bands, into warm buffers, on all cores."""
    rates = {}
    for codec in work.stores:
        store = work.store(codec)
        order = np.random.default_rng(number).permutation(store.num_chips)
        rates[f"canopy-{codec}"] = _ours(store, order)
        rates[f"zarr-python-{codec}"] = _zarr_python(store, order[:_ZARR_CHIPS])
    return rates


def _ours(store: Store, order: np.ndarray) -> float:
    bands = store.layout.bands
    reader, cores = ChunkReader(store, bands), len(os.sched_getaffinity(0))
    shape = (16, len(bands), store.layout.height, store.layout.width)
    buffers = [np.ones(shape, store.layout.dtype) for _ in range(cores)]

    def read(core: int) -> None:
        chips = order[core::cores]
        for start in range(0, len(chips), 16):
            block = chips[start : start + 16]
            reader.decode(block, buffers[core][: len(block)])

    with ThreadPoolExecutor(cores) as pool:
        return _rate(len(order), lambda: list(pool.map(read, range(cores))))


def _zarr_python(store: Store, chips: np.ndarray) -> float:
    """The faster of reading chip by chip and many chips at once."""
    array: Any = zarr.open_group(store.path, mode="r")["tiles"]
    few = np.sort(chips[: len(chips) // 4])
    one_by_one = _rate(len(chips), lambda: [np.asarray(array[chip]) for chip in chips.tolist()])
    return max(one_by_one, _rate(len(few), lambda: array.oindex[few]))


def convert_round(work: Work, number: int) -> dict[str, float]:
    """Chips/s of canopy's conversion, of zarr-python's assignment, and of `conversions.with_libraries` on one core,
    times the number of cores."""
    del number
    assert work.tif is not None
    count, folder = work.store().num_chips, work.folder
    cores = len(os.sched_getaffinity(0))
    scratch = folder / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    request = ConversionSettings(
        data=work.tif, labels=folder / "labels.csv", store=scratch / "a.zarr", bands=work.bands, jobs=cores
    )
    rates = {"canopy": _rate(count, lambda: convert(request))}
    paths = [work.tif / f"chip_{index}.tif" for index in range(count)]
    layout = open_store(scratch / "a.zarr").layout

    rates["libraries"] = cores * _rate(128, lambda: conversions.with_libraries(paths[:128], layout))
    zarr_store.create_chips(scratch / "b.zarr", layout, count)
    chips: Any = zarr.open_group(scratch / "b.zarr")["tiles"]

    def assign() -> None:
        for first in range(0, 2 * layout.shard_tiles, layout.shard_tiles):
            chips[first : first + layout.shard_tiles] = np.stack(
                [tiff.read(path) for path in paths[first : first + layout.shard_tiles]]
            )

    rates["zarr-python"] = _rate(2 * layout.shard_tiles, assign)
    shutil.rmtree(scratch)
    return rates
