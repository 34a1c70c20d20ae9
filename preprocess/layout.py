"""How the pixels of a store are arranged: bands, dtype, codec, chunk and shard sizes.

In: the shape and dtype of the chips, or a store's JSON. Out: a `Layout`. Leaves files and Zarr to `zarr_store`.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from preprocess.codecs import CODECS
from preprocess.console import UserError
from preprocess.nodata import nodata_text

DTYPES = ("uint8", "uint16", "int16", "float32")
# 64 KiB per chunk: enough chunks for a GPU to decode in parallel, and few enough that the index stays small.
CHUNK_BYTES = 64 * 1024
# Some hundred files instead of one file per chip, and each worker's task fits in memory.
SHARD_BYTES, MAX_SHARD_CHIPS = 64 * 1024 * 1024, 256
MIB = 1024 * 1024
# Offsets within a chip are int32, and LZ4 counts in int32; encoded bytes can be more than decoded ones.
MAX_CHIP_BYTES = 1 << 30
MAX_SIDE, MAX_BANDS, MAX_SHARD_INDEX_BYTES = 1 << 20, 4096, 1 << 28


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How the pixels of a store are arranged. Every number is checked, because compiled code computes addresses from
    them.

    bands: names, in stored order. height, width: of a chip, in pixels. dtype: one of DTYPES. codec: a key of CODECS.
    chunk_rows: rows of one band in one chunk. shard_tiles: chips per shard. nodata: the value that marks pixels without
    a measurement, as `nodata.nodata_text` writes it; None if every value counts.

    Raises:
        UserError: a field has another type, is outside its range, or contradicts another field.
    """

    bands: tuple[str, ...]
    height: int
    width: int
    dtype: str
    codec: str
    chunk_rows: int
    shard_tiles: int
    nodata: str | None = None

    def __post_init__(self) -> None:
        bands = self.bands
        if type(bands) is not tuple or not 1 <= len(bands) <= MAX_BANDS or not all(type(b) is str and b for b in bands):
            raise _bad("bands", bands, f"1 to {MAX_BANDS} names")
        if len(set(bands)) != len(bands):
            raise _bad("bands", bands, "a different name for each band")
        for name, choices in (("dtype", DTYPES), ("codec", tuple(CODECS))):
            if getattr(self, name) not in choices:
                raise _bad(name, getattr(self, name), f"one of {', '.join(choices)}")
        for name in ("height", "width", "chunk_rows", "shard_tiles"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= MAX_SIDE:
                raise _bad(name, value, f"a whole number from 1 to {MAX_SIDE}")
        _check_nodata(self.nodata, self.dtype)
        if self.height % self.chunk_rows:
            raise _bad("chunk_rows", self.chunk_rows, f"a divisor of the height, {self.height}")
        if self.chip_bytes > MAX_CHIP_BYTES:
            raise _bad("chip", f"{len(bands)} x {self.height} x {self.width}", f"at most {MAX_CHIP_BYTES // MIB} MiB")
        if self.shard_tiles * len(bands) * self.chunks_per_band * 16 > MAX_SHARD_INDEX_BYTES:
            raise _bad("shard_tiles", self.shard_tiles, f"an index of at most {MAX_SHARD_INDEX_BYTES // MIB} MiB")

    def as_json(self) -> dict[str, Any]:
        """The fields as a store's JSON has them. `nodata` is left out without one: such stores are of version 2."""
        values = {**vars(self), "bands": list(self.bands)}
        return {name: value for name, value in values.items() if name != "nodata" or value is not None}

    @property
    def itemsize(self) -> int:
        """Bytes per value."""
        return np.dtype(self.dtype).itemsize

    @property
    def chunks_per_band(self) -> int:
        """Inner chunks of one band of one chip. `chunk_rows` always divides the height."""
        return self.height // self.chunk_rows

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one inner chunk, decoded."""
        return self.chunk_rows * self.width * self.itemsize

    @property
    def chip_bytes(self) -> int:
        """Bytes of one chip, all bands, decoded."""
        return len(self.bands) * self.height * self.width * self.itemsize

    @property
    def sum_dtypes(self) -> tuple[np.dtype, np.dtype]:
        """dtypes of the store's arrays band_sum and band_sumsq; see `band_statistics`."""
        if self.dtype == "float32":
            return np.dtype(np.float64), np.dtype(np.float64)
        return np.dtype(np.int64 if self.dtype == "int16" else np.uint64), np.dtype(np.uint64)

    def num_shards(self, num_chips: int) -> int:
        """Number of shard files in a store of `num_chips`."""
        return -(-num_chips // self.shard_tiles)


def _check_nodata(nodata: Any, dtype: str) -> None:
    if nodata is not None and not (type(nodata) is str and nodata_text(nodata, dtype) == nodata):
        raise _bad("nodata", nodata, f"a value of {dtype} as `make zarr` writes it")


def _bad(name: str, value: object, expected: str) -> UserError:
    return UserError(f"layout: {name} {value!r}: expected {expected}.")


def layout_from(values: Any) -> Layout:
    """The layout in a store's JSON.

    Raises:
        UserError: it is not an object with exactly the fields of a layout, or a value is bad; names it.
    """
    if not isinstance(values, dict):
        raise UserError(f"layout: expected an object, found {type(values).__name__}.")
    known = {field.name for field in fields(Layout)}
    if different := sorted((set(values) | {"nodata"}) ^ known):
        raise UserError(
            f"layout: expected the fields {', '.join(sorted(known))}; {different[0]!r} is missing or extra."
        )
    bands = values["bands"]
    return Layout(**{**values, "bands": tuple(bands) if isinstance(bands, list) else bands})


def plan_layout(
    *, bands: tuple[str, ...], height: int, width: int, dtype: str, codec: str, nodata: str | None = None
) -> Layout:
    """Choose chunk and shard sizes: about 64 KiB per chunk, at most 64 MiB (decoded) and 256 chips per shard.

    The rows of a chunk divide the height, so no chunk is padded; the divisor that comes nearest to 64 KiB is taken.
    """
    itemsize = np.dtype(dtype).itemsize
    ideal_rows = CHUNK_BYTES / (width * itemsize)
    divisors = [rows for rows in range(1, height + 1) if height % rows == 0]
    chunk_rows = min(divisors, key=lambda rows: (abs(np.log(rows / ideal_rows)), -rows))
    chip_bytes = len(bands) * height * width * itemsize
    shard_tiles = int(np.clip(SHARD_BYTES // chip_bytes, 1, MAX_SHARD_CHIPS))
    return Layout(
        bands=bands, height=height, width=width, dtype=dtype, codec=codec,
        chunk_rows=chunk_rows, shard_tiles=shard_tiles, nodata=nodata,
    )  # fmt: skip
