"""One pass over a store's pixels -> features per chip, from which an audit computes everything else.

In: a store and an engine. Out: `Features`: about 80 bytes per chip in memory. Thumbnails and edges, about 12 KB per
chip (256 x 256 x 4), are in files without a name beside the store. Runs of shards are tasks; their results are put at
their place, so neither the engine nor the order of the tasks changes a bit. Leaves reading a run to `feature_runs`,
duplicates to `duplicates` and odd pixels to `pixel_checks`.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from analysis.chip_features import SIDES, THUMBNAIL_SIDE, ChipFeatures
from analysis.feature_runs import feature_runs, read_run
from analysis.line_matches import spilled
from preprocess.addresses import Location
from preprocess.console import Progress
from preprocess.engine import Engine, Pool
from preprocess.layout import Layout
from preprocess.zarr_store import Store


@dataclass(frozen=True, kw_only=True)
class Features(ChipFeatures):
    """Arrays with one row per chip.

    low, high (N, bands): smallest and largest valid value; both the smallest value of the dtype if a band has none.
    at_high (N, bands): valid pixels with the largest value. empty (N,): valid pixels that are 0 in every band. In the
    others nodata counts as the mean. hash (N,) uint64: perceptual hash of the mean over bands. thumbnail (N, bands, 16,
    16) float32: area means. edges (N, 4, channels, side) float32: the outermost pixel lines (left, right, top, bottom)
    of the mean over standardised bands, and of the last band minus the mean of the others; `side` is the longer side, a
    shorter line is padded with NaN. thumbnail and edges are on disk, in `folder`.
    """

    folder: Path


def read_features(store: Store, engine: Engine | None = None, place: Location | None = None) -> Features:
    """Read every chip once.

    Args:
        store: open.
        engine: runs the tasks; None: this process.
        place: of the store, as workers find it; None: as in `store`.

    Raises:
        DamagedChunkError: a chip cannot be read; names it.
    """
    engine = engine or Pool(1)
    features = _empty(store.num_chips, store.layout, _folder(store))
    place = store.place if place is None else place
    runs = feature_runs(store, place, workers=engine.workers)
    megabytes = store.layout.chip_bytes / 1e6
    with Progress(
        "audit", total=store.num_chips, unit="chips", every_s=engine.log_every_s, megabytes=megabytes
    ) as progress:
        for run, values in engine.run(read_run, runs, needs=place / "zarr.json"):
            first = run.first * store.layout.shard_tiles
            chips = slice(first, first + len(values.hash))
            for field in fields(values):
                getattr(features, field.name)[chips] = getattr(values, field.name)
            progress.update(len(values.hash), engine.note.rstrip(", "))
    return features


def _folder(store: Store) -> Path:
    return Path.cwd() if store.is_remote else store.local_path.absolute().parent


def _empty(count: int, layout: Layout, folder: Path) -> Features:
    bands = (count, len(layout.bands))
    sides = [min(side, THUMBNAIL_SIDE) for side in (layout.height, layout.width)]
    channels = 1 if len(layout.bands) == 1 else 2
    return Features(
        low=np.empty(bands, layout.dtype), high=np.empty(bands, layout.dtype), at_high=np.empty(bands, np.int64),
        empty=np.empty(count, np.int64), hash=np.empty(count, np.uint64), thumbnail=spilled((*bands, *sides), folder),
        edges=spilled((count, len(SIDES), channels, max(layout.height, layout.width)), folder), folder=folder,
    )  # fmt: skip
