"""The store's contract: array names, shapes, codecs, attributes, and what makes a store whole.

A Zarr v3 group that plain zarr-python and xarray read:

    tiles        (tile, band, y, x)  the TIFFs' own dtype and values; sharded, see `shard`
    labels       (tile, class)       uint8, 0 or 1
    names        (tile)              as in the CSV
    csv_row      (tile)              row in the CSV, so that a split over all rows survives missing chips
    band_sum     (tile, band)        exact sums: mean and std of any split, without reading a pixel
    band_sumsq   (tile, band)        the same of the squares; float32: of the squared deviations, see `sums`
    checksum     (tile)              xxh3-64 of the raw pixels, C order, little-endian
    source_size, source_mtime_ns (tile)  of each TIFF, to notice that it changed

A store is written in `NAME.partial` and renamed when it is whole, so nothing half-written ever stands
under the final name; the attribute `complete` is the second lock. Leaves reading pixels to `shard` and
`pipeline.chunks`.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.codecs.numcodecs import LZ4, Shuffle

from preprocess.console import UserError
from preprocess.files import is_url
from preprocess.files import partial_path as partial_path
from preprocess.files import shard_key as shard_key
from preprocess.files import shard_path as shard_path
from preprocess.files import write_atomic as write_atomic
from preprocess.layout import Layout
from preprocess.sums import band_statistics

FORMAT, VERSION = "canopy-tiles", 1


@dataclass(frozen=True, kw_only=True)
class Store:
    """A whole store, opened. Labels and CSV rows are in memory, some 30 bytes a tile; every other array is read when
    it is asked for and not kept, so that memory hardly grows with the number of tiles.

    `path` is a folder, or the address of a store in object storage. `read` gives an array by name.
    """

    path: Path | str
    layout: Layout
    classes: tuple[str, ...]
    num_csv_rows: int
    fingerprint: str
    labels: np.ndarray
    csv_row: np.ndarray
    read: Callable[[str], np.ndarray]

    @property
    def num_tiles(self) -> int:
        """Tiles in the store."""
        return len(self.labels)

    @property
    def names(self) -> np.ndarray:
        """(tile) str, as in the CSV."""
        return self.read("names")

    @property
    def band_sum(self) -> np.ndarray:
        """(tile, band) uint64, int64 or float64: `layout.sum_dtypes`."""
        return self.read("band_sum")

    @property
    def band_sumsq(self) -> np.ndarray:
        """(tile, band) uint64 or float64: of the squares, or of the squared deviations; see `sums`."""
        return self.read("band_sumsq")

    @property
    def checksum(self) -> np.ndarray:
        """(tile) uint64, of the raw pixels."""
        return self.read("checksum")

    @property
    def source_size(self) -> np.ndarray:
        """(tile) int64, bytes of each TIFF."""
        return self.read("source_size")

    @property
    def source_mtime_ns(self) -> np.ndarray:
        """(tile) int64, when each TIFF was last written."""
        return self.read("source_mtime_ns")

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

    def band_statistics(self, tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(mean, population std) float64 per band over all pixels of `tiles`; see `sums`."""
        return band_statistics(self.layout, self.band_sum, self.band_sumsq, tiles)

    def band_indices(self, bands: tuple[str, ...]) -> tuple[int, ...]:
        """Positions of `bands` in the store; UserError names one that is not there."""
        for band in bands:
            if band not in self.layout.bands:
                raise UserError(
                    f"{self.path}: band {band!r} is wanted, but the store has {', '.join(self.layout.bands)}. "
                    "Name the bands at conversion (BANDS=blue,green,red,nir), or choose others."
                )
        return tuple(self.layout.bands.index(band) for band in bands)


def encoded_bytes(path: Path, layout: Layout, num_tiles: int) -> int:
    """Bytes of all shards on disk; UserError names the first that is missing."""
    total = 0
    for shard in range(layout.num_shards(num_tiles)):
        file = shard_path(path, shard)
        if not file.is_file():
            raise UserError(f"{file}: the shard is missing. `make verify STORE={path}` lists all damage.")
        total += file.stat().st_size
    return total


@contextmanager
def _numcodecs_in_zarr3() -> Iterator[None]:
    """Silence one warning: `numcodecs.*` codecs are no part of the v3 specification. We chose them knowingly:
    zarr-python and xarray read them, and LZ4 is the one codec that DALI inflates on the GPU."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3 specification")
        yield


def create_tiles(root: Path, layout: Layout, num_tiles: int) -> None:
    """Make the group and the empty `tiles` array; shards are then written as files by `shard`."""
    with _numcodecs_in_zarr3():
        lz4: list[Any] = [LZ4(acceleration=1), Crc32cCodec()]
        shuffle: list[Any] = [Shuffle(elementsize=layout.itemsize)] if layout.itemsize > 1 else []
        group = zarr.open_group(root, mode="a", zarr_format=3)
        group.create_array(
            "tiles",
            shape=(num_tiles, len(layout.bands), layout.height, layout.width),
            chunks=(1, 1, layout.chunk_rows, layout.width),
            shards=(layout.shard_tiles, len(layout.bands), layout.height, layout.width),
            dtype=layout.dtype,
            serializer=BytesCodec(endian="little") if layout.itemsize > 1 else BytesCodec(endian=None),
            filters=None,
            compressors=[*shuffle, *lz4] if layout.codec == "lz4" else [Crc32cCodec()],
            fill_value=0,
            dimension_names=("tile", "band", "y", "x"),
            overwrite=True,
        )


def finish(root: Path, layout: Layout, classes: tuple[str, ...], num_csv_rows: int, arrays: dict[str, Any]) -> None:
    """Write the small arrays and, last, the attributes with the completion mark."""
    group = zarr.open_group(root, mode="a", zarr_format=3)
    for name, dimensions in ARRAYS.items():
        values = arrays[name]
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=values.shape,
            dtype="string" if name == "names" else values.dtype,
            dimension_names=dimensions,
            overwrite=True,
        )
        array[...] = values
    group.attrs.put(
        {
            "format": FORMAT,
            "version": VERSION,
            "layout": {**vars(layout), "bands": list(layout.bands)},
            "classes": list(classes),
            "num_tiles": len(arrays["names"]),
            "num_csv_rows": num_csv_rows,
            "fingerprint": fingerprint(layout, classes, arrays),
            "complete": True,
        }
    )


ARRAYS = {
    "names": ("tile",),
    "labels": ("tile", "class"),
    "csv_row": ("tile",),
    "band_sum": ("tile", "band"),
    "band_sumsq": ("tile", "band"),
    "checksum": ("tile",),
    "source_size": ("tile",),
    "source_mtime_ns": ("tile",),
}


def fingerprint(layout: Layout, classes: tuple[str, ...], arrays: dict[str, Any]) -> str:
    """SHA-256 of what a store says: pixels (by checksum), names, labels, bands, classes. Not of how it is coded."""
    digest = hashlib.sha256()
    head = [layout.bands, layout.height, layout.width, layout.dtype, classes, [str(name) for name in arrays["names"]]]
    digest.update(json.dumps(head).encode())
    for name in ("labels", "csv_row", "checksum"):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def open_store(path: str | Path) -> Store:
    """Open a whole store.

    Raises:
        UserError: there is none, it is half written (the line says how to go on), or it is something else.
    """
    where = str(path) if is_url(path) else Path(path)
    group_store, attrs = _remote_group(where) if isinstance(where, str) else _local_group(where)
    if attrs.get("format") != FORMAT:
        raise UserError(f"{where}: expected a store made by `make zarr` (format {FORMAT}), found another Zarr group.")
    if attrs.get("version") != VERSION:
        raise UserError(f"{where}: store version {attrs.get('version')}, this code reads {VERSION}. Convert again.")
    if attrs.get("complete") is not True:
        raise UserError(f"{where}: the store is not whole. Remove it and run the same `make zarr` again.")
    layout = Layout(**{**attrs["layout"], "bands": tuple(attrs["layout"]["bands"])})
    group = zarr.open_group(group_store, mode="r", zarr_format=3)

    def read(name: str) -> np.ndarray:
        try:
            values = np.asarray(group[name][...])  # type: ignore[index]  # a group's member may be a group
        except (KeyError, OSError, ValueError) as error:
            raise UserError(f"{where}: array {name!r} cannot be read ({error}). Convert again.") from error
        return np.array([str(value) for value in values]) if name == "names" else values

    missing = [name for name in ARRAYS if name not in group]
    if missing:
        raise UserError(f"{where}: array {missing[0]!r} is missing. Convert again.")
    return Store(
        path=where, layout=layout, classes=tuple(attrs["classes"]), num_csv_rows=attrs["num_csv_rows"],
        fingerprint=attrs["fingerprint"], labels=read("labels"), csv_row=read("csv_row"), read=read,
    )  # fmt: skip


def _local_group(path: Path) -> tuple[Any, dict[str, Any]]:
    """What zarr opens, and the group's attributes."""
    if not path.is_dir():
        if partial_path(path).is_dir():
            raise UserError(half_written(path))
        raise UserError(
            f"{path}: expected a store, found {'a file' if path.exists() else 'nothing'}. Make it: make zarr"
        )
    try:
        return path, json.loads((path / "zarr.json").read_text())["attributes"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: expected a Zarr v3 group, found none ({type(error).__name__}).") from error


def _remote_group(url: str) -> tuple[Any, dict[str, Any]]:
    from zarr.storage import ObjectStore

    from preprocess.remote import open_remote, remote_errors

    objects = open_remote(url)
    with remote_errors(f"{url}/zarr.json"):
        text = bytes(objects.get("zarr.json").bytes())
    try:
        return ObjectStore(objects, read_only=True), json.loads(text)["attributes"]
    except (ValueError, KeyError) as error:
        raise UserError(f"{url}: expected a Zarr v3 group, found none ({type(error).__name__}).") from error


def half_written(path: Path) -> str:
    """The line about a conversion that has not ended."""
    done = len(list((partial_path(path) / "progress").glob("*.npz")))
    return (
        f"{path}: the conversion has not ended ({done} shards are written in {partial_path(path).name}). "
        "Run the same `make zarr` command again: it goes on where it stopped."
    )
