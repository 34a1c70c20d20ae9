"""Damage to a shard with matching checksums: a bit flip never makes it, but a faulty program could.

In: a shard's bytes. Out: the shard with a changed index entry or chunk, and its crc32c computed again.
"""

import random
import struct

import google_crc32c
import numpy as np

from preprocess.layout import Layout
from preprocess.shard import CRC_BYTES, index_bytes


def craft(rng: random.Random, data: bytes, layout: Layout) -> tuple[bytes, str]:
    """Change one index entry, or one chunk's payload."""
    return _index(rng, data, layout) if rng.random() < 0.6 else _chunk(rng, data, layout)


def _parts(data: bytes, layout: Layout) -> tuple[bytes, np.ndarray]:
    """(chunks, index): the index as (entries, 2) uint64."""
    at = len(data) - index_bytes(layout)
    return data[:at], np.frombuffer(data[at:-CRC_BYTES], "<u8").reshape(-1, 2).copy()


def _join(chunks: bytes, index: np.ndarray) -> bytes:
    table = index.tobytes()
    return chunks + table + struct.pack("<I", google_crc32c.value(table))


def _index(rng: random.Random, data: bytes, layout: Layout) -> tuple[bytes, str]:
    chunks, index = _parts(data, layout)
    row, column = rng.randrange(len(index)), rng.randrange(2)
    if rng.random() < 0.3:
        other = rng.randrange(len(index))
        index[[row, other]] = index[[other, row]]
        return _join(chunks, index), f"index entries {row} and {other} swapped"
    edges = (0, 1, 3, 4, 5, 8, len(chunks) - 1, len(chunks), len(chunks) + 1, len(data), 2**31 - 1, 2**31, 2**32)
    huge = (2**62, 2**63 - 8, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1)
    before = int(index[row, column])
    value = rng.choice(
        (*edges, *huge, (before + 1) % 2**64, max(0, before - 1), before * 2 % 2**64, rng.randrange(2**64))
    )
    index[row, column] = value
    text = f"index entry {row} {('offset', 'size')[column]} {before} -> {value}"
    if rng.random() < 0.3:
        index[row, 1 - column] = other = rng.choice((64, *edges, *huge))
        text += f", {('offset', 'size')[1 - column]} -> {other}"
    return _join(chunks, index), text


def _chunk(rng: random.Random, data: bytes, layout: Layout) -> tuple[bytes, str]:
    chunks, index = _parts(data, layout)
    changed = bytearray(chunks)
    present = index[index[:, 0] < len(chunks)].tolist()
    first, size = rng.choice(present)
    at, bit = first + rng.randrange(size - CRC_BYTES), rng.randrange(8)
    changed[at] ^= 1 << bit
    crc = google_crc32c.value(bytes(changed[first : first + size - CRC_BYTES]))
    changed[first + size - CRC_BYTES : first + size] = struct.pack("<I", crc)
    return _join(bytes(changed), index), f"bit {at}.{bit} of the chunk at {first} flipped, its crc32c recomputed"
