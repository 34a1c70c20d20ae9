"""Byte ranges of shards, merged where they nearly touch: one request in place of many small ones.

In: ranges in the order of their use. Out: `Pieces`, in the order of their first use. Leaves reading to `shards`.
"""

from typing import NamedTuple

import numpy as np

SHARD_BITS = 40  # a shard has at most 2**40 bytes


class Pieces(NamedTuple):
    """Merged ranges: shards, starts, ends (M,) int64; and `piece_of` (N,), the piece that contains each range."""

    shards: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    piece_of: np.ndarray


def merge(shards: np.ndarray, starts: np.ndarray, ends: np.ndarray, gap: int) -> Pieces:
    """Merge ranges (N,) int64, N >= 1, of the same shard that overlap, or have at most `gap` bytes between them."""
    base = shards << SHARD_BITS
    order = np.argsort(base + starts, kind="stable")
    begin, end = (base + starts)[order], np.maximum.accumulate((base + ends)[order])
    apart = (begin[1:] > end[:-1] + gap) | (shards[order][1:] != shards[order][:-1])
    first = np.flatnonzero(np.concatenate([[True], apart]))
    last = np.append(first[1:], len(order)) - 1
    by_use = np.argsort(np.minimum.reduceat(order, first))
    place = np.empty(len(first), np.int64)
    place[by_use] = np.arange(len(first))
    piece_of = np.empty(len(order), np.int64)
    piece_of[order] = place[np.concatenate([[0], np.cumsum(apart)])]
    first, last = first[by_use], last[by_use]
    return Pieces(
        shards[order[first]], starts[order[first]], end[last] - (shards[order[first]] << SHARD_BITS), piece_of
    )
