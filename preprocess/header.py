"""A store's attributes, and its small arrays against them: is everything what the conversion wrote?

In: a folder, or an address in object storage. Out: a `StoreHeader`, which reads arrays by name, and a line for whatever
differs. `schema` says what the attributes and the digests are. Leaves decoding arrays to `arrays`.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.arrays import ArraySpec, ReadFile, array_specs, check_metadata, read_array, read_json
from preprocess.console import UserError
from preprocess.files import FILE_FAULTS, is_url, named_errors, open_regular, partial_path
from preprocess.layout import Layout, layout_from

FORMAT, VERSION = "canopy-tiles", 2
MAX_CSV_ROWS = 200_000_000  # a split takes some 24 bytes for each


def sha256_of_json(values: Any) -> str:
    """SHA-256 of values as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


# All that decides a result: not how pixels are coded, nor which files they came from.
_DECISIVE = ("names", "labels", "csv_row", "band_sum", "band_sumsq", "checksum")


def fingerprint_of(
    layout: Layout, classes: tuple[str, ...], num_csv_rows: int, records: dict[str, dict[str, Any]]
) -> str:
    """The fingerprint: all that decides a result, the arrays by the SHA-256 in their `records`."""
    arrays = {name: records[name]["sha256"] for name in _DECISIVE}
    chip = [layout.bands, layout.height, layout.width, layout.dtype]
    return sha256_of_json({"chip": chip, "classes": classes, "num_csv_rows": num_csv_rows, "arrays": arrays})


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
    num_chips: int
    num_csv_rows: int
    fingerprint: str
    source: dict[str, Any]
    records: dict[str, dict[str, Any]] | None
    read_file: ReadFile

    @property
    def specs(self) -> dict[str, ArraySpec]:
        """The small arrays that there must be."""
        return array_specs(self.layout, self.num_chips, len(self.classes), self.version)

    def read(self, name: str) -> np.ndarray:
        """One small array, as the conversion wrote it; UserError names its file."""
        try:
            return read_array(self.read_file, name, self.specs[name], self.records[name] if self.records else None)
        except UserError as error:
            raise UserError(f"{self.path}/{error} {_AGAIN}") from error

    def findings(self) -> Iterator[str]:
        """A line for each `zarr.json`, and for each small array, that is not what the conversion wrote."""
        for line in check_metadata(self.read_file, self.specs, self.layout, self.num_chips, self.version):
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
        if attrs.get("attributes_sha256") != sha256_of_json(others):
            raise UserError("the attributes are not those that the conversion wrote (attributes_sha256).")
    layout = layout_from(attrs.get("layout"))
    classes, num_chips, num_csv_rows = (attrs.get(name) for name in ("classes", "num_tiles", "num_csv_rows"))
    if not isinstance(classes, list) or not classes or not all(type(name) is str and name for name in classes):
        raise UserError("classes: expected a list of names.")
    if len(set(classes)) != len(classes):
        raise UserError("classes: expected a different name for each class.")
    if type(num_csv_rows) is not int or not 1 <= num_csv_rows <= MAX_CSV_ROWS:
        raise UserError(f"num_csv_rows {num_csv_rows!r}: expected a whole number from 1 to {MAX_CSV_ROWS}.")
    if type(num_chips) is not int or not 1 <= num_chips <= num_csv_rows:
        raise UserError(f"num_chips {num_chips!r}: expected a whole number from 1 to num_csv_rows, {num_csv_rows}.")
    fingerprint, source, records = attrs.get("fingerprint"), attrs.get("source", {}), attrs.get("arrays", {})
    if type(fingerprint) is not str or not isinstance(source, dict) or not isinstance(records, dict):
        raise UserError("expected a fingerprint, and objects named source and arrays; found otherwise.")
    header = StoreHeader(
        path=where, version=version, layout=layout, classes=tuple(classes), num_chips=num_chips,
        num_csv_rows=num_csv_rows, fingerprint=fingerprint, source=source,
        records=records if version >= 2 else None, read_file=read_file,
    )  # fmt: skip
    if header.records is not None:
        for name in header.specs:
            record = header.records.get(name)
            if not isinstance(record, dict) or type(record.get("nbytes")) is not int or "sha256" not in record:
                raise UserError(f"expected the size and SHA-256 of the array {name}, found none.")
        if fingerprint_of(layout, header.classes, num_csv_rows, header.records) != fingerprint:
            raise UserError("the fingerprint is not that of the arrays.")
    return header


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
            if error.errno not in FILE_FAULTS:
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
