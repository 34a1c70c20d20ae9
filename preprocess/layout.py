"""How pixels lie in a store: bands, chunk and shard sizes. Numbers only; knows neither Zarr nor files."""

from dataclasses import dataclass

import numpy as np

CODECS = ("lz4", "none")
# Values of chips -> those of the store's arrays band_sum and band_sumsq, see `sums`.
SUM_DTYPES = {
    "uint8": ("uint64", "uint64"), "uint16": ("uint64", "uint64"),
    "int16": ("int64", "uint64"), "float32": ("float64", "float64"),
}  # fmt: skip
# 64 KiB a chunk: enough pieces for a GPU to decode in parallel, and few enough that the table stays small.
CHUNK_BYTES = 64 * 1024
# A file count in the hundreds instead of one file a chip, and a task that fits any worker's memory.
SHARD_BYTES, MAX_SHARD_TILES = 64 * 1024 * 1024, 256
MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How pixels lie in a store. Bands by name in stored order; `codec` is "lz4" or "none"."""

    bands: tuple[str, ...]
    height: int
    width: int
    dtype: str
    codec: str
    chunk_rows: int
    shard_tiles: int

    @property
    def itemsize(self) -> int:
        """Bytes a value."""
        return np.dtype(self.dtype).itemsize

    @property
    def chunks_per_band(self) -> int:
        """Inner chunks of one band of one tile; `chunk_rows` always divides the height."""
        return self.height // self.chunk_rows

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one inner chunk, decoded."""
        return self.chunk_rows * self.width * self.itemsize

    @property
    def tile_bytes(self) -> int:
        """Bytes of one tile, all bands, decoded."""
        return len(self.bands) * self.height * self.width * self.itemsize

    def num_shards(self, num_tiles: int) -> int:
        """Shard files of a store of `num_tiles`."""
        return -(-num_tiles // self.shard_tiles)


def sum_dtypes(layout: Layout) -> tuple[str, str]:
    """The dtypes of the store's arrays (band_sum, band_sumsq): wide enough for any chip of the layout's dtype.

    Raises:
        KeyError: a dtype that no store has.
    """
    return SUM_DTYPES[layout.dtype]


def plan_layout(*, bands: tuple[str, ...], height: int, width: int, dtype: str, codec: str) -> Layout:
    """Choose chunk and shard sizes: about 64 KiB a chunk, at most 64 MiB (decoded) and 256 tiles a shard.

    A chunk holds as many rows as divide the height and come nearest to 64 KiB, so no chunk is padded.
    """
    itemsize = np.dtype(dtype).itemsize
    wanted_rows = CHUNK_BYTES / (width * itemsize)
    divisors = [rows for rows in range(1, height + 1) if height % rows == 0]
    chunk_rows = min(divisors, key=lambda rows: (abs(np.log(rows / wanted_rows)), -rows))
    tile_bytes = len(bands) * height * width * itemsize
    shard_tiles = int(np.clip(SHARD_BYTES // tile_bytes, 1, MAX_SHARD_TILES))
    return Layout(
        bands=bands, height=height, width=width, dtype=dtype, codec=codec,
        chunk_rows=chunk_rows, shard_tiles=shard_tiles,
    )  # fmt: skip
