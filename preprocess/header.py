"""Check a store's attributes, and its small arrays against them: is everything what the conversion wrote?

In: a folder, or an address in object storage. Out: a `StoreHeader`, which reads arrays by name, and one line for each
difference. `zarr_store` describes the attributes and the digests. Leaves decoding arrays to `arrays`.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.addresses import Address
from preprocess.arrays import ArraySpec, ReadFile, array_specs, check_metadata, read_array, read_json
from preprocess.console import AccessError, UserError
from preprocess.files import FILE_FAULTS, is_url, named_errors, open_regular, partial_path
from preprocess.layout import Layout, layout_from

FORMAT, VERSION = "canopy-tiles", 3
MAX_CSV_ROWS = 200_000_000  # a split takes about 24 bytes per row


def version_of(layout: Layout) -> int:
    """The version that a conversion writes: 3 with nodata, otherwise 2, which older code reads too."""
    return 2 if layout.nodata is None else 3


def sha256_of_json(values: Any) -> str:
    """SHA-256 of values, written as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


# Everything that decides a result. The codec and the source files do not.
_DECISIVE = ("names", "labels", "csv_row", "band_sum", "band_sumsq", "checksum")


def fingerprint_of(
    layout: Layout, classes: tuple[str, ...], num_csv_rows: int, records: dict[str, dict[str, Any]]
) -> str:
    """The fingerprint: a digest of everything that decides a result. `records` holds the SHA-256 of the arrays."""
    chip: list[Any] = [layout.bands, layout.height, layout.width, layout.dtype]
    arrays = {name: records[name]["sha256"] for name in _DECISIVE}
    if layout.nodata is not None:
        chip.append(layout.nodata)
        arrays["valid_count"] = records["valid_count"]["sha256"]
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
    """The group's attributes, checked. No array has been read yet.

    records: size and SHA-256 of each small array; None in version 1.
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
        """The small arrays that the store must have."""
        return array_specs(self.layout, self.num_chips, len(self.classes), self.version, self.records or ())

    def read(self, name: str, *, as_objects: bool = False) -> np.ndarray:
        """One small array. `as_objects`: strings stay Python's, in half of the memory.

        Raises:
            UserError: it is not what the conversion wrote; names its file.
        """
        record = self.records[name] if self.records else None
        try:
            return read_array(self.read_file, name, self.specs[name], record, as_objects=as_objects)
        except AccessError:
            raise
        except UserError as error:
            raise UserError(f"{self.path}/{error} {_AGAIN}") from error

    def findings(self) -> Iterator[str]:
        """One line for each `zarr.json` and each small array that is not what the conversion wrote."""
        for line in check_metadata(self.read_file, self.specs, self.layout, self.num_chips, self.version):
            yield f"{self.path}/{line} {_AGAIN}"
        all_read = True
        for name in self.specs:
            try:
                self._check_values(name, self.read(name, as_objects=True))
            except AccessError:
                raise
            except UserError as error:
                all_read = False
                yield str(error)
        if self.version == 1 and all_read and _fingerprint_1(self.layout, self.classes, self.read) != self.fingerprint:
            yield f"{self.path}: names, labels, csv_row or checksum has changed. {_AGAIN}"

    def _check_values(self, name: str, values: np.ndarray) -> None:
        if name == "labels" and values.max() > 1:
            raise UserError(f"{self.path}: labels: expected 0 and 1, found {values.max()}. {_AGAIN}")
        if name == "split" and values.max() > 2:
            raise UserError(f"{self.path}: split: expected 0, 1 and 2, found {values.max()}. {_AGAIN}")
        if name == "csv_row" and not (
            values[0] >= 0 and values[-1] < self.num_csv_rows and (values[1:] > values[:-1]).all()
        ):
            raise UserError(f"{self.path}: csv_row: expected ascending rows below {self.num_csv_rows}. {_AGAIN}")


_AGAIN = "Convert again, or copy the store again."


def read_header(path: str | Path | Address, read_file: ReadFile | None = None) -> StoreHeader:
    """Read and check a store's attributes. `read_file` reads its files; by default they are at `path`.

    Raises:
        UserError: there is no store, its conversion is not finished (the line says how to continue), it is not a store,
            or its attributes are damaged.
    """
    where = str(path) if is_url(path) else Path(path)
    if read_file is None:
        read_file = _remote_files(where) if isinstance(where, str) else _local_files(where)
    try:
        group = read_json(read_file, "zarr.json")
        attrs = group["attributes"]
        if group.get("zarr_format") != 3 or group.get("node_type") != "group" or not isinstance(attrs, dict):
            raise KeyError("attributes")
    except KeyError as error:
        raise UserError(f"{where}: expected a Zarr v3 group with attributes, found another zarr.json.") from error
    except AccessError:
        raise
    except UserError as error:
        raise UserError(f"{where}/{error} Expected a Zarr v3 group, made by `make zarr`.") from error
    if attrs.get("format") != FORMAT:
        raise UserError(f"{where}: expected a store made by `make zarr` (format {FORMAT}), found another Zarr group.")
    version = attrs.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise UserError(f"{where}: expected a store of version 1 to {VERSION}, found {version!r}. Convert again.")
    if attrs.get("complete") is not True:
        raise UserError(f"{where}: the store is incomplete. Remove it and run the same `make zarr` again.")
    try:
        return _checked_header(where, read_file, version, attrs)
    except UserError as error:
        raise UserError(f"{where}/zarr.json: {error} {_AGAIN}") from error


def _checked_header(where: Path | str, read_file: ReadFile, version: int, attrs: dict[str, Any]) -> StoreHeader:
    """The header that the attributes describe. Its errors do not name the file."""
    if version >= 2:
        others = {name: value for name, value in attrs.items() if name != "attributes_sha256"}
        if attrs.get("attributes_sha256") != sha256_of_json(others):
            raise UserError("the attributes are not those that the conversion wrote (attributes_sha256).")
    layout = layout_from(attrs.get("layout"))
    if (layout.nodata is not None) != (version >= 3):
        raise UserError(f"layout: expected nodata in stores of version 3 only, found {layout.nodata!r} in {version}.")
    classes = _class_names(attrs.get("classes"))
    num_csv_rows = _count(attrs, "num_csv_rows", MAX_CSV_ROWS)
    num_chips = _count(attrs, "num_tiles", num_csv_rows)
    fingerprint, source, records = attrs.get("fingerprint"), attrs.get("source", {}), attrs.get("arrays", {})
    if type(fingerprint) is not str or not isinstance(source, dict) or not isinstance(records, dict):
        raise UserError("expected a fingerprint, and objects named source and arrays; found something else.")
    header = StoreHeader(
        path=where, version=version, layout=layout, classes=classes, num_chips=num_chips,
        num_csv_rows=num_csv_rows, fingerprint=fingerprint, source=source,
        records=records if version >= 2 else None, read_file=read_file,
    )  # fmt: skip
    if version >= 2:
        _check_records(header, records)
    return header


def _class_names(names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not names or not all(type(name) is str and name for name in names):
        raise UserError("classes: expected a list of names.")
    if len(set(names)) != len(names):
        raise UserError("classes: expected a different name for each class.")
    return tuple(names)


def _count(attrs: dict[str, Any], name: str, largest: int) -> int:
    count = attrs.get(name)
    if type(count) is not int or not 1 <= count <= largest:
        raise UserError(f"{name} {count!r}: expected a whole number from 1 to {largest}.")
    return count


def _check_records(header: StoreHeader, records: dict[str, Any]) -> None:
    for name in header.specs:
        record = records.get(name)
        if not isinstance(record, dict) or type(record.get("nbytes")) is not int or "sha256" not in record:
            raise UserError(f"expected the size and SHA-256 of the array {name}, found none.")
    if fingerprint_of(header.layout, header.classes, header.num_csv_rows, records) != header.fingerprint:
        raise UserError("the fingerprint is not that of the arrays.")


def _local_files(path: Path) -> ReadFile:
    if not path.is_dir():
        if partial_path(path).is_dir():
            raise UserError(_unfinished(path, len(list((partial_path(path) / "progress").glob("*.npz")))))
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
    from preprocess.remote import MissingObjectError, Objects

    objects = Objects(url)

    def read(key: str, limit: int) -> bytes:
        try:
            return objects.read(key, limit)
        except MissingObjectError as error:
            partial = Objects(f"{objects.url}.partial")
            if key == "zarr.json" and partial.size("plan.json") is not None:
                raise AccessError(_unfinished(url, sum(1 for _ in partial.list("progress/")))) from error
            raise UserError(f"{key}: expected an object, found none.") from error

    return read


def _unfinished(path: Path | str, done: int) -> str:
    """The line about a conversion that is not finished."""
    return (
        f"{path}: the conversion is not finished ({done} shards are written in {Path(path).name}.partial). "
        "Run the same `make zarr` command again: it continues where it stopped."
    )
