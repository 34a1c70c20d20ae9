"""A run of shards -> the features of its chips. This is what a worker does for `make audit`.

In: a `FeatureRun`, about 200 bytes. Out: a `ChipFeatures` with a row for each chip of the run. A worker opens the store
once, and reads only the indexes of the run's shards; memory holds one block of chips and the run's features. Leaves the
engine, and putting results at their place, to `features`. Loads neither torch nor DALI.
"""

import functools
import json
from dataclasses import dataclass, fields, replace

import numpy as np
import xxhash

from analysis.chip_features import SIDES, THUMBNAIL_SIDE, ChipFeatures, features_of
from pipeline.chunks import ChunkReader
from preprocess.addresses import Location, location
from preprocess.console import UserError
from preprocess.header import read_header
from preprocess.layout import Layout
from preprocess.zarr_store import Store, store_of

# Of decoded chips; their standardised copies take three times as much. A pass over 1,536 chips (256 x 256 x 4 uint16)
# took 2.9 CPU-s in blocks of 32 MiB, 2.0 with 8, 1.6 with 2 and 1.6 with 1.
BLOCK_BYTES = 2 * 1024 * 1024
_BYTES_PER_S = 400e6  # a core reads this much in a second, about
_RESULT_BYTES = 16 * 1024 * 1024  # a run's features at most, or those of one shard: the results of all workers wait
_TASKS_PER_WORKER = 8
_POOL_BYTES = 8 * _BYTES_PER_S  # worker processes import for 3 CPU-seconds


@dataclass(frozen=True, kw_only=True)
class FeatureRun:
    """A task: the shards `first` to `last` of a store. `digest`: of what the store is. mean, std: of each band."""

    store: str
    digest: str
    first: int
    last: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def parts(self) -> list["FeatureRun"]:
        """A task per shard: if a task fails, its other shards do not fail with it."""
        return [replace(self, first=shard, last=shard) for shard in range(self.first, self.last + 1)]

    def __str__(self) -> str:
        shards = f"shard {self.first}" if self.first == self.last else f"shards {self.first} to {self.last}"
        return f"{self.store}: {shards}"


def feature_runs(store: Store, place: Location, *, workers: int) -> list[FeatureRun]:
    """Tasks for all shards: runs worth about a second, and enough of them for all workers. `place`: the store's, as
    workers find it."""
    layout, num_shards = store.layout, store.layout.num_shards(store.num_chips)
    longest = min(
        int(_BYTES_PER_S / (layout.shard_tiles * layout.chip_bytes)),
        _RESULT_BYTES // (layout.shard_tiles * _feature_bytes(layout)),
        num_shards // (_TASKS_PER_WORKER * workers),
    )
    mean, std = store.band_statistics(np.arange(store.num_chips))
    whole = FeatureRun(
        store=str(place), digest=_digest(store), first=0, last=num_shards - 1, mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
    )  # fmt: skip
    step = max(1, longest)
    return [replace(whole, first=first, last=min(first + step, num_shards) - 1) for first in range(0, num_shards, step)]


def useful_jobs(store: Store, jobs: int) -> int:
    """At most `jobs` processes; one if starting more would take longer than it saves."""
    return jobs if store.num_chips * store.layout.chip_bytes > _POOL_BYTES else 1


def read_run(run: FeatureRun) -> tuple[FeatureRun, ChipFeatures]:
    """Read every chip of a run once.

    Raises:
        DamagedChunkError: a chip cannot be read; names it.
        UserError: the store has changed.
    """
    store = _opened(run.store, run.digest)
    layout, shards = store.layout, range(run.first, run.last + 1)
    reader = ChunkReader(store, layout.bands, shards)
    chips = np.arange(run.first * layout.shard_tiles, min(shards.stop * layout.shard_tiles, store.num_chips))
    step = max(1, BLOCK_BYTES // layout.chip_bytes)
    values = np.empty((min(step, len(chips)), len(layout.bands), layout.height, layout.width), layout.dtype)
    blocks = []
    for first in range(0, len(chips), step):
        block = chips[first : first + step]
        reader.decode(block, values[: len(block)])
        blocks.append(features_of(values[: len(block)], layout, np.array(run.mean), np.array(run.std)))
    return run, _joined(blocks)


def _joined(blocks: list[ChipFeatures]) -> ChipFeatures:
    names = [field.name for field in fields(ChipFeatures)]
    return ChipFeatures(**{name: np.concatenate([getattr(block, name) for block in blocks]) for name in names})


@functools.lru_cache(maxsize=1)
def _opened(path: str, digest: str) -> Store:
    """The store, opened once per process. The process that makes the tasks has checked its small arrays.

    Raises:
        UserError: it is another store than the one that the task is about.
    """
    store = store_of(read_header(location(path)))
    if _digest(store) != digest:
        raise UserError(f"{path}: the store has changed since the command started. Run the same command again.")
    return store


def _digest(store: Store) -> str:
    """Of everything that decides how a store is read, and what is read."""
    return xxhash.xxh3_64_hexdigest(json.dumps([store.fingerprint, store.layout.as_json()], sort_keys=True).encode())


def _feature_bytes(layout: Layout) -> int:
    """Bytes of a chip's thumbnail and edges."""
    thumbnail = min(layout.height, THUMBNAIL_SIDE) * min(layout.width, THUMBNAIL_SIDE) * len(layout.bands)
    return 4 * (thumbnail + len(SIDES) * min(2, len(layout.bands)) * max(layout.height, layout.width))
