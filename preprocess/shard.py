"""The bytes of one shard: Zarr v3's `sharding_indexed` layout, and the reference decoder, without zarr-python.

A shard consists of four parts:

1. The encoded inner chunks one after another, in C order of (chip, band, row block). Each chunk is a payload, made by
   one of `codecs.CODECS`, and its 4-byte crc32c:

       lz4:   byte shuffle -> 4-byte little-endian length + LZ4 block -> crc32c   (uint8: no shuffle)
       none:  the values, little-endian                              -> crc32c

2. The digest of the shard (8 bytes): xxh3-64 of the crc32c values of all chunks. It is not part of Zarr's layout: Zarr
   readers follow the index and never read it. The store records the digest of each shard. So a shard that belongs to
   another place, store or version is noticed when its index is read, even if the indices are equal (CODEC=none).
   Stores of version 1 have no digest.
3. The index: little-endian uint64 pairs (offset, nbytes).
4. The index's crc32c.

zarr-python reads the same bytes. It also writes the same bytes, except for LZ4 blocks, which decode faster here (see
`lz4`). Its generic path reads 210 random chips/s and plain offsets read thousands: that is why this file exists. Tests
compare it with zarr-python.

Leaves writing to `shard_writer`, and which chips to read in which order to `pipeline.chunks`.
"""

import struct
from pathlib import Path

import google_crc32c
import numpy as np
import xxhash

from preprocess.codecs import CODECS
from preprocess.console import UserError
from preprocess.files import FILE_FAULTS, named_errors, open_regular
from preprocess.layout import Layout

CRC_BYTES = 4
DIGEST_BYTES = 8
MISSING = np.uint64(2**64 - 1)


class DamagedChunkError(UserError):
    """Bytes of a store are not what the conversion wrote."""


class ForeignShardError(DamagedChunkError):
    """An undamaged shard in the wrong place: from another store, from an older version, or swapped."""


def index_bytes(layout: Layout) -> int:
    """Bytes of a shard's index with its crc32c, which end the shard."""
    return layout.shard_tiles * len(layout.bands) * layout.chunks_per_band * 16 + CRC_BYTES


def tail_bytes(layout: Layout) -> int:
    """Bytes of the digest and the index: the part of a shard that `parse_index` takes."""
    return DIGEST_BYTES + index_bytes(layout)


def read_index(path: Path, layout: Layout, num_chips: int, digest: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read the index of a shard file; see `parse_index`."""
    data, end = read_tail(path, layout)
    return parse_index(data, end, str(path), layout, num_chips, digest)


def read_tail(path: Path, layout: Layout) -> tuple[bytes, int]:
    """The last `tail_bytes` of a shard file, and its size."""
    try:
        with named_errors(path), open_regular(path) as file:
            end = file.seek(0, 2)
            file.seek(max(0, end - tail_bytes(layout)))
            return file.read(), end
    except OSError as error:
        if error.errno not in FILE_FAULTS:
            raise
        raise DamagedChunkError(f"{path}: the shard cannot be read ({error.strerror}).") from error


def parse_index(
    data: bytes, end: int, name: str, layout: Layout, num_chips: int, digest: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Decode and check the index of a shard.

    Args:
        data: the last `tail_bytes` of the shard, which has `end` bytes.
        name: of the shard, for errors.
        layout: of the store.
        num_chips: chips in this shard.
        digest: what the store records for this shard; None in a store of version 1.

    Returns:
        offsets, sizes: (num_chips, bands, chunks) int64, in bytes; sizes include the crc32c.

    Raises:
        DamagedChunkError: the crc32c is wrong, or a chunk is missing or outside the shard.
        ForeignShardError: the index is valid, but the shard is not the one that was converted for this place.
    """
    if len(data) < index_bytes(layout):
        raise DamagedChunkError(f"{name}: expected a shard with its index, found {end} bytes.")
    index_data = data[-index_bytes(layout) :]
    if struct.unpack("<I", index_data[-CRC_BYTES:])[0] != google_crc32c.value(index_data[:-CRC_BYTES]):
        raise DamagedChunkError(f"{name}: the shard's index is damaged (crc32c).")
    shape = (layout.shard_tiles, len(layout.bands), layout.chunks_per_band, 2)
    index = np.frombuffer(index_data[:-CRC_BYTES], "<u8").reshape(shape)[:num_chips]
    if (index == MISSING).any():
        raise DamagedChunkError(f"{name}: chunks are missing in the shard's index.")
    # Compared as uint64 and without a sum: sums wrap, and an offset of 2**63 - 8 would pass every check.
    offsets, sizes, limit = index[..., 0], index[..., 1], np.uint64(end - index_bytes(layout))
    if (sizes < CRC_BYTES).any() or (sizes > limit).any() or (offsets > limit - sizes).any():
        raise DamagedChunkError(f"{name}: the shard's index points outside the file.")
    starts, ends = offsets.min(axis=(1, 2)), (offsets + sizes).max(axis=(1, 2))
    if (sizes > max_encoded_bytes(layout)).any() or (ends - starts > np.iinfo(np.int32).max).any():
        raise DamagedChunkError(f"{name}: the shard's index gives a chip more bytes than it can have.")
    if digest is not None:
        if len(data) < tail_bytes(layout) or data[-tail_bytes(layout) :][:DIGEST_BYTES] != struct.pack("<Q", digest):
            raise ForeignShardError(f"{name}: expected the shard that was converted for this place, found another.")
        flat = sizes.reshape(-1)
        contiguous = np.cumsum(flat) - flat
        if (offsets.reshape(-1) != contiguous).any() or int(flat.sum()) + tail_bytes(layout) != end:
            raise DamagedChunkError(
                f"{name}: expected {int(flat.sum())} bytes of chunks before the index, found others."
            )
    return offsets.astype(np.int64), sizes.astype(np.int64)


def max_encoded_bytes(layout: Layout) -> int:
    """The size limit in bytes of one encoded chunk with its crc32c."""
    return CODECS[layout.codec].max_bytes(layout.chunk_bytes) + CRC_BYTES


def decode_scratch(layout: Layout, num_bands: int) -> np.ndarray:
    """Working memory for `decode_chip`; all calls can share it."""
    return np.empty(num_bands * layout.height * layout.width * layout.itemsize, np.uint8)


def decode_chip(
    data: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, layout: Layout, out: np.ndarray, scratch: np.ndarray
) -> None:
    """Decode the chunks of one chip, in the listed order. `pipeline.kernels` does the same, compiled.

    Args:
        data: (nbytes,) uint8, the shard's file.
        offsets, sizes: (bands, chunks) of the bands to read, in that order.
        out: (bands, height, width) of the layout's dtype, C-contiguous.
        scratch: from `decode_scratch`.

    Raises:
        ValueError: a chunk is damaged; names the position of the band in the list, the chunk, and the reason.
    """
    codec = CODECS[layout.codec]
    shuffled = codec.shuffles and layout.itemsize > 1
    chunks = (scratch if shuffled else out.reshape(-1).view(np.uint8)).reshape(-1, layout.chunk_bytes)
    for index, (first, size) in enumerate(zip(offsets.reshape(-1).tolist(), sizes.reshape(-1).tolist(), strict=True)):
        try:
            encoded = data[first : first + size]
            payload = encoded[:-CRC_BYTES]
            if google_crc32c.value(payload) != int.from_bytes(encoded[-CRC_BYTES:].tobytes(), "little"):
                raise ValueError("crc32c does not match")
            codec.decode(payload, chunks[index])
        except (ValueError, RuntimeError) as error:
            band, chunk = divmod(index, layout.chunks_per_band)
            raise ValueError(f"band {band}, chunk {chunk}: {error}") from error
    if shuffled:
        # All lowest bytes come first, all highest last. Joining them for the whole chip at once: 20,700 chips/s.
        # Writing every other byte: 4,500 chips/s (256 x 256 x 4 uint16).
        planes = scratch.reshape(len(chunks), layout.itemsize, -1)
        values = out.view(bits_dtype(layout)).reshape(len(chunks), -1)
        np.left_shift(planes[:, -1], 8, out=values, dtype=values.dtype)
        for byte in range(layout.itemsize - 2, 0, -1):
            np.bitwise_or(values, planes[:, byte], out=values)
            np.left_shift(values, 8, out=values)
        np.bitwise_or(values, planes[:, 0], out=values)


def bits_dtype(layout: Layout) -> np.dtype:
    """The little-endian unsigned integer type that has the size of a value."""
    return np.dtype(f"<u{layout.itemsize}")


def pixel_checksum(chip: np.ndarray) -> int:
    """xxh3-64 of the (bands, height, width) values, C order, little-endian."""
    little = np.ascontiguousarray(chip, dtype=chip.dtype.newbyteorder("<"))
    return xxhash.xxh3_64_intdigest(little.view(np.uint8).reshape(-1).data)
