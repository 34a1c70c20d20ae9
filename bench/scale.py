"""Mode `scale`: chips/s, memory and time to the first batch at 1,000, 10,000 and 100,000 chips of 64 x 64 x 4 uint16.

In: a folder. Out: a record's rows. Whole epochs are timed, start and end included: an epoch of 1,000 chips has 15
batches. Memory is the peak of `process_usage.memory_mib` (PSS without mapped files) over the same number of batches for
every size.
"""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from bench.process_usage import PeakMemory
from bench.remote_generator import Remote
from bench.small_stores import chips_store
from bench.work import BATCH, FLIPS, SEED
from pipeline.inputs import raw_inputs
from pipeline.loader import ChipLoader, train_loader
from preprocess.console import say
from preprocess.zarr_store import open_store

COUNTS = (1_000, 10_000, 100_000)
CODECS = ("lz4", "none")
CHIPS_PER_PASS = 100_000
MEMORY_BATCHES = 1_560  # an epoch of the largest


def run(folder: Path, rounds: int) -> dict[str, Any]:
    """The record's rows; `ratio` and `peak_ratio` compare with the largest store of the same codec."""
    remotes: dict[str, Remote] = {}
    rows: dict[str, dict[str, Any]] = {}
    try:
        for codec, count in itertools.product(CODECS, COUNTS):
            name = f"canopy-{codec}-{count}"
            remotes[name] = Remote("bench.scale:serve", chips_store(folder, count, codec))
            rows[name] = {"name": name, "chips": count, "samples": [], **remotes[name].first}
            say(f"{name}: ready")
        for number in range(rounds):
            for name, remote in remotes.items():
                rows[name]["samples"].append(remote.ask(number))
    finally:
        for remote in remotes.values():
            remote.close()
    for row in rows.values():
        row["chips_per_s"] = median(row["samples"])
    for name, row in rows.items():
        largest = rows[f"{name.rsplit('-', 1)[0]}-{COUNTS[-1]}"]
        row["ratio"] = row["chips_per_s"] / largest["chips_per_s"]
        row["peak_ratio"] = row["peak_mib"] / largest["peak_mib"]
    return {"rows": list(rows.values())}


def serve(path: Path) -> Iterator[Any]:
    """Yield memory and time to the first batch, then chips/s for every number received."""
    started = time.perf_counter()
    store = open_store(path)
    chips = np.arange(store.num_chips)
    loader = train_loader(
        store, chips, raw_inputs(store, store.layout.bands, chips), batch_size=BATCH, seed=SEED, flips=FLIPS
    )
    batches = loader.epoch(0)
    next(batches)
    first_batch_s = time.perf_counter() - started
    for _ in batches:
        pass
    with PeakMemory() as peak:
        _take(loader, MEMORY_BATCHES)
    message: Any = yield {"first_batch_s": first_batch_s, "peak_mib": peak.mib}
    while True:
        started = time.perf_counter()
        count = _take(loader, CHIPS_PER_PASS // BATCH)
        message = yield count / (time.perf_counter() - started)
        del message


def _take(loader: ChipLoader, batches: int) -> int:
    """Run whole epochs until `batches` batches were taken; returns their number of chips."""
    taken = 0
    for epoch in itertools.count(1):
        taken += sum(1 for _ in loader.epoch(epoch))
        if taken >= batches:
            return taken * BATCH
    raise AssertionError("never ends")
