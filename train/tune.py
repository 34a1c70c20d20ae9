"""`make tune`: find the fastest loader settings for a store on this machine.

In: a store. Out: tune.json in the current folder, one entry per machine and kind of store: WORKERS and DECODE. `make
train` uses them where these are not set, and prints that. Other codecs are measured on a sample of the store; the store
itself is not changed. The settings change only the rate, never the images. A store that is larger than the memory is
also measured with chips from the disk, and that rate decides.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
import torch

from pipeline.chunks import ChunkReader
from pipeline.host_memory import host_bytes
from pipeline.inputs import raw_inputs
from pipeline.loader import ChipLoader, train_loader
from preprocess import zarr_store
from preprocess.arrays import array_specs
from preprocess.codecs import CODECS
from preprocess.console import UserError, one_line, say
from preprocess.files import shard_path, write_atomic
from preprocess.header import version_of
from preprocess.shard_writer import join_records, write_shard
from preprocess.zarr_store import Store, encoded_bytes, open_store
from train.config import make_config
from train.device import choose_device

PATH = Path("tune.json")
SAMPLE = 512  # chips to measure with
PASS_S, _ROUNDS = 1.5, 3
_GIB = 1024**3


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """Reading threads; decode on "host" or "device"; chips/s of the loader alone when measured."""

    workers: int
    decode: str
    chips_per_s: float

    def __post_init__(self) -> None:
        if type(self.workers) is not int or not 1 <= self.workers <= 1024 or self.decode not in ("host", "device"):
            raise ValueError(f"workers={self.workers!r}, decode={self.decode!r}")


def tune(path: str, *, gpu: str | None, batch: int) -> None:
    """Measure, print, keep."""
    store = open_store(path)
    if store.num_chips < batch:
        raise UserError(f"BATCH={batch}: the store has only {store.num_chips} chips. Choose a smaller BATCH.")
    given = {} if gpu is None else {"gpu": gpu, "gpu_given": True}
    device = str(choose_device(make_config("default", task=1, store=path, **given)).device)
    with tempfile.TemporaryDirectory(prefix="canopy-tune-") as folder:
        stores = {store.layout.codec: store}
        # A sample on disk says nothing about a store in object storage.
        for codec in set() if store.is_remote else set(CODECS) - set(stores):
            stores[codec] = recode(store, codec, Path(folder) / "sample.zarr")
        rates = measure(stores, device, batch)
    cold = {}
    if (stored := _disk_bytes(store)) > (memory := host_bytes()):
        say(
            f"{path}: {stored / _GIB:.1f} GiB, more than the {memory / _GIB:.1f} GiB of memory. The rate for chips of "
            "the whole store counts, most of which the disk must read."
        )
        cold = measure({store.layout.codec: store}, device, batch, whole=True)
    for (codec, decode, workers), rate in sorted(cold.items(), key=lambda item: -item[1]):
        say(f"CODEC={codec} DECODE={decode} WORKERS={workers}: {rate:,.0f} chips/s from the disk")
    for (codec, decode, workers), rate in sorted(rates.items(), key=lambda item: -item[1]):
        say(f"CODEC={codec} DECODE={decode} WORKERS={workers}: {rate:,.0f} chips/s")
    usable = cold or {key: rate for key, rate in rates.items() if key[0] == store.layout.codec}
    best, overall = max(usable, key=lambda key: usable[key]), max(rates, key=lambda key: rates[key])
    keep(store, device, Tuned(workers=best[2], decode=best[1], chips_per_s=usable[best]))
    say(f"{PATH}: WORKERS={best[2]} DECODE={best[1]} for stores like {path} here; `make train` uses them")
    if not cold and rates[overall] > 1.1 * usable[best]:
        say(f"a store made with CODEC={overall[0]} would load {rates[overall] / usable[best]:.1f} times as fast")


def _disk_bytes(store: Store) -> int:
    """Bytes of the chips on a local disk; 0 for object storage, which is read from the network in every case."""
    return 0 if store.is_remote else encoded_bytes(store.local_path, store.layout, store.num_chips)


def measure(
    stores: dict[str, Store], device: str, batch: int, *, whole: bool = False
) -> dict[tuple[str, str, int], float]:  # fmt: skip
    """(codec, decode, threads) -> median chips/s. Candidates take turns, so that a slow minute affects all of them.

    whole: each pass reads other chips of the whole store, as an epoch of training does, and not the same few.
    """
    threads = sorted({1, *(2**power for power in range(1, 7) if 2**power < _cores()), _cores()})
    loaders = {}
    for codec, store in stores.items():
        chips = np.arange(store.num_chips if whole else min(store.num_chips, max(SAMPLE, batch)))
        inputs = raw_inputs(store, store.layout.bands, chips)
        places = ("device", "host") if device != "cpu" and CODECS[codec].inflates else ("host",)
        for decode in places:
            for workers in threads:
                loaders[codec, decode, workers] = train_loader(
                    store, chips, inputs, batch_size=batch, device=device, workers=workers, decode=decode
                )
    samples: dict[tuple[str, str, int], list[float]] = {key: [] for key in loaders}
    epochs = count()
    for number in range(_ROUNDS + 1):
        for key, loader in loaders.items():
            seconds = 0.3 if number == 0 else PASS_S
            rate = _rate_of_one(loader, device, seconds, next(epochs)) if whole else _rate(loader, device, seconds)
            if number:  # the first round is a warm-up
                samples[key].append(rate)
    for loader in loaders.values():
        loader.close()
    return {key: float(np.median(rates)) for key, rates in samples.items()}


def _rate(loader: ChipLoader, device: str, seconds: float) -> float:
    taken, started = 0, time.perf_counter()
    for epoch in count():
        for batch in loader.epoch(epoch):
            taken += len(batch.chips)
        if device != "cpu":
            torch.cuda.synchronize()
        if time.perf_counter() - started > seconds:
            return taken / (time.perf_counter() - started)
    raise AssertionError("never ends")


def _rate_of_one(loader: ChipLoader, device: str, seconds: float, epoch: int) -> float:
    """The rate of the first `seconds` of an epoch whose order no other pass has."""
    taken, started = 0, time.perf_counter()
    for batch in loader.epoch(epoch):
        taken += len(batch.chips)
        if time.perf_counter() - started > seconds:
            break
    if device != "cpu":
        torch.cuda.synchronize()
    return taken / (time.perf_counter() - started)


def recode(store: Store, codec: str, path: Path) -> Store:
    """Write the first chips of a store with another codec."""
    num_chips = min(store.num_chips, SAMPLE)
    layout = replace(store.layout, codec=codec)
    zarr_store.create_chips(path, layout, num_chips)
    reader = ChunkReader(store, layout.bands)
    chip = np.empty((1, len(layout.bands), layout.height, layout.width), layout.dtype)

    def chips(shard: int) -> Iterator[np.ndarray]:
        first = shard * layout.shard_tiles
        for index in range(first, min(first + layout.shard_tiles, num_chips)):
            reader.decode(np.array([index]), chip)
            yield chip[0]

    records = [
        write_shard(shard_path(path, shard), layout, chips(shard)) for shard in range(layout.num_shards(num_chips))
    ]
    arrays = join_records(records)
    specs = array_specs(layout, num_chips, len(store.classes), version_of(layout))
    arrays |= {name: store.read(name)[:num_chips] for name in specs if name not in arrays}
    zarr_store.finish(path, layout, store.classes, store.num_csv_rows, arrays)
    return open_store(path)


def keep(store: Store, device: str, tuned: Tuned) -> None:
    """Add an entry to tune.json, or replace the one for this machine and kind of store."""
    found = _read() | {_key(store, device): tuned}
    text = json.dumps({key: vars(values) for key, values in found.items()}, indent=1)
    write_atomic(PATH, f"{text}\n".encode())


def lookup(store: Store, device: str) -> Tuned | None:
    """The entry for such a store on this machine; None if `make tune` has not run for it."""
    return _read().get(_key(store, device))


def _read() -> dict[str, Tuned]:
    try:
        return {key: Tuned(**values) for key, values in json.loads(PATH.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{PATH}: expected the JSON of `make tune`, found something else ({one_line(str(error))[:160]}). Remove it."
        ) from error


def _key(store: Store, device: str) -> str:
    """Machine and kind of store, on which the best settings depend."""
    layout = store.layout
    kind = f"{layout.dtype} {len(layout.bands)}x{layout.height}x{layout.width} {layout.codec}"
    name = torch.cuda.get_device_name(device) if device != "cpu" else "no GPU"
    return f"{os.uname().nodename}, {_cores()} cores, {name}: {kind}{', remote' if store.is_remote else ''}"


def _cores() -> int:
    return len(os.sched_getaffinity(0))
