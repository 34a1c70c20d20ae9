"""Read chips by number. The index of every shard is read once; after that a chip is a few offsets.

In: a store and chip numbers. Out: decoded chips (`decode`), images of a batch (`augment`), or encoded chunks with the
offsets and sizes that DALI's `decoders.inflate` takes (`copy_encoded`). All three check the crc32c of every chunk:
inflate itself ignores errors and fills with zeros. Leaves locating bytes to `shards`, the loops to `kernels` and
`augment`, and threads to `readahead`.
"""

import threading

import numpy as np

from pipeline import augment, kernels
from pipeline.c_functions import view
from pipeline.order import Augmentation
from pipeline.shards import open_shards
from preprocess import shard
from preprocess.codecs import CODECS
from preprocess.nodata import nodata_value
from preprocess.shard import DamagedChunkError
from preprocess.zarr_store import Store

# Limit for a batch: `decoders.inflate` launches one block per chunk along the third axis of a grid.
MAX_INFLATE_CHUNKS = 65_535
_ADVICE = "`make verify STORE=...` lists all damage; remove the store and convert again."


class ChunkReader:
    """Reads `bands` of a store's chips, in that order. Many threads can share it. Its index takes 8 bytes per chunk.

    shards: only chips of these are read, and only their indexes; None: all. page_cache: see `Shards.divide`.

    All methods take chip numbers (N,) int64. They raise DamagedChunkError with the chip, the band and the shard.
    """

    def __init__(
        self, store: Store, bands: tuple[str, ...], shards: range | None = None, page_cache: int | None = None
    ) -> None:  # fmt: skip
        self.layout = store.layout
        self.bands = bands
        self._store = store
        self._shards = open_shards(store)
        shards = range(self.layout.num_shards(store.num_chips)) if shards is None else shards
        self._first = shards.start * self.layout.shard_tiles
        count = min(shards.stop * self.layout.shard_tiles, store.num_chips) - self._first
        shape = (count, len(bands), self.layout.chunks_per_band)
        # Offsets are relative to a chip's first chunk, so that they fit into 32 bits.
        self._starts, self._offsets = np.empty(count, np.int64), np.empty(shape, np.int32)
        self._sizes = np.empty(shape, np.int32)
        try:
            read = self._read_indexes(list(store.band_indices(bands)), shards)
        except DamagedChunkError as error:
            raise type(error)(f"{error} {_ADVICE}") from error
        self.bytes_per_chip = int(read.sum()) / count
        self._shards.divide(read, page_cache)
        self._kernel_kind = CODECS[self.layout.codec].kernel_kinds[self.layout.dtype]
        self._local = threading.local()

    def _read_indexes(self, band_indices: list[int], shards: range) -> np.ndarray:
        """Read the index of every one of `shards`, and keep where the chunks of each chip lie.

        Returns:
            (shards of the store,) int64, bytes of each that are read for its chips.
        """
        store, layout, digests = self._store, self.layout, self._store.shard_digest
        read = np.zeros(layout.num_shards(store.num_chips), np.int64)
        for index, (data, end) in zip(shards, self._shards.tails(shard.tail_bytes(layout), shards), strict=True):
            first = index * layout.shard_tiles - self._first
            count = min(layout.shard_tiles, store.num_chips - index * layout.shard_tiles)
            digest = None if digests is None else int(digests[index])
            offsets, sizes = shard.parse_index(data, end, self._shards.name(index), layout, count, digest)
            offsets, sizes = offsets[:, band_indices], sizes[:, band_indices]
            starts = offsets.min(axis=(1, 2))
            read[index] = int(((offsets + sizes).max(axis=(1, 2)) - starts).sum())
            self._starts[first : first + count] = starts
            self._offsets[first : first + count] = offsets - starts[:, None, None]
            self._sizes[first : first + count] = sizes
        return read

    @property
    def chunks_per_chip(self) -> int:
        """Number of chunks of all bands that are read."""
        return len(self.bands) * self.layout.chunks_per_band

    @property
    def max_span_bytes(self) -> int:
        """The size limit in bytes of what `copy_encoded` writes per chip."""
        return int((self._offsets + self._sizes).max())

    def decode(self, chips: np.ndarray, out: np.ndarray, flip_rows: np.ndarray | None = None) -> None:
        """Decode chips into `out`, (N, bands, height, width) of the store's dtype, C-contiguous. Where `flip_rows` (N,)
        is true, the order of the rows is reversed."""
        layout = self.layout
        addresses, sizes, owner = self.locate(chips)
        flip_rows = np.zeros(len(chips), bool) if flip_rows is None else flip_rows
        bits = out.view(f"u{layout.itemsize}")  # the kernel moves bits; their meaning does not matter
        split = bits.reshape(len(chips), len(self.bands), layout.chunks_per_band, layout.chunk_rows, layout.width)
        scratch = self._scratch()[0][0]
        self._check(chips, kernels.decode(addresses, sizes, split, scratch, self._kernel_kind, flip_rows))
        del owner

    def augment(
        self, chips: np.ndarray, parameters: Augmentation, out: np.ndarray, mean: np.ndarray, scale: np.ndarray
    ) -> None:
        """Decode, flip, transpose, crop, mirror and scale chips into `out`.

        Args:
            chips: (N,) chip numbers.
            parameters: augmentation parameters of each chip.
            out: (N, crop height, crop width, bands) float32, C-contiguous.
            mean, scale: (bands,) float32; `out` is (value - mean) * scale, and 0 for the layout's nodata.
        """
        layout = self.layout
        addresses, sizes, owner = self.locate(chips)
        scratch, block = self._scratch()
        arguments = (
            addresses, sizes, out, scratch, block, (layout.height, layout.width, layout.chunk_rows),
            self._kernel_kind,
            parameters.flip_rows, parameters.transpose, parameters.crop_y.astype(np.int64),
            parameters.crop_x.astype(np.int64), parameters.mirror, mean, scale,
        )  # fmt: skip
        if layout.nodata is None:
            damaged = augment.augment(*arguments)
        else:
            damaged = augment.augment_valid(*arguments, nodata_value(layout.nodata))
        self._check(chips, damaged)
        del owner

    def copy_encoded(
        self, chips: np.ndarray, out: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, used: np.ndarray
    ) -> None:
        """Copy the encoded chunks of chips, one contiguous span per chip, and list where each LZ4 block lies in it.

        Args:
            chips: (N,) chip numbers.
            out: (N, at least `max_span_bytes`) uint8.
            offsets, sizes: (N, chunks_per_chip) int32, written: LZ4 blocks in the order (band, row block),
                without numcodecs' length and without the crc32c.
            used: (N,) int64, written: bytes used in each row of `out`.
        """
        addresses, encoded, owner = self.locate(chips)
        flat = (len(chips), self.chunks_per_chip)
        damaged = kernels.copy_encoded(
            addresses.reshape(flat), encoded.reshape(flat), out, offsets, sizes, used, self.layout.chunk_bytes
        )
        self._check(chips, damaged)
        del owner

    def locate(self, chips: np.ndarray) -> tuple[np.ndarray, np.ndarray, object]:
        """Addresses and sizes (N, bands, chunks) int64 of encoded chunks, valid while the third value, the owner of the
        memory, exists."""
        rows = chips - self._first
        starts, offsets, sizes = self._starts[rows], self._offsets[rows], self._sizes[rows].astype(np.int64)
        ends = starts + (offsets + sizes).max(axis=(1, 2))
        span = self._shards.fetch(chips // self.layout.shard_tiles, starts, ends)
        return span.addresses[:, None, None] + offsets, sizes, span.owner

    def announce(self, chips: np.ndarray) -> None:
        """Chips that will be read soon: their bytes are read ahead (see `announcements.Announced`)."""
        if self._shards.reads_ahead():
            rows = chips - self._first
            starts = self._starts[rows]
            ends = starts + (self._offsets[rows] + self._sizes[rows]).max(axis=(1, 2))
            self._shards.announce(chips // self.layout.shard_tiles, starts, ends)

    def forget(self) -> None:
        """Chips that were announced and not read yet will not be read."""
        self._shards.forget()

    def _scratch(self) -> tuple[np.ndarray, np.ndarray]:
        """This thread's working memory: decoded chunks of all bands, and lines of the output."""
        scratch, bands = getattr(self._local, "scratch", None), len(self.bands)
        if scratch is None:
            scratch = self._local.scratch = (
                np.empty((bands, self.layout.chunk_bytes), np.uint8),
                np.empty(max(augment.BLOCK_VALUES, bands * self.layout.width), np.float32),
            )
        return scratch

    def _check(self, chips: np.ndarray, damaged: int) -> None:
        """Raise an error for a chip that a kernel refused (-1: none). The reference decoder finds the reason."""
        if damaged < 0:
            return
        layout, chip, reason = self.layout, int(chips[damaged]), "it cannot be decoded"
        addresses, sizes, owner = self.locate(chips[damaged : damaged + 1])
        start = addresses.min()
        data = view(int(start), int((addresses + sizes).max() - start))
        out = np.empty((len(self.bands), layout.height, layout.width), layout.dtype)
        try:
            shard.decode_chip(
                data, addresses[0] - start, sizes[0], layout, out, shard.decode_scratch(layout, len(self.bands))
            )
        except ValueError as error:
            reason = str(error)
        del owner
        shard_name, name = self._shards.name(chip // layout.shard_tiles), self._store.names[chip]
        raise DamagedChunkError(
            f"{shard_name}: chip {name} is damaged (of the bands {', '.join(self.bands)}: {reason}). {_ADVICE}"
        )
