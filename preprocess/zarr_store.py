"""The store's contract: array names, shapes, codecs, attributes, and what makes a store whole.

A Zarr v3 group that plain zarr-python and xarray read:

    chips        (chip, band, y, x)  the TIFFs' own dtype and values; sharded, see `shard`
    labels       (chip, class)       uint8, 0 or 1
    names        (chip)              as in the CSV
    csv_row      (chip)              row in the CSV, so that a split over all rows survives missing chips
    band_sum     (chip, band)        exact sums: mean and std of any split, without reading a pixel
    band_sumsq   (chip, band)        the same of the squares; float32: of the squared deviations, see `sums`
    checksum     (chip)              xxh3-64 of the raw pixels, C order, little-endian
    source_size, source_mtime_ns (chip)  of each TIFF, to notice that it changed
    shard_digest (shard)             binds each shard file to its place, see `shard`

The group's attributes hold the layout, the classes, and a SHA-256 of each array but `chips`. Two digests cover all:

    fingerprint        what decides a result: names, labels, pixels (by checksum and sums), classes, bands, chip size,
                       rows of the CSV. Two stores of the same chips have the same one, whatever their codec.
    attributes_sha256  every other attribute, the layout and the arrays' SHA-256 among them.

`open_store` computes both and reads every small array, so what is not what the conversion wrote is one line. Version 1
has neither the arrays' digests nor `shard_digest`: its fingerprint covers names, labels, csv_row and checksum only.

A store is written in `NAME.partial` and renamed when it is whole, so nothing half-written ever stands
under the final name; the attribute `complete` is the second lock. Leaves reading pixels to `shard` and
`pipeline.chunks`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from preprocess.arrays import array_specs, write_array
from preprocess.arrays import create_chips as create_chips
from preprocess.band_statistics import band_statistics
from preprocess.console import UserError
from preprocess.files import partial_path as partial_path
from preprocess.files import shard_key as shard_key
from preprocess.files import shard_path as shard_path
from preprocess.files import write_atomic as write_atomic
from preprocess.header import FORMAT, VERSION, fingerprint_of, read_header, sha256_of_json
from preprocess.layout import Layout


@dataclass(frozen=True, kw_only=True)
class Store:
    """A whole store, opened. Labels and CSV rows are in memory, some 30 bytes a chip; every other array is read when
    it is asked for and not kept, so that memory hardly grows with the number of chips.

    `path` is a folder, or the address of a store in object storage. `read` gives an array by name, checked each time.
    `source` holds what the conversion noted about the files (JSON), {} if nothing.
    """

    path: Path | str
    layout: Layout
    classes: tuple[str, ...]
    num_csv_rows: int
    fingerprint: str
    labels: np.ndarray
    csv_row: np.ndarray
    read: Callable[[str], np.ndarray]
    version: int = VERSION
    source: dict[str, Any] = field(default_factory=dict)

    @property
    def num_chips(self) -> int:
        """Chips in the store."""
        return len(self.labels)

    @property
    def names(self) -> np.ndarray:
        """(chip) str, as in the CSV."""
        return self.read("names")

    @property
    def band_sum(self) -> np.ndarray:
        """(chip, band) uint64, int64 or float64: `layout.sum_dtypes`."""
        return self.read("band_sum")

    @property
    def band_sumsq(self) -> np.ndarray:
        """(chip, band) uint64 or float64: of the squares, or of the squared deviations; see `sums`."""
        return self.read("band_sumsq")

    @property
    def checksum(self) -> np.ndarray:
        """(chip) uint64, of the raw pixels."""
        return self.read("checksum")

    @property
    def source_size(self) -> np.ndarray:
        """(chip) int64, bytes of each TIFF."""
        return self.read("source_size")

    @property
    def source_mtime_ns(self) -> np.ndarray:
        """(chip) int64, when each TIFF was last written."""
        return self.read("source_mtime_ns")

    @property
    def shard_digest(self) -> np.ndarray | None:
        """(shard) uint64, see `shard`; None in a store of version 1."""
        return self.read("shard_digest") if self.version >= 2 else None

    @property
    def is_remote(self) -> bool:
        """Whether it lies in object storage."""
        return isinstance(self.path, str)

    @property
    def local_path(self) -> Path:
        """The folder; UserError for a store in object storage."""
        if isinstance(self.path, str):
            raise UserError(f"{self.path}: this works on stores on disk only. Copy it to disk first.")
        return self.path

    def band_statistics(self, chips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(mean, population std) float64 per band over all pixels of `chips`; see `sums`."""
        return band_statistics(self.layout, self.band_sum, self.band_sumsq, chips)

    def band_indices(self, bands: tuple[str, ...]) -> tuple[int, ...]:
        """Positions of `bands` in the store; UserError names one that is not there."""
        for band in bands:
            if band not in self.layout.bands:
                raise UserError(
                    f"{self.path}: band {band!r} is wanted, but the store has {', '.join(self.layout.bands)}. "
                    "Name the bands at conversion (BANDS=blue,green,red,nir), or choose others."
                )
        return tuple(self.layout.bands.index(band) for band in bands)


def encoded_bytes(path: Path, layout: Layout, num_chips: int) -> int:
    """Bytes of all shards on disk; UserError names the first that is missing."""
    total = 0
    for shard in range(layout.num_shards(num_chips)):
        file = shard_path(path, shard)
        if not file.is_file():
            raise UserError(f"{file}: the shard is missing. `make verify STORE={path}` lists all damage.")
        total += file.stat().st_size
    return total


def finish(
    root: Path, layout: Layout, classes: tuple[str, ...], num_csv_rows: int, arrays: dict[str, Any],
    source: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Write the small arrays and, last, the attributes with the completion mark; then read all of it back.

    Args:
        root: where `create_chips` was called and the shards lie.
        layout, classes: of the store.
        num_csv_rows: rows of the CSV, with and without a chip.
        arrays: values by name, see `arrays.array_specs`.
        source: what is worth knowing about the files, as JSON.
    """
    group = zarr.open_group(root, mode="a", zarr_format=3)
    num_chips = len(arrays["names"])
    specs = array_specs(layout, num_chips, len(classes), VERSION)
    records = {name: write_array(group, name, spec, np.asarray(arrays[name])) for name, spec in specs.items()}
    attrs: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "layout": {**vars(layout), "bands": list(layout.bands)},
        "classes": list(classes),
        "num_tiles": num_chips,
        "num_csv_rows": num_csv_rows,
        "source": source or {},
        "arrays": records,
        "complete": True,
    }
    attrs["fingerprint"] = fingerprint_of(layout, classes, num_csv_rows, records)
    group.attrs.put({**attrs, "attributes_sha256": sha256_of_json(attrs)})
    open_store(root)


def open_store(path: str | Path) -> Store:
    """Open a whole store: every small array is read and compared with what the conversion recorded.

    Raises:
        UserError: there is none, it is half written (the line says how to go on), it is something else, or something
            in it is not what the conversion wrote; names the file.
    """
    header = read_header(path)
    for line in header.findings():
        raise UserError(line)
    return Store(
        path=header.path, layout=header.layout, classes=header.classes, num_csv_rows=header.num_csv_rows,
        fingerprint=header.fingerprint, labels=header.read("labels"), csv_row=header.read("csv_row"), read=header.read,
        version=header.version, source=header.source,
    )  # fmt: skip
