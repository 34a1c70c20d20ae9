"""Tile numbers -> their bytes: every shard's index is read once, then a tile is a few offsets in a mapped file.

Out: decoded tiles (host decode), or compressed chunks with the offsets and sizes that DALI's
`decoders.inflate` takes (device decode). Every chunk's crc32c is checked either way: inflate itself ignores
errors and fills with zeros. Leaves buffers and threads to `source`.
"""

import threading

import numpy as np

from pipeline import kernels
from preprocess import schema, shard
from preprocess.schema import Store
from preprocess.shard import CRC_BYTES, LZ4_HEADER_BYTES, DamagedChunkError

_ADVICE = "`make verify STORE=...` lists all damage; remove the store and convert again."


class ChunkReader:
    """Reads `bands` of a store's tiles, in that order. Safe to use from many threads.

    The table costs 16 bytes a chunk; files are mapped when first used, and the page cache is the only cache.
    """

    def __init__(self, store: Store, bands: tuple[str, ...]) -> None:
        self.layout = store.layout
        self.bands = bands
        self._names = store.names
        band_indices = list(store.band_indices(bands))
        num_shards = self.layout.num_shards(store.num_tiles)
        self._paths = [schema.shard_path(store.path, index) for index in range(num_shards)]
        shape = (store.num_tiles, len(bands), self.layout.chunks_per_band)
        self._offsets, self._sizes = np.empty(shape, np.int64), np.empty(shape, np.int64)
        for index, path in enumerate(self._paths):
            first = index * self.layout.shard_tiles
            count = min(self.layout.shard_tiles, store.num_tiles - first)
            try:
                offsets, sizes = shard.read_index(path, self.layout, count)
            except DamagedChunkError as error:
                raise DamagedChunkError(f"{error} {_ADVICE}") from error
            self._offsets[first : first + count] = offsets[:, band_indices]
            self._sizes[first : first + count] = sizes[:, band_indices]
        self._maps: list[np.ndarray | None] = [None] * num_shards
        self._local = threading.local()

    @property
    def chunks_per_tile(self) -> int:
        """Chunks of all bands read."""
        return len(self.bands) * self.layout.chunks_per_band

    @property
    def max_span_bytes(self) -> int:
        """The most bytes that `read_compressed` writes for a tile."""
        ends = (self._offsets + self._sizes).max(axis=(1, 2))
        return int((ends - self._offsets.min(axis=(1, 2))).max())

    def read_tile(self, tile: int, out: np.ndarray, *, flip_rows: bool = False) -> None:
        """Decode one tile into `out`, (bands, height, width) of the store's dtype, C-contiguous; last row first if
        `flip_rows`.

        Raises:
            DamagedChunkError: names the tile, the band and the shard.
        """
        layout, data = self.layout, self._data(tile)
        offsets, sizes = self._offsets[tile], self._sizes[tile]
        scratch = getattr(self._local, "scratch", None)
        if scratch is None:
            scratch = self._local.scratch = np.empty(layout.chunk_bytes, np.uint8)
        split = out.reshape(len(self.bands), layout.chunks_per_band, layout.chunk_rows, layout.width)
        decode = kernels.decode_uint16 if layout.itemsize == 2 else kernels.decode_uint8
        if not decode(data, offsets, sizes, split, scratch, layout.codec == "lz4", flip_rows):
            raise self._damaged(tile)

    def read_compressed(self, tile: int, out: np.ndarray, offsets: np.ndarray, sizes: np.ndarray) -> int:
        """Copy one tile's encoded chunks, in one piece, and say where each LZ4 block lies in it.

        Args:
            out: (at least `max_span_bytes`,) uint8.
            offsets, sizes: (chunks_per_tile,) int32, written: LZ4 blocks in the order (band, row block),
                without numcodecs' length and without the crc32c.

        Returns:
            The number of bytes written to `out`.

        Raises:
            DamagedChunkError: names the tile and the shard.
        """
        first, size = self._offsets[tile].reshape(-1), self._sizes[tile].reshape(-1)
        count = kernels.copy_encoded(self._data(tile), first, size, out, self.layout.chunk_bytes)
        if not count:
            raise self._damaged(tile)
        offsets[:] = first - first.min() + LZ4_HEADER_BYTES
        sizes[:] = size - LZ4_HEADER_BYTES - CRC_BYTES
        return int(count)

    def _data(self, tile: int) -> np.ndarray:
        index = tile // self.layout.shard_tiles
        data = self._maps[index]
        if data is None:
            # A plain array over the mapping: slicing np.memmap itself costs microseconds a chunk.
            data = self._maps[index] = np.memmap(self._paths[index], np.uint8, mode="r").view(np.ndarray)
        return data

    def _damaged(self, tile: int) -> DamagedChunkError:
        """The error for a tile that a kernel refused; the reference decoder says what is wrong with it."""
        layout, reason = self.layout, "it cannot be decoded"
        out = np.empty((len(self.bands), layout.height, layout.width), layout.dtype)
        scratch = shard.decode_scratch(layout, len(self.bands))
        try:
            shard.decode_tile(self._data(tile), self._offsets[tile], self._sizes[tile], layout, out, scratch)
        except ValueError as error:
            reason = str(error)
        path = self._paths[tile // layout.shard_tiles]
        return DamagedChunkError(
            f"{path}: tile {self._names[tile]} is damaged (of the bands {', '.join(self.bands)}: {reason}). {_ADVICE}"
        )
