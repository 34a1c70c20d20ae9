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
    shard_digest (shard)             binds each shard file to its place, see `shard`

The group's attributes hold the layout, the classes, and a SHA-256 of each array but `tiles`. Two digests cover all:

    fingerprint        what decides a result: names, labels, pixels (by checksum and sums), classes, bands, chip size,
                       rows of the CSV. Two stores of the same chips have the same one, whatever their codec.
    attributes_sha256  every other attribute, the layout and the arrays' SHA-256 among them.

`open_store` computes both and reads every small array, so what is not what the conversion wrote is one line. Version 1
has neither the arrays' digests nor `shard_digest`: its fingerprint covers names, labels, csv_row and checksum only.

A store is written in `NAME.partial` and renamed when it is whole, so nothing half-written ever stands
under the final name; the attribute `complete` is the second lock. Leaves reading pixels to `shard` and
`pipeline.chunks`.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.codecs.numcodecs import LZ4, Shuffle

from preprocess.arrays import ArraySpec, ReadFile, array_specs, check_metadata, read_array, read_json, write_array
from preprocess.console import SHORTAGES, UserError
from preprocess.files import is_url, named_errors, open_regular
from preprocess.files import partial_path as partial_path
from preprocess.files import shard_key as shard_key
from preprocess.files import shard_path as shard_path
from preprocess.files import write_atomic as write_atomic
from preprocess.layout import Layout, layout_from
from preprocess.sums import band_statistics

FORMAT, VERSION = "canopy-tiles", 2
MAX_CSV_ROWS = 200_000_000  # a split takes some 24 bytes for each


@dataclass(frozen=True, kw_only=True)
class Store:
    """A whole store, opened. Labels and CSV rows are in memory, some 30 bytes a tile; every other array is read when
    it is asked for and not kept, so that memory hardly grows with the number of tiles.

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


def create_tiles(root: Any, layout: Layout, num_tiles: int) -> None:
    """Make the group and the empty `tiles` array in a folder (or one of zarr's stores); `shard` makes the shards."""
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


def finish(
    root: Path, layout: Layout, classes: tuple[str, ...], num_csv_rows: int, arrays: dict[str, Any],
    source: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Write the small arrays and, last, the attributes with the completion mark; then read all of it back.

    Args:
        root: where `create_tiles` was called and the shards lie.
        layout, classes: of the store.
        num_csv_rows: rows of the CSV, with and without a chip.
        arrays: values by name, see `arrays.array_specs`.
        source: what is worth knowing about the files, as JSON.
    """
    group = zarr.open_group(root, mode="a", zarr_format=3)
    num_tiles = len(arrays["names"])
    specs = array_specs(layout, num_tiles, len(classes), VERSION)
    records = {name: write_array(group, name, spec, np.asarray(arrays[name])) for name, spec in specs.items()}
    attrs: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "layout": {**vars(layout), "bands": list(layout.bands)},
        "classes": list(classes),
        "num_tiles": num_tiles,
        "num_csv_rows": num_csv_rows,
        "source": source or {},
        "arrays": records,
        "complete": True,
    }
    attrs["fingerprint"] = _fingerprint(layout, classes, num_csv_rows, records)
    group.attrs.put({**attrs, "attributes_sha256": _sha256_of_json(attrs)})
    open_store(root)


def _sha256_of_json(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


# All that decides a result: not how pixels are coded, nor which files they came from.
_DECISIVE = ("names", "labels", "csv_row", "band_sum", "band_sumsq", "checksum")


def _fingerprint(
    layout: Layout, classes: tuple[str, ...], num_csv_rows: int, records: dict[str, dict[str, Any]]
) -> str:
    arrays = {name: records[name]["sha256"] for name in _DECISIVE}
    chip = [layout.bands, layout.height, layout.width, layout.dtype]
    return _sha256_of_json({"chip": chip, "classes": classes, "num_csv_rows": num_csv_rows, "arrays": arrays})


def _fingerprint_1(layout: Layout, classes: tuple[str, ...], read: Callable[[str], np.ndarray]) -> str:
    """The fingerprint of version 1."""
    head = [layout.bands, layout.height, layout.width, layout.dtype, classes, read("names").tolist()]
    digest = hashlib.sha256(json.dumps(head).encode())
    for name in ("labels", "csv_row", "checksum"):
        digest.update(np.ascontiguousarray(read(name)).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class StoreHeader:
    """The group's attributes, checked: all that can be known of a store before its arrays are read.

    `records` has the size and SHA-256 of each small array; None in version 1.
    """

    path: Path | str
    version: int
    layout: Layout
    classes: tuple[str, ...]
    num_tiles: int
    num_csv_rows: int
    fingerprint: str
    source: dict[str, Any]
    records: dict[str, dict[str, Any]] | None
    read_file: ReadFile

    @property
    def specs(self) -> dict[str, ArraySpec]:
        """The small arrays that there must be."""
        return array_specs(self.layout, self.num_tiles, len(self.classes), self.version)

    def read(self, name: str) -> np.ndarray:
        """One small array, as the conversion wrote it; UserError names its file."""
        try:
            return read_array(self.read_file, name, self.specs[name], self.records[name] if self.records else None)
        except UserError as error:
            raise UserError(f"{self.path}/{error} {_AGAIN}") from error

    def findings(self) -> Iterator[str]:
        """A line for each `zarr.json`, and for each small array, that is not what the conversion wrote."""
        tiles = lambda store: create_tiles(store, self.layout, self.num_tiles)  # noqa: E731
        for line in check_metadata(self.read_file, self.specs, tiles, self.version):
            yield f"{self.path}/{line} {_AGAIN}"
        whole = True
        for name in self.specs:
            try:
                self._check_values(name, self.read(name))
            except UserError as error:
                whole = False
                yield str(error)
        if self.version == 1 and whole and _fingerprint_1(self.layout, self.classes, self.read) != self.fingerprint:
            yield f"{self.path}: names, labels, csv_row or checksum were altered. {_AGAIN}"

    def _check_values(self, name: str, values: np.ndarray) -> None:
        if name == "labels" and values.max() > 1:
            raise UserError(f"{self.path}: labels: expected 0 and 1, found {values.max()}. {_AGAIN}")
        if name == "csv_row" and not (
            values[0] >= 0 and values[-1] < self.num_csv_rows and (values[1:] > values[:-1]).all()
        ):
            raise UserError(f"{self.path}: csv_row: expected ascending rows below {self.num_csv_rows}. {_AGAIN}")


_AGAIN = "Convert again, or copy the store again."


def read_header(path: str | Path) -> StoreHeader:
    """Read and check a store's attributes.

    Raises:
        UserError: there is no store, it is half written (the line says how to go on), it is something else, or its
            attributes are damaged.
    """
    where = str(path) if is_url(path) else Path(path)
    read_file = _remote_files(where) if isinstance(where, str) else _local_files(where)
    try:
        group = read_json(read_file, "zarr.json")
        attrs = group["attributes"]
        if group.get("zarr_format") != 3 or group.get("node_type") != "group" or not isinstance(attrs, dict):
            raise KeyError("attributes")
    except KeyError as error:
        raise UserError(f"{where}: expected a Zarr v3 group with attributes, found another zarr.json.") from error
    except UserError as error:
        raise UserError(f"{where}/{error} Expected a Zarr v3 group, made by `make zarr`.") from error
    if attrs.get("format") != FORMAT:
        raise UserError(f"{where}: expected a store made by `make zarr` (format {FORMAT}), found another Zarr group.")
    version = attrs.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise UserError(f"{where}: store version {version!r}, this code reads 1 to {VERSION}. Convert again.")
    if attrs.get("complete") is not True:
        raise UserError(f"{where}: the store is not whole. Remove it and run the same `make zarr` again.")
    try:
        return _checked_header(where, read_file, version, attrs)
    except UserError as error:
        raise UserError(f"{where}/zarr.json: {error} {_AGAIN}") from error


def _checked_header(where: Path | str, read_file: ReadFile, version: int, attrs: dict[str, Any]) -> StoreHeader:
    """Errors are without the file's name."""
    if version >= 2:
        others = {name: value for name, value in attrs.items() if name != "attributes_sha256"}
        if attrs.get("attributes_sha256") != _sha256_of_json(others):
            raise UserError("the attributes are not those that the conversion wrote (attributes_sha256).")
    layout = layout_from(attrs.get("layout"))
    classes, num_tiles, num_csv_rows = (attrs.get(name) for name in ("classes", "num_tiles", "num_csv_rows"))
    if not isinstance(classes, list) or not classes or not all(type(name) is str and name for name in classes):
        raise UserError("classes: expected a list of names.")
    if len(set(classes)) != len(classes):
        raise UserError("classes: expected a different name for each class.")
    if type(num_csv_rows) is not int or not 1 <= num_csv_rows <= MAX_CSV_ROWS:
        raise UserError(f"num_csv_rows {num_csv_rows!r}: expected a whole number from 1 to {MAX_CSV_ROWS}.")
    if type(num_tiles) is not int or not 1 <= num_tiles <= num_csv_rows:
        raise UserError(f"num_tiles {num_tiles!r}: expected a whole number from 1 to num_csv_rows, {num_csv_rows}.")
    fingerprint, source, records = attrs.get("fingerprint"), attrs.get("source", {}), attrs.get("arrays", {})
    if type(fingerprint) is not str or not isinstance(source, dict) or not isinstance(records, dict):
        raise UserError("expected a fingerprint, and objects named source and arrays; found otherwise.")
    header = StoreHeader(
        path=where, version=version, layout=layout, classes=tuple(classes), num_tiles=num_tiles,
        num_csv_rows=num_csv_rows, fingerprint=fingerprint, source=source,
        records=records if version >= 2 else None, read_file=read_file,
    )  # fmt: skip
    if header.records is not None:
        for name in header.specs:
            record = header.records.get(name)
            if not isinstance(record, dict) or type(record.get("nbytes")) is not int or "sha256" not in record:
                raise UserError(f"expected the size and SHA-256 of the array {name}, found none.")
        if _fingerprint(layout, header.classes, num_csv_rows, header.records) != fingerprint:
            raise UserError("the fingerprint is not that of the arrays.")
    return header


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


def _local_files(path: Path) -> ReadFile:
    if not path.is_dir():
        if partial_path(path).is_dir():
            raise UserError(half_written(path))
        raise UserError(
            f"{path}: expected a store, found {'a file' if path.exists() else 'nothing'}. Make it: make zarr"
        )

    def read(key: str, limit: int) -> bytes:
        try:
            with named_errors(path / key), open_regular(path / key) as file:
                if (size := file.seek(0, 2)) > limit:
                    raise UserError(f"{key}: expected at most {limit} bytes, found {size}.")
                file.seek(0)
                return file.read()
        except FileNotFoundError as error:
            raise UserError(f"{key}: the file is missing.") from error
        except OSError as error:
            if error.errno in SHORTAGES:  # of this machine, no damage
                raise
            raise UserError(f"{key}: the file cannot be read ({error.strerror}).") from error

    return read


def _remote_files(url: str) -> ReadFile:
    from preprocess.remote import open_remote, remote_errors

    objects = open_remote(url)

    def read(key: str, limit: int) -> bytes:
        with remote_errors(key):
            found = objects.get(key)
            if (size := int(found.meta["size"])) > limit:
                raise UserError(f"{key}: expected at most {limit} bytes, found {size}.")
            return bytes(found.bytes())

    return read


def half_written(path: Path) -> str:
    """The line about a conversion that has not ended."""
    done = len(list((partial_path(path) / "progress").glob("*.npz")))
    return (
        f"{path}: the conversion has not ended ({done} shards are written in {partial_path(path).name}). "
        "Run the same `make zarr` command again: it goes on where it stopped."
    )
