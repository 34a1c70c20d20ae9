"""A store's arrays: what each must be, and how the small ones are written and read.

In: the bytes of a store's files, by key. Out: arrays by name, each equal to what the conversion wrote; or a UserError.
Each small array is one chunk: its values (names: UTF-8 with lengths), compressed with Zstandard; from version 2 on a
crc32c follows, so that damaged bytes are never decompressed. zarr-python reads the same files, but this module does not
use it to read: zarr-python returns the fill value for a missing chunk, and it trusts every size in a damaged file.

Leaves the bytes of pixels to `shard`, and the check of a whole store to `header`.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numcodecs.zstd
import numpy as np
import zarr
from numcodecs import VLenUTF8
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from preprocess.codecs import CODECS
from preprocess.console import AccessError, UserError
from preprocess.layout import Layout

MAX_JSON_BYTES = 1 << 26  # enough for hundreds of thousands of classes
# Limit for a name in version 1, which records no sizes: a length, and the longest path of Linux at 4 bytes per letter.
_MAX_NAME_BYTES = 4 + 4 * 4096
_CRC_BYTES = 4

# (key, size limit in bytes) -> all bytes of a file. Raises UserError if it is missing, unreadable or too large.
ReadFile = Callable[[str, int], bytes]


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """What one array must be. A `dtype` of None means strings."""

    dimensions: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype | None

    @property
    def key(self) -> str:
        """Key of the array's only chunk, relative to the array."""
        return "/".join(["c"] + ["0"] * len(self.shape))


def array_specs(
    layout: Layout, num_chips: int, num_classes: int, version: int, present: Collection[str] = ()
) -> dict[str, ArraySpec]:
    """The small arrays of a store, by name. Those that only some stores have are in `present`."""
    num_bands, (sum_dtype, square_dtype) = len(layout.bands), layout.sum_dtypes

    def spec(dtype: Any, *sizes: tuple[str, int]) -> ArraySpec:
        return ArraySpec(
            dimensions=tuple(name for name, _ in sizes), shape=tuple(size for _, size in sizes),
            dtype=None if dtype is str else np.dtype(dtype),
        )  # fmt: skip

    chip, band = ("tile", num_chips), ("band", num_bands)
    specs = {
        "names": spec(str, chip),
        "labels": spec(np.uint8, chip, ("class", num_classes)),
        "csv_row": spec(np.int64, chip),
        "band_sum": spec(sum_dtype, chip, band),
        "band_sumsq": spec(square_dtype, chip, band),
        "checksum": spec(np.uint64, chip),
        "source_size": spec(np.int64, chip),
        "source_mtime_ns": spec(np.int64, chip),
    }
    if layout.nodata is not None:
        specs["valid_count"] = spec(np.uint32, chip, band)
    if version >= 2:
        specs["shard_digest"] = spec(np.uint64, ("shard", layout.num_shards(num_chips)))
    if "split" in present:
        specs["split"] = spec(np.uint8, chip)
    if "transform" in present and "crs" in present:
        specs["transform"] = spec(np.float64, chip, ("coefficient", 6))
        specs["crs"] = spec(str, chip)
    return specs


def write_array(group: zarr.Group, name: str, spec: ArraySpec, values: np.ndarray) -> dict[str, Any]:
    """Write one array. Returns its record: the size and the SHA-256 that `read_array` compares with."""
    _create(group, name, spec, version=2)[...] = values
    data = _values_to_bytes(values, spec)
    return {"nbytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def read_array(
    read: ReadFile, name: str, spec: ArraySpec, record: dict[str, Any] | None, *, as_objects: bool = False
) -> np.ndarray:
    """Read one array.

    Args:
        read: reads the store's files.
        name: of the array.
        spec: what it must be.
        record: from `write_array`. None in a store of version 1: then the array is only checked for decoding.
        as_objects: leave strings as Python's, in half of the memory.

    Raises:
        UserError: the chunk is missing, damaged, or not the one that was written; names its file.
    """
    key = f"{name}/{spec.key}"
    exact = record["nbytes"] if record else None
    if spec.dtype is not None:
        expected = int(np.prod(spec.shape)) * spec.dtype.itemsize
        if exact not in (None, expected):
            raise UserError(f"{key}: expected {expected} bytes of {name}, but the store's zarr.json records {exact}.")
        exact = expected
    limit = exact if exact is not None else 4 + spec.shape[0] * _MAX_NAME_BYTES
    chunk = read(key, limit + limit // 64 + 1024)
    if record:
        payload, stored = chunk[:-_CRC_BYTES], chunk[-_CRC_BYTES:]
        if google_crc32c.value(payload).to_bytes(4, "little") != stored:
            raise UserError(f"{key}: the array {name} is damaged (crc32c).")
    else:
        payload = chunk
    buffer = np.zeros(limit, np.uint8)  # the OS allocates pages when they are touched, so a high limit costs nothing
    try:
        numcodecs.zstd.decompress(payload, buffer)
        if record and hashlib.sha256(buffer.data).hexdigest() != record["sha256"]:
            raise UserError(f"{key}: expected the array {name} that the conversion wrote, found another.")
        values = _bytes_to_values(buffer, spec)
    except (ValueError, RuntimeError) as error:  # numcodecs raises both; invalid UTF-8 raises ValueError
        raise UserError(f"{key}: the array {name} is damaged ({' '.join(str(error).split())}).") from error
    return values.astype(str) if spec.dtype is None and not as_objects else values


def _values_to_bytes(values: np.ndarray, spec: ArraySpec) -> bytes:
    if spec.dtype is None:
        return bytes(VLenUTF8().encode(values.astype(object)))
    return np.ascontiguousarray(values, spec.dtype.newbyteorder("<")).tobytes()


def _bytes_to_values(buffer: np.ndarray, spec: ArraySpec) -> np.ndarray:
    if spec.dtype is not None:
        return buffer.view(spec.dtype.newbyteorder("<")).reshape(spec.shape).astype(spec.dtype, copy=False)
    count = int.from_bytes(buffer[:4].tobytes(), "little")
    if count != spec.shape[0]:  # before memory for `count` names is allocated
        raise ValueError(f"expected {spec.shape[0]} names, found {count}")
    return np.asarray(VLenUTF8().decode(buffer))


def _create(group: zarr.Group, name: str, spec: ArraySpec, version: int) -> zarr.Array:
    return group.create_array(
        name,
        shape=spec.shape,
        chunks=spec.shape,
        dtype="string" if spec.dtype is None else spec.dtype,
        compressors=[ZstdCodec(level=0), *([Crc32cCodec()] if version >= 2 else [])],
        dimension_names=spec.dimensions,
        overwrite=True,
        config={"write_empty_chunks": True},  # zeros are written too, so a missing chunk is always damage
    )


@contextmanager
def _numcodecs_in_zarr3() -> Iterator[None]:
    """Hide one warning: `numcodecs.*` codecs are not part of the Zarr v3 specification. They are used on purpose:
    zarr-python and xarray read them, and LZ4 is the codec that DALI can decode on a GPU."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3 specification")
        yield


def create_chips(root: Any, layout: Layout, num_chips: int) -> None:
    """Create the group and the empty `tiles` array in a folder, or in one of zarr's stores. `shard_writer` writes the
    shards."""
    with _numcodecs_in_zarr3():
        group = zarr.open_group(root, mode="a", zarr_format=3)
        group.create_array(
            "tiles",
            shape=(num_chips, len(layout.bands), layout.height, layout.width),
            chunks=(1, 1, layout.chunk_rows, layout.width),
            shards=(layout.shard_tiles, len(layout.bands), layout.height, layout.width),
            dtype=layout.dtype,
            serializer=BytesCodec(endian="little") if layout.itemsize > 1 else BytesCodec(endian=None),
            filters=None,
            compressors=[*CODECS[layout.codec].zarr_codecs(layout.itemsize), Crc32cCodec()],
            fill_value=0,
            dimension_names=("tile", "band", "y", "x"),
            overwrite=True,
        )


def check_metadata(
    read: ReadFile, specs: dict[str, ArraySpec], layout: Layout, num_chips: int, version: int
) -> Iterator[str]:
    """One line for each array whose `zarr.json` is not what a conversion writes.

    Args:
        read: reads the store's files.
        specs: of the small arrays.
        layout, num_chips, version: of the store.
    """
    written: dict[str, Any] = {}
    memory = MemoryStore(written)
    create_chips(memory, layout, num_chips)
    group = zarr.open_group(memory, mode="a", zarr_format=3)
    for name, spec in specs.items():
        _create(group, name, spec, version)
    for name in ("tiles", *specs):
        key = f"{name}/zarr.json"
        expected = json.loads(written[key].to_bytes())
        try:
            stored = read_json(read, key)
        except AccessError:
            raise
        except UserError as error:
            yield str(error)
            continue
        for field in sorted(set(expected) | set(stored) - {"attributes"}):  # other programs may add attributes
            one, other = (json.dumps(values.get(field), sort_keys=True) for values in (expected, stored))
            if one != other:
                yield f"{key}: expected {field} {one}, which follows from the store's layout, found {other[:200]}."
                break


def read_json(read: ReadFile, key: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        UserError: it cannot be read, or is something else.
    """
    try:
        values = json.loads(read(key, MAX_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{key}: expected JSON, found something else ({str(error)[:100]}).") from error
    if not isinstance(values, dict):
        raise UserError(f"{key}: expected a JSON object, found {type(values).__name__}.")
    return values
