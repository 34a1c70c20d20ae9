"""How a chunk's bytes are stored: one object per CODEC.

A chunk holds some rows of one band of one chip. A `Codec` gathers everything that depends on how its bytes are stored:
the codecs that Zarr readers apply, the encoder, the reference decoder, the number that the compiled kernels switch on,
and whether a GPU can decode it.

In: decoded chunks. Out: payloads; and back. Leaves the crc32c behind each payload, and the byte shuffle, to
`shard_writer` and `shard`.

To add a codec: write a class here, add it to CODECS, and write branches for its kernel kinds in `pipeline.kernels` and
`pipeline.augment`.

Imports no zarr, numcodecs or numba at the top: worker processes load this file, and each of the three would take 0.1 to
0.3 s of their start.
"""

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

LZ4_HEADER_BYTES = 4  # numcodecs' LZ4 stores the decoded length in front of the block

# Kernel kinds: codec and dtype of a chunk in one number. numba compiles them into the kernels and does not notice a
# change here: give a new kind a new number, and never renumber.
LZ4_UINT16, LZ4_UINT8, LZ4_INT16, LZ4_FLOAT32 = range(4)
NONE_UINT16, NONE_UINT8, NONE_INT16, NONE_FLOAT32 = range(4, 8)

# (chunks, out, sizes, gap): see `Codec.encoder`.
EncodeChunks = Callable[[np.ndarray, np.ndarray, np.ndarray, int], None]


class Codec(ABC):
    """One way to store a chunk.

    name: as in CODEC=... and in the store's layout.
    shuffles: values of several bytes are stored as planes of bytes: all lowest bytes first, all highest last. The
        caller does this for a whole chip at once, because that is ten times as fast.
    inflates: chunks are compressed, and DALI's `decoders.inflate` can decompress them on a GPU.
    kernel_kinds: dtype -> the number that the compiled kernels switch on.
    """

    name: str
    shuffles: bool
    inflates: bool
    kernel_kinds: ClassVar[Mapping[str, int]]

    @abstractmethod
    def zarr_codecs(self, itemsize: int) -> list[Any]:
        """The bytes-to-bytes codecs of the Zarr array in front of its crc32c, for values of `itemsize` bytes."""

    @abstractmethod
    def max_bytes(self, chunk_bytes: int) -> int:
        """The size limit in bytes of the payload of a chunk of `chunk_bytes`."""

    @abstractmethod
    def encoder(self) -> EncodeChunks:
        """A function that encodes chunks.

        Its arguments:
            chunks: (N, chunk_bytes) uint8, C-contiguous.
            out: uint8, at least N * (`max_bytes` + gap); the payloads are written one after another.
            sizes: (N,) int64, written: bytes of each payload.
            gap: bytes left free behind each payload.
        """

    @abstractmethod
    def decode(self, payload: np.ndarray, out: np.ndarray) -> None:
        """Decode a payload into `out` (chunk_bytes,) uint8. This is the reference for the compiled kernels.

        Raises:
            ValueError, RuntimeError: the payload is damaged or has another size.
        """


def lz4_block_limit(num_bytes: int) -> int:
    """The size limit in bytes of an LZ4 block that holds `num_bytes`, from LZ4's definition."""
    return num_bytes + num_bytes // 255 + 16


class Lz4(Codec):
    """Byte shuffle (for values of several bytes), then LZ4 with the decoded length in front, as numcodecs stores it."""

    name, shuffles, inflates = "lz4", True, True
    kernel_kinds: ClassVar = {"uint16": LZ4_UINT16, "uint8": LZ4_UINT8, "int16": LZ4_INT16, "float32": LZ4_FLOAT32}

    def zarr_codecs(self, itemsize: int) -> list[Any]:
        """Shuffle and LZ4 of numcodecs."""
        from zarr.codecs.numcodecs import LZ4, Shuffle

        return [*([Shuffle(elementsize=itemsize)] if itemsize > 1 else []), LZ4(acceleration=1)]

    def max_bytes(self, chunk_bytes: int) -> int:
        """The limit of a block, and the length."""
        return LZ4_HEADER_BYTES + lz4_block_limit(chunk_bytes)

    def encoder(self) -> EncodeChunks:
        """See `preprocess.lz4`. Its compiled code is loaded here, so only a process that encodes waits for it."""
        from preprocess import lz4

        def encode(chunks: np.ndarray, out: np.ndarray, sizes: np.ndarray, gap: int) -> None:
            table = lz4.make_table(chunks.shape[1])
            lz4.encode_blocks(chunks, out, sizes, table, LZ4_HEADER_BYTES, gap)
            sizes += LZ4_HEADER_BYTES
            start, data = 0, memoryview(out.data)
            for size in sizes.tolist():
                struct.pack_into("<I", data, start, chunks.shape[1])
                start += size + gap

        return encode

    def decode(self, payload: np.ndarray, out: np.ndarray) -> None:
        """With numcodecs, after a check of the stated length."""
        import numcodecs.lz4

        _check_size(int.from_bytes(payload[:LZ4_HEADER_BYTES].tobytes(), "little"), out)
        numcodecs.lz4.decompress(payload, out)


class Uncompressed(Codec):
    """The values, little-endian."""

    name, shuffles, inflates = "none", False, False
    kernel_kinds: ClassVar = {"uint16": NONE_UINT16, "uint8": NONE_UINT8, "int16": NONE_INT16, "float32": NONE_FLOAT32}

    def zarr_codecs(self, itemsize: int) -> list[Any]:
        """No codec."""
        return []

    def max_bytes(self, chunk_bytes: int) -> int:
        """The chunk itself."""
        return chunk_bytes

    def encoder(self) -> EncodeChunks:
        """A copy."""

        def encode(chunks: np.ndarray, out: np.ndarray, sizes: np.ndarray, gap: int) -> None:
            count, chunk_bytes = chunks.shape
            out[: count * (chunk_bytes + gap)].reshape(count, -1)[:, :chunk_bytes] = chunks
            sizes[:] = chunk_bytes

        return encode

    def decode(self, payload: np.ndarray, out: np.ndarray) -> None:
        """A copy, after a check of the size."""
        _check_size(len(payload), out)
        out[:] = payload


def _check_size(size: int, out: np.ndarray) -> None:
    if size != len(out):
        raise ValueError(f"expected {len(out)} decoded bytes, found {size}")


CODECS: dict[str, Codec] = {codec.name: codec for codec in (Lz4(), Uncompressed())}
