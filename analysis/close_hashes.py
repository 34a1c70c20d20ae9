"""Find pairs of 64-bit hashes that differ in a few bits, without comparing every pair.

In: hashes. Out: pairs of rows, all of them. Two hashes that differ in at most 8 bits differ in at most 2 bits in one of
their four blocks of 16 bits. So only hashes whose blocks are that close are compared: 1 pair of 120 if hashes are
evenly spread. Leaves what the hashes are to `features`.
"""

from collections.abc import Iterator
from itertools import combinations

import numpy as np

_BLOCKS, _BITS = 4, 16
_AT_ONCE = 1 << 20  # candidates; 40 MB


def close_hashes(hashes: np.ndarray, most: int) -> np.ndarray:
    """(P, 2) rows whose hashes differ in at most `most` bits, the smaller row first, ascending."""
    found = [np.empty(0, np.int64)]
    for block in range(_BLOCKS):
        keys = (hashes >> np.uint64(block * _BITS)).astype(np.int64) & (1 << _BITS) - 1
        for one, two in _candidates(keys, most // _BLOCKS):
            close = np.bitwise_count(hashes[one] ^ hashes[two]) <= most
            one, two = one[close], two[close]
            found.append(np.minimum(one, two) * len(hashes) + np.maximum(one, two))
    pairs = np.unique(np.concatenate(found))  # a pair can be close in several blocks
    return np.stack([pairs // len(hashes), pairs % len(hashes)], axis=1) if len(pairs) else np.empty((0, 2), np.int64)


def _candidates(keys: np.ndarray, radius: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, other rows) whose keys differ in at most `radius` bits, in blocks; each pair once."""
    order = np.argsort(keys, kind="stable")
    first = np.searchsorted(keys[order], np.arange((1 << _BITS) + 1))
    flips = [bits for count in range(radius + 1) for bits in combinations(range(_BITS), count)]
    for mask in (sum(1 << bit for bit in bits) for bits in flips):
        rows = order if mask == 0 else order[keys[order] < keys[order] ^ mask]
        begin, end = first[keys[rows] ^ mask], first[(keys[rows] ^ mask) + 1]
        if mask == 0:
            begin = np.arange(len(order)) + 1  # of rows with one key, those behind this one
        yield from _products(rows, order, begin, end)


def _products(
    rows: np.ndarray, order: np.ndarray, begin: np.ndarray, end: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each of `rows` with each of order[begin:end], in blocks of about `_AT_ONCE` pairs."""
    counts = end - begin
    total = np.cumsum(counts)
    start = 0
    while start < len(rows):
        done = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, done + _AT_ONCE, side="right")))
        number = counts[start:stop]
        places = np.arange(number.sum()) + np.repeat(begin[start:stop] - (total[start:stop] - number - done), number)
        yield np.repeat(rows[start:stop], number), order[places]
        start = stop
