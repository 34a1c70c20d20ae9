"""Print what a store contains: sizes, bands with their statistics, classes with their counts, sizes of the splits.

In: a store. Out: lines on the terminal. Reads the small arrays and the index of each shard, but no pixels. Leaves
checking them to `verify`.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from preprocess import shard, zarr_store
from preprocess.addresses import Location
from preprocess.console import UserError, one_line, say
from preprocess.georeference import places_line
from preprocess.labels import settings_of
from preprocess.layout import MIB, Layout
from preprocess.nodata import nodata_lines
from preprocess.split_rules import BLOCK_KM, split_counts
from preprocess.splits import SPLIT_NAMES, Split, make_split
from preprocess.zarr_store import Store


def info(path: Location, split_rule: str, block_km: float = BLOCK_KM) -> None:
    """Print what the store at `path` contains, with the splits of `split_rule`; see `make_split`."""
    store = zarr_store.open_store(path)
    encoded_bytes = zarr_store.encoded_bytes(path, store.layout, store.num_chips)
    _check_indices(path, store)
    _say_store(path, store, encoded_bytes)
    try:
        split = make_split(split_rule, store, block_km=block_km)
        if split.note:
            say(f"split        {split.note}")
    except UserError as error:
        say(f"split        none: {error}")
        split = None
    say("")
    _say_bands(store)
    say("")
    _say_classes(store, split)


def _check_indices(path: Location, store: Store) -> None:
    layout, digests = store.layout, store.shard_digest
    for number, (data, end) in enumerate(_tails(path, layout, layout.num_shards(store.num_chips))):
        count = min(layout.shard_tiles, store.num_chips - number * layout.shard_tiles)
        digest = None if digests is None else int(digests[number])
        shard.parse_index(data, end, str(path / zarr_store.shard_key(number)), layout, count, digest)


def _tails(path: Location, layout: Layout, count: int) -> Iterator[tuple[bytes, int]]:
    """The end of each shard, and its size."""
    if isinstance(path, Path):
        for number in range(count):
            yield shard.read_tail(zarr_store.shard_path(path, number), layout)
        return
    from preprocess.remote import Objects

    keys = map(zarr_store.shard_key, range(count))
    yield from Objects(str(path)).read_tails(keys, shard.tail_bytes(layout))


def _say_store(path: Location, store: Store, encoded_bytes: int) -> None:
    layout = store.layout
    raw = layout.chip_bytes * store.num_chips
    missing = store.num_csv_rows - store.num_chips
    say(f"store        {path}")
    say(f"chips        {store.num_chips}" + (f" ({missing} more rows in the CSV have no chip)" if missing else ""))
    say(f"chip         {len(layout.bands)} bands x {layout.height} x {layout.width} {layout.dtype}")
    num_shards = layout.num_shards(store.num_chips)
    say(f"codec        {layout.codec}; chunks of {layout.chunk_rows} rows, {num_shards} shards")
    ratio = f"ratio {raw / encoded_bytes:.3f}"
    where = "on disk" if isinstance(path, Path) else "stored"
    say(f"size         {encoded_bytes / MIB:.1f} MiB {where}, {raw / MIB:.1f} MiB raw, {ratio}")
    if layout.nodata is not None:
        first, *others = nodata_lines(layout.nodata, store.valid_count, layout.height * layout.width, store.name_texts)
        say(f"nodata       {first}; left out of mean and std")
        for line in others:
            say(f"             {line}")
    elif "nodata" in store.source:
        say(f"nodata       {store.source['nodata']} (marked by the files; counts as a value in mean and std)")
    if "files" in store.source:
        say(f"files        {store.source['files']}")
    if "fit" in store.source:
        say(f"fit          {store.source['fit']} to {store.source['size']}")
    if "window" in store.source:
        edges = "; those at the edges are padded" if "edges" in store.source else ""
        say(f"windows      {store.source['window']} of large rasters, one every {store.source['stride']} pixels{edges}")
    say(f"fingerprint  {store.fingerprint}")
    if store.split is not None:
        say(f"split column {split_counts(store.split)} (SPLIT=column)")
    if store.transform is not None and store.crs is not None:
        say(f"coordinates  {places_line(store.transform, store.crs)}")
    if settings := " ".join(f"{name}={value!r}" for name, value in settings_of(store).variables().items()):
        say(f"labels       read with {settings}")


def _say_bands(store: Store) -> None:
    mean, std = store.band_statistics(np.arange(store.num_chips))
    missing = 1 - store.valid_count.mean(axis=0) / (store.layout.height * store.layout.width)
    counted = store.layout.nodata is not None
    say(f"{'band':<20}{'mean':>12}{'std':>12}" + (f"{'nodata':>12}" if counted else ""))
    form = ".5g" if store.layout.dtype == "float32" else ".3f"  # reflectances are far below 1
    for index, band in enumerate(store.layout.bands):
        share = f"{100 * missing[index]:>10.2f} %" if counted else ""
        say(f"{one_line(band):<20}{mean[index]:>12{form}}{std[index]:>12{form}}{share}")


def _say_classes(store: Store, split: Split | None) -> None:
    splits = {name: split.indices(name) for name in SPLIT_NAMES} if split is not None else {}
    splits = {name: chips for name, chips in splits.items() if len(chips)}
    width = max(20, *(len(one_line(name)) for name in store.classes))
    say(f"{'class':<{width}}{'all':>10}" + "".join(f"{name:>10}" for name in splits))
    for index, name in enumerate(store.classes):
        counts = [store.labels[:, index].sum(), *(store.labels[chips, index].sum() for chips in splits.values())]
        say(f"{one_line(name):<{width}}" + "".join(f"{int(count):>10}" for count in counts))
    sizes = "".join(f"{len(chips):>10}" for chips in [store.labels, *splits.values()])
    say(f"{'chips':<{width}}{sizes}" + (f"   (split {split.rule})" if split is not None else ""))
