"""Write one shard of a store: encode its chips, and compute what the store records of them.

In: (bands, height, width) chips, one after another. Out: the shard's file, and a `ShardRecord`. Memory: one chip.
Leaves the bytes' layout to `shard`, reading chips to `write`, and the rest of the store to `zarr_store`. Worker
processes load this file: it imports neither zarr nor pandas.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import google_crc32c
import numpy as np
import xxhash

from preprocess.band_statistics import band_sums
from preprocess.codecs import CODECS
from preprocess.files import atomic_file
from preprocess.layout import Layout
from preprocess.nodata import valid_counts
from preprocess.shard import CRC_BYTES, MISSING, bits_dtype, pixel_checksum


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """What a store records of one shard: rows of the arrays of the same names (see `zarr_store`).

    band_sum, band_sumsq: (chips, bands). valid_count: the same, None without nodata. checksum: (chips,) uint64.
    shard_digest: (1,) uint64. num_bytes: of the file.
    """

    band_sum: np.ndarray
    band_sumsq: np.ndarray
    valid_count: np.ndarray | None
    checksum: np.ndarray
    shard_digest: np.ndarray
    num_bytes: int

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        arrays = {name: getattr(self, name) for name in ("band_sum", "band_sumsq", "checksum", "shard_digest")}
        return arrays if self.valid_count is None else {**arrays, "valid_count": self.valid_count}


class NotFiniteError(ValueError):
    """A chip holds NaN or infinite values that are not nodata. `index` is its place in the shard."""

    def __init__(self, index: int, chip: np.ndarray) -> None:
        super().__init__(f"chip {index} of the shard has values that are not finite")
        self.index, self.chip = index, chip


def write_shard(path: Path, layout: Layout, chips: Iterable[np.ndarray]) -> ShardRecord:
    """Write a shard file (atomically), and make its folder. See `encode_shard`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        return encode_shard(file, layout, chips)


def encode_shard(file: BinaryIO, layout: Layout, chips: Iterable[np.ndarray]) -> ShardRecord:
    """Write the bytes of a shard.

    Args:
        file: to write to, empty.
        layout: of the store.
        chips: (bands, height, width) of the layout's dtype, at most `layout.shard_tiles`. Each is used up before the
            next is asked for, so that one array can hold all of them in turn.

    Raises:
        NotFiniteError: a value is NaN or infinite, and not nodata.
    """
    encoder = Encoder(layout)
    sums, squares, valid, checksums, sizes, crcs = [], [], [], [], [], xxhash.xxh3_64()
    for index, chip in enumerate(map(np.ascontiguousarray, chips)):
        data, chunk_sizes, chunk_crcs = encoder.encode(chip)
        file.write(data)
        sizes.append(chunk_sizes.copy())
        crcs.update(chunk_crcs)
        band_sum, band_sumsq = band_sums(chip, layout)
        if layout.dtype == "float32" and not np.isfinite(band_sum).all():
            raise NotFiniteError(index, chip)
        sums.append(band_sum)
        squares.append(band_sumsq)
        if layout.nodata is not None:
            valid.append(valid_counts(chip, layout.nodata))
        checksums.append(pixel_checksum(chip))
    file.write(struct.pack("<Q", crcs.intdigest()) + encode_index(np.stack(sizes), layout))
    num_bytes = file.tell()
    return ShardRecord(
        band_sum=np.stack(sums), band_sumsq=np.stack(squares), valid_count=np.stack(valid) if valid else None,
        checksum=np.array(checksums, np.uint64),
        shard_digest=np.array([crcs.intdigest()], np.uint64), num_bytes=num_bytes,
    )  # fmt: skip


def join_records(records: Iterable[ShardRecord]) -> dict[str, np.ndarray]:
    """The arrays of a store from the records of its shards, in order; see `zarr_store.finish`."""
    arrays = [record.arrays for record in records]
    return {name: np.concatenate([each[name] for each in arrays]) for name in arrays[0]}


class Encoder:
    """Encodes (bands, height, width) chips. All chips share its working memory."""

    def __init__(self, layout: Layout) -> None:
        codec = CODECS[layout.codec]
        self._dtype, self._itemsize = np.dtype(layout.dtype).newbyteorder("<"), layout.itemsize
        self._bits, self._values = bits_dtype(layout), layout.chunk_rows * layout.width
        self._shuffled = codec.shuffles and layout.itemsize > 1
        num_chunks = len(layout.bands) * layout.chunks_per_band
        self._planes = np.empty((num_chunks, layout.itemsize, self._values) if self._shuffled else 0, np.uint8)
        self._sizes = np.empty(num_chunks, np.int64)
        self._encode = codec.encoder()
        self._out = np.empty(num_chunks * (codec.max_bytes(layout.chunk_bytes) + CRC_BYTES), np.uint8)

    def encode(self, chip: np.ndarray) -> tuple[memoryview, np.ndarray, bytes]:
        """Encode the chip's chunks, in the shard's order.

        Returns:
            data: the encoded chunks one after another, each with its crc32c.
            sizes: (chunks,) int64, bytes of each. The next call overwrites data and sizes.
            crcs: the 4 bytes of each crc32c.
        """
        out, data = self._out, memoryview(self._out.data)
        chunks = np.ascontiguousarray(chip, dtype=self._dtype).reshape(-1, self._values)
        if self._shuffled:
            # The byte shuffle, for the whole chip at once: 21 us; numcodecs' Shuffle takes 250 us (256 x 256 x 4).
            bits = chunks.view(self._bits)
            np.copyto(self._planes[:, 0], bits, casting="unsafe")
            for byte in range(1, self._itemsize):
                np.right_shift(bits, 8 * byte, out=self._planes[:, byte], casting="unsafe")
            chunks = self._planes
        self._encode(chunks.view(np.uint8).reshape(len(chunks), -1), out, self._sizes, CRC_BYTES)
        self._sizes += CRC_BYTES
        end, crcs = 0, []
        for size in self._sizes.tolist():
            start, end = end, end + size
            crc = google_crc32c.value(out[start : end - CRC_BYTES])
            struct.pack_into("<I", data, end - CRC_BYTES, crc)
            crcs.append(crc)
        return data[:end], self._sizes, struct.pack(f"<{len(crcs)}I", *crcs)


def encode_index(sizes: np.ndarray, layout: Layout) -> bytes:
    """The index, with its crc32c, of a shard whose chunks of `sizes` (chips, chunks) bytes lie one after another."""
    index = np.full((layout.shard_tiles * len(layout.bands) * layout.chunks_per_band, 2), MISSING, "<u8")
    flat = sizes.reshape(-1).astype("<u8")
    index[: len(flat), 0] = np.cumsum(flat) - flat
    index[: len(flat), 1] = flat
    data = index.tobytes()
    return data + struct.pack("<I", google_crc32c.value(data))
