"""The bytes of one shard: Zarr v3's `sharding_indexed` layout, encoded and decoded without zarr-python.

A shard is the encoded inner chunks one after another, in C order of (chip, band, row block), then 8 bytes of our own
(the shard's digest), then an index of little-endian uint64 (offset, nbytes) pairs, then the index's crc32c. Zarr
readers follow the index and never see the digest. It is xxh3-64 of the crc32c values of all chunks, and the store
records it for each shard: a shard of another place, store or version is noticed when its index is read, even where
the indices are equal (CODEC=none). Stores of version 1 have no digest. An inner chunk is

    lz4:   byte shuffle -> 4-byte little-endian length + LZ4 block -> 4-byte crc32c   (uint8: no shuffle)
    none:  the values, little-endian                              -> 4-byte crc32c

zarr-python reads the same bytes (and writes them, but for LZ4 blocks that decode faster, see `lz4`); its generic path
does 210 random chips/s where plain offsets do thousands, hence this file. Tests hold it to zarr-python.

Leaves which chips to read, and in what order, to `pipeline.chunks`.
"""

import struct
from pathlib import Path

import google_crc32c
import numcodecs.lz4
import numpy as np
import xxhash

from preprocess.console import UserError
from preprocess.files import FILE_FAULTS, named_errors, open_regular
from preprocess.layout import Layout

CRC_BYTES = 4
DIGEST_BYTES = 8
LZ4_HEADER_BYTES = 4  # numcodecs' LZ4 puts the decoded length before the block
MISSING = np.uint64(2**64 - 1)


class DamagedChunkError(UserError):
    """Bytes of a store that are not what was written."""


class ForeignShardError(DamagedChunkError):
    """A whole shard in a place that is not its own: of another store, of an older version, swapped."""


class Encoder:
    """Encodes (bands, height, width) chips; its working memory is reused from chip to chip."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._values = layout.chunk_rows * layout.width
        self._shuffled = layout.codec == "lz4" and layout.itemsize > 1
        num_chunks = len(layout.bands) * layout.chunks_per_band
        self._planes = np.empty((num_chunks, layout.itemsize, self._values) if self._shuffled else 0, np.uint8)
        self._sizes = np.empty(num_chunks, np.int64)
        most = layout.chunk_bytes
        if layout.codec == "lz4":
            from preprocess import lz4  # compiled code: nobody else is to wait for it

            most = LZ4_HEADER_BYTES + lz4.max_bytes(layout.chunk_bytes)
            self._encode_blocks, self._table = lz4.encode_blocks, np.empty(lz4.TABLE_SIZE, np.uint64)
        self._out = np.empty(num_chunks * (most + CRC_BYTES), np.uint8)

    def encode(self, chip: np.ndarray) -> tuple[memoryview, np.ndarray, bytes]:
        """The chip's chunks in the shard's order.

        Returns:
            data: the encoded chunks one after another, each with its crc32c.
            sizes: (chunks,) int64, bytes of each. The next call overwrites data and sizes.
            crcs: the 4 bytes of each crc32c.
        """
        layout, out, data = self._layout, self._out, memoryview(self._out.data)
        chunks = np.ascontiguousarray(chip, dtype=np.dtype(layout.dtype).newbyteorder("<")).reshape(-1, self._values)
        if self._shuffled:
            # The byte shuffle, for the whole chip at once: 21 us where numcodecs' Shuffle takes 250 (256 x 256 x 4).
            bits = chunks.view(_bits(layout))
            np.copyto(self._planes[:, 0], bits, casting="unsafe")
            for byte in range(1, layout.itemsize):
                np.right_shift(bits, 8 * byte, out=self._planes[:, byte], casting="unsafe")
            chunks = self._planes
        chunks = chunks.view(np.uint8).reshape(len(chunks), -1)
        if layout.codec == "lz4":
            self._encode_blocks(chunks, out, self._sizes, self._table, LZ4_HEADER_BYTES, CRC_BYTES)
            self._sizes += LZ4_HEADER_BYTES + CRC_BYTES
        else:
            out.reshape(len(chunks), -1)[:, :-CRC_BYTES] = chunks
            self._sizes[:] = layout.chunk_bytes + CRC_BYTES
        end, crcs = 0, []
        for size in self._sizes.tolist():
            start, end = end, end + size
            if layout.codec == "lz4":
                struct.pack_into("<I", data, start, layout.chunk_bytes)
            crc = google_crc32c.value(out[start : end - CRC_BYTES])
            struct.pack_into("<I", data, end - CRC_BYTES, crc)
            crcs.append(crc)
        return data[:end], self._sizes, struct.pack(f"<{len(crcs)}I", *crcs)


class ShardWriter:
    """The bytes of one shard, chip by chip: `add` each chip, then `end`. The caller writes what both return."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._encoder = Encoder(layout)
        self._sizes: list[np.ndarray] = []
        self._crcs = xxhash.xxh3_64()

    def add(self, chip: np.ndarray) -> memoryview:
        """Encode one (bands, height, width) chip. The next call overwrites the bytes."""
        data, sizes, crcs = self._encoder.encode(chip)
        self._sizes.append(sizes.copy())
        self._crcs.update(crcs)
        return data

    @property
    def digest(self) -> int:
        """xxh3-64 of the crc32c of every chunk so far, in the shard's order."""
        return self._crcs.intdigest()

    def end(self) -> bytes:
        """What follows the chunks: digest, index, crc32c of the index."""
        return struct.pack("<Q", self.digest) + encode_index(np.stack(self._sizes), self._layout)


def encode_index(sizes: np.ndarray, layout: Layout) -> bytes:
    """The index of a shard that holds `sizes` (chips, bands, chunks) encoded bytes, back to back."""
    index = np.full((layout.shard_tiles * len(layout.bands) * layout.chunks_per_band, 2), MISSING, "<u8")
    flat = sizes.reshape(-1).astype("<u8")
    index[: len(flat), 0] = np.cumsum(flat) - flat
    index[: len(flat), 1] = flat
    data = index.tobytes()
    return data + struct.pack("<I", google_crc32c.value(data))


def index_bytes(layout: Layout) -> int:
    """Bytes of a shard's index with its crc32c: the end of the shard."""
    return layout.shard_tiles * len(layout.bands) * layout.chunks_per_band * 16 + CRC_BYTES


def tail_bytes(layout: Layout) -> int:
    """Bytes of a shard's end that `parse_index` takes: digest and index."""
    return DIGEST_BYTES + index_bytes(layout)


def read_index(path: Path, layout: Layout, num_chips: int, digest: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Read a shard file's index; see `parse_index`."""
    try:
        with named_errors(path), open_regular(path) as file:
            end = file.seek(0, 2)
            file.seek(max(0, end - tail_bytes(layout)))
            data = file.read()
    except OSError as error:
        if error.errno not in FILE_FAULTS:
            raise
        raise DamagedChunkError(f"{path}: the shard cannot be read ({error.strerror}).") from error
    return parse_index(data, end, str(path), layout, num_chips, digest)


def parse_index(
    data: bytes, end: int, name: str, layout: Layout, num_chips: int, digest: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Read a shard's index.

    Args:
        data: the last `tail_bytes` of the shard, which has `end` bytes.
        name: of the shard, for errors.
        layout: of the store.
        num_chips: chips in this shard.
        digest: recorded at conversion for the shard of this place; None in a store of version 1.

    Returns:
        offsets, sizes: (num_chips, bands, chunks) int64, in bytes, crc32c included in the size.

    Raises:
        DamagedChunkError: wrong crc32c, a chunk missing or outside the shard.
        ForeignShardError: the index is whole, but the shard is not the one that was converted for this place.
    """
    if len(data) < index_bytes(layout):
        raise DamagedChunkError(f"{name}: expected a shard with its index, found {end} bytes.")
    index_data = data[-index_bytes(layout) :]
    if struct.unpack("<I", index_data[-CRC_BYTES:])[0] != google_crc32c.value(index_data[:-CRC_BYTES]):
        raise DamagedChunkError(f"{name}: the shard's index is damaged (crc32c).")
    shape = (layout.shard_tiles, len(layout.bands), layout.chunks_per_band, 2)
    index = np.frombuffer(index_data[:-CRC_BYTES], "<u8").reshape(shape)[:num_chips]
    if (index == MISSING).any():
        raise DamagedChunkError(f"{name}: the shard lacks chunks.")
    # Compared as uint64, and without adding: an offset of 2**63 - 8 passes every check on a sum that wraps.
    offsets, sizes, room = index[..., 0], index[..., 1], np.uint64(end - index_bytes(layout))
    if (sizes < CRC_BYTES).any() or (sizes > room).any() or (offsets > room - sizes).any():
        raise DamagedChunkError(f"{name}: the shard's index points outside the file.")
    starts, ends = offsets.min(axis=(1, 2)), (offsets + sizes).max(axis=(1, 2))
    if (sizes > max_encoded_bytes(layout)).any() or (ends - starts > np.iinfo(np.int32).max).any():
        raise DamagedChunkError(f"{name}: the shard's index gives a chip more bytes than it can have.")
    if digest is not None:
        own = data[-tail_bytes(layout) :][:DIGEST_BYTES]
        if len(data) < tail_bytes(layout) or own != struct.pack("<Q", digest):
            raise ForeignShardError(f"{name}: expected the shard that was converted for this place, found another.")
        flat = sizes.reshape(-1)
        back_to_back = np.cumsum(flat) - flat
        if (offsets.reshape(-1) != back_to_back).any() or int(flat.sum()) + tail_bytes(layout) != end:
            raise DamagedChunkError(
                f"{name}: expected {int(flat.sum())} bytes of chunks before the index, found others."
            )
    return offsets.astype(np.int64), sizes.astype(np.int64)


def max_encoded_bytes(layout: Layout) -> int:
    """The most bytes of one encoded chunk: LZ4's own bound, length and crc32c."""
    return layout.chunk_bytes + layout.chunk_bytes // 255 + 16 + LZ4_HEADER_BYTES + CRC_BYTES


def checked_payload(chunk: np.ndarray, layout: Layout) -> np.ndarray:
    """The (nbytes,) uint8 chunk without its crc32c, which must match; for lz4 the stated length must match too.

    Raises:
        ValueError: with the reason.
    """
    payload = chunk[:-CRC_BYTES]
    if google_crc32c.value(payload) != _uint32(chunk[-CRC_BYTES:]):
        raise ValueError("crc32c does not match")
    found = _uint32(payload[:LZ4_HEADER_BYTES]) if layout.codec == "lz4" else len(payload)
    if found != layout.chunk_bytes:
        raise ValueError(f"expected {layout.chunk_bytes} decoded bytes, found {found}")
    return payload


def _uint32(data: np.ndarray) -> int:
    return int.from_bytes(data.tobytes(), "little")


def decode_scratch(layout: Layout, num_bands: int) -> np.ndarray:
    """Working memory for `decode_chip`, to be reused from call to call."""
    return np.empty(num_bands * layout.height * layout.width * layout.itemsize, np.uint8)


def decode_chip(
    data: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, layout: Layout, out: np.ndarray, scratch: np.ndarray
) -> None:
    """Decode chunks of one chip, in the order in which they are listed. `pipeline.kernels` does the same, compiled.

    Args:
        data: (nbytes,) uint8, the shard's file.
        offsets, sizes: (bands, chunks) of the bands wanted, in the order wanted.
        out: (bands, height, width) of the layout's dtype, C-contiguous.
        scratch: from `decode_scratch`.

    Raises:
        ValueError: damaged bytes; names the position among the listed bands, the chunk, and the reason.
    """
    shuffled = layout.codec == "lz4" and layout.itemsize > 1
    chunks = (scratch if shuffled else out.reshape(-1).view(np.uint8)).reshape(-1, layout.chunk_bytes)
    for index, (first, size) in enumerate(zip(offsets.reshape(-1).tolist(), sizes.reshape(-1).tolist(), strict=True)):
        try:
            payload = checked_payload(data[first : first + size], layout)
            if layout.codec == "lz4":
                numcodecs.lz4.decompress(payload, chunks[index])
            else:
                chunks[index] = payload
        except (ValueError, RuntimeError) as error:
            band, chunk = divmod(index, layout.chunks_per_band)
            raise ValueError(f"band {band}, chunk {chunk}: {error}") from error
    if shuffled:
        # All lowest bytes come first, all highest last. Joined for the whole chip at once: 20,700 chips/s, where
        # writing every other byte did 4,500 (256 x 256 x 4 uint16).
        planes = scratch.reshape(len(chunks), layout.itemsize, -1)
        values = out.view(_bits(layout)).reshape(len(chunks), -1)
        np.left_shift(planes[:, -1], 8, out=values, dtype=values.dtype)
        for byte in range(layout.itemsize - 2, 0, -1):
            np.bitwise_or(values, planes[:, byte], out=values)
            np.left_shift(values, 8, out=values)
        np.bitwise_or(values, planes[:, 0], out=values)


def _bits(layout: Layout) -> np.dtype:
    """The unsigned integers that have a value's bytes."""
    return np.dtype(f"<u{layout.itemsize}")
