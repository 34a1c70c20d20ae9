"""The format of a store: names and shapes of its arrays, its attributes, and when it is complete.

In: a path or an address. Out: an open `Store`, checked. A store is a Zarr v3 group that plain zarr-python and xarray
read. Its arrays:

    tiles        (chip, band, y, x)  dtype and values of the TIFFs; sharded, see `shard`
    labels       (chip, class)       uint8, 0 or 1
    names        (chip)              as in the CSV
    csv_row      (chip)              row of the CSV: a split over all rows stays the same when chips are missing
    band_sum     (chip, band)        exact sums, for the mean and std of any split without reading a pixel
    band_sumsq   (chip, band)        sums of the squares; float32: of the squared deviations, see `band_statistics`
    valid_count  (chip, band)        only with nodata: pixels that are not nodata; sums leave the others out
    checksum     (chip)              xxh3-64 of the raw pixels, C order, little-endian
    source_size, source_mtime_ns (chip)  size and time of each TIFF, to notice that it has changed
    shard_digest (shard)             shows that a shard file is in its place, see `shard`
    split        (chip)              uint8: 0 train, 1 val, 2 test, as the labels file says; only with SPLIT_COLUMN
    transform    (chip, coefficient)  float64: where a chip lies, see `georeference`; only if a file says it
    crs          (chip)              such as EPSG:32633, "" if the chip's file does not say it; only with transform

The group's attributes hold the layout, the classes, and a SHA-256 of each array except `tiles`. Two digests cover
everything:

    fingerprint        everything that decides a result: names, labels, pixels (by checksum and sums), classes, bands,
                       chip size, rows of the CSV, nodata. Two stores of the same chips have the same one, whatever the
                       codec.
    attributes_sha256  every other attribute, including the layout and the SHA-256 of the arrays.

`open_store` computes both and reads every small array. If something is not what the conversion wrote, it raises one
line. A store with nodata is of version 3, every other of version 2. Version 1 has neither the arrays' SHA-256 nor
`shard_digest`: its fingerprint covers only names, labels, csv_row and checksum.

A conversion writes into `NAME.partial` and renames the store when it is complete, so an incomplete store never has the
final name. The attribute `complete` is a second protection. Leaves reading pixels to `shard` and `pipeline.chunks`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import MemoryStore

from preprocess.addresses import Address, Location, location
from preprocess.arrays import ReadFile, array_specs, write_array
from preprocess.arrays import create_chips as create_chips
from preprocess.band_statistics import band_statistics
from preprocess.console import UserError
from preprocess.files import partial_path as partial_path
from preprocess.files import shard_key as shard_key
from preprocess.files import shard_path as shard_path
from preprocess.files import write_atomic as write_atomic
from preprocess.header import FORMAT, StoreHeader, fingerprint_of, read_header, sha256_of_json, version_of
from preprocess.layout import Layout
from preprocess.packed_texts import PackedTexts


@dataclass(frozen=True, kw_only=True)
class Store:
    """A complete store, open. Labels and CSV rows are in memory, about 30 bytes per chip. Others are read when asked
    for and not kept, so memory hardly grows with the number of chips.

    path: a folder, or the address of a store in object storage.
    read: returns an array by name; the array is checked each time.
    source: what the conversion recorded about the source files (JSON), {} if nothing.
    has_split: whether the store keeps the split of its labels file.
    has_places: whether it keeps where its chips lie.
    """

    path: Path | str
    layout: Layout
    classes: tuple[str, ...]
    num_csv_rows: int
    fingerprint: str
    labels: np.ndarray
    csv_row: np.ndarray
    read: Callable[..., np.ndarray]
    version: int = 2
    source: dict[str, Any] = field(default_factory=dict)
    has_split: bool = False
    has_places: bool = False

    @property
    def num_chips(self) -> int:
        """Chips in the store."""
        return len(self.labels)

    @property
    def names(self) -> np.ndarray:
        """(chips,) str, as in the CSV."""
        return self.read("names")

    @property
    def name_texts(self) -> PackedTexts:
        """The names in a quarter of the memory."""
        return PackedTexts.collect(self.read("names", as_objects=True))

    @property
    def band_sum(self) -> np.ndarray:
        """(chips, bands) uint64, int64 or float64, see `layout.sum_dtypes`."""
        return self.read("band_sum")

    @property
    def band_sumsq(self) -> np.ndarray:
        """(chips, bands) uint64: sums of the squares; float64: of the squared deviations. See `band_statistics`."""
        return self.read("band_sumsq")

    @property
    def valid_count(self) -> np.ndarray:
        """(chips, bands) uint32, pixels that are not nodata: all of them in a store without nodata."""
        if self.layout.nodata is not None:
            return self.read("valid_count")
        pixels = np.uint32(self.layout.height * self.layout.width)
        return np.broadcast_to(pixels, (self.num_chips, len(self.layout.bands)))

    @property
    def checksum(self) -> np.ndarray:
        """(chips,) uint64, xxh3-64 of the raw pixels."""
        return self.read("checksum")

    @property
    def source_size(self) -> np.ndarray:
        """(chips,) int64, bytes of each TIFF."""
        return self.read("source_size")

    @property
    def source_mtime_ns(self) -> np.ndarray:
        """(chips,) int64, when each TIFF was last changed."""
        return self.read("source_mtime_ns")

    @property
    def shard_digest(self) -> np.ndarray | None:
        """(shards,) uint64, see `shard`; None in a store of version 1."""
        return self.read("shard_digest") if self.version >= 2 else None

    @property
    def split(self) -> np.ndarray | None:
        """(chips,) uint8: 0 train, 1 val, 2 test, as the labels file says; None if the store does not keep it."""
        return self.read("split") if self.has_split else None

    @property
    def transform(self) -> np.ndarray | None:
        """(chips, 6) float64: where each chip lies, see `georeference.Place`. NaN: its file does not say it. None: no
        file does."""
        return self.read("transform") if self.has_places else None

    @property
    def crs(self) -> np.ndarray | None:
        """(chips,) str: the CRS of `transform`, such as EPSG:32633. None without `transform`."""
        return self.read("crs") if self.has_places else None

    @property
    def is_remote(self) -> bool:
        """Whether the store lies in object storage."""
        return isinstance(self.path, str)

    @property
    def place(self) -> Location:
        """The folder or the address."""
        return location(self.path)

    @property
    def local_path(self) -> Path:
        """The folder. UserError: the store is in object storage."""
        if isinstance(self.path, str):
            raise UserError(f"{self.path}: expected a store on disk, found an address. Copy the store to disk first.")
        return self.path

    def band_statistics(self, chips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(mean, population std) float64 per band over all valid pixels of `chips`; see `band_statistics`."""
        valid = None if self.layout.nodata is None else self.valid_count
        return band_statistics(self.layout, self.band_sum, self.band_sumsq, chips, valid)

    def band_indices(self, bands: tuple[str, ...]) -> tuple[int, ...]:
        """Positions of `bands` in the store.

        Raises:
            UserError: the store does not have one of them; names it.
        """
        for band in bands:
            if band not in self.layout.bands:
                raise UserError(
                    f"{self.path}: expected the band {band!r}, but the store has {', '.join(self.layout.bands)}. "
                    "Choose other bands, or name the bands when you convert (BANDS=blue,green,red,nir)."
                )
        return tuple(self.layout.bands.index(band) for band in bands)


def encoded_bytes(path: Location, layout: Layout, num_chips: int) -> int:
    """Bytes of all shards.

    Raises:
        UserError: a shard is missing; names the first.
    """
    total, size_of = 0, _shard_sizes(path)
    for shard in range(layout.num_shards(num_chips)):
        size = size_of(shard)
        if size is None:
            file = path / shard_key(shard)
            raise UserError(f"{file}: the shard is missing. `make verify STORE={path}` lists all damage.")
        total += size
    return total


def _shard_sizes(path: Location) -> Callable[[int], int | None]:
    """A function that returns the bytes of a shard, or None if it is missing. A bucket is listed once."""
    if isinstance(path, Path):
        folder = path

        def size(shard: int) -> int | None:
            file = shard_path(folder, shard)
            return file.stat().st_size if file.is_file() else None

        return size
    from preprocess.remote import Objects

    sizes = {each.key: each.size for each in Objects(str(path)).list("tiles/c/")}
    return lambda shard: sizes.get(shard_key(shard))


def finish(
    root: Path, layout: Layout, classes: tuple[str, ...], num_csv_rows: int, arrays: dict[str, Any],
    source: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Write the small arrays and then the attributes with `complete`; read everything back.

    Args:
        root: the folder of `create_chips` and of the shards.
        layout, classes: of the store.
        num_csv_rows: rows of the CSV, with and without a chip.
        arrays: values by name, see `arrays.array_specs`.
        source: what to record about the source files, as JSON.
    """
    _write_small(zarr.open_group(root, mode="a", zarr_format=3), layout, classes, num_csv_rows, arrays, source)
    open_store(root)


def small_files(
    layout: Layout, classes: tuple[str, ...], num_csv_rows: int, arrays: dict[str, Any], source: dict[str, Any]
) -> dict[str, bytes]:
    """Every file of a store but its shards, by key; the arguments are those of `finish`."""
    files: dict[str, Any] = {}
    memory = MemoryStore(files)
    create_chips(memory, layout, len(arrays["names"]))
    _write_small(
        zarr.open_group(memory, mode="a", zarr_format=3), layout, classes, num_csv_rows, arrays, source
    )  # fmt: skip
    return {key: data.to_bytes() for key, data in files.items()}


def _write_small(
    group: zarr.Group, layout: Layout, classes: tuple[str, ...], num_csv_rows: int, arrays: dict[str, Any],
    source: dict[str, Any] | None,
) -> None:  # fmt: skip
    num_chips = len(arrays["names"])
    version = version_of(layout)
    specs = array_specs(layout, num_chips, len(classes), version, arrays)
    records = {name: write_array(group, name, spec, np.asarray(arrays[name])) for name, spec in specs.items()}
    attrs: dict[str, Any] = {
        "format": FORMAT,
        "version": version,
        "layout": layout.as_json(),
        "classes": list(classes),
        "num_tiles": num_chips,
        "num_csv_rows": num_csv_rows,
        "source": source or {},
        "arrays": records,
        "complete": True,
    }
    attrs["fingerprint"] = fingerprint_of(layout, classes, num_csv_rows, records)
    group.attrs.put({**attrs, "attributes_sha256": sha256_of_json(attrs)})


def open_store(path: str | Path | Address, read_file: ReadFile | None = None) -> Store:
    """Open a complete store. Every small array is read and compared with what the conversion recorded. `read_file`
    reads its files; by default they are at `path`.

    Raises:
        UserError: there is no store, its conversion is not finished (the line says how to continue), it is not a store,
            or a file is not what the conversion wrote; names the file.
    """
    header = read_header(path, read_file)
    for line in header.findings():
        raise UserError(line)
    return store_of(header)


def store_of(header: StoreHeader) -> Store:
    """The store of a header. Of its arrays only labels and CSV rows are read, and the others are not checked: for
    worker processes, after `open_store` in the process that gives them their tasks."""
    return Store(
        path=header.path, layout=header.layout, classes=header.classes, num_csv_rows=header.num_csv_rows,
        fingerprint=header.fingerprint, labels=header.read("labels"), csv_row=header.read("csv_row"), read=header.read,
        version=header.version, source=header.source, has_split="split" in header.specs,
        has_places="transform" in header.specs,
    )  # fmt: skip
