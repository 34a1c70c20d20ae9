"""Chips that belong together: the same pixels, nearly the same picture, or side by side in one scene.

In: a store and its `Features`. Out: pairs of chip numbers, and groups that a split must not divide. A model that has
seen one of them in training knows something of the other.
"""

import json
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import rankdata

from analysis.features import Features
from preprocess.splits import groups_path
from preprocess.zarr_store import Store, write_atomic

# Of 64 bits. Unlike pictures differ in about 32; a JPEG of quality 50 or noise of a tenth of the contrast moves 0 to 4.
MAX_HAMMING = 8
# Root mean square difference of the thumbnails, as a share of their own contrast.
MAX_DIFFERENCE = 0.15
# Rank correlation of two lines' steps from pixel to pixel, at least; see `neighbours` for what else is asked.
MIN_CORRELATION = 0.5
# How much further than chance's best, in Fisher's z. z is about normal, and the best of n^2 pairs lies 4 (n = 90) to 6
# (n = 40,000) deviations out: at 1.3 times that, less than 0.002 pairs are expected by chance.
CHANCE_MARGIN = 1.3
# At this correlation and above two lines are one line: of a chip and its mirrored or turned copy, not of two places.
SAME_LINE = 0.99
_BLOCK = 1024  # rows of the correlation matrix at a time


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """(P, 2) chip numbers, the smaller first, ascending; `how` a word a pair."""

    chips: np.ndarray
    how: list[str]


def exact_duplicates(store: Store) -> Pairs:
    """Pairs of chips with the same pixels, by their 64-bit checksums; each with the first of its kind."""
    _, first, inverse = np.unique(store.checksum, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse] != np.arange(store.num_chips))
    return _pairs([(int(first[inverse[chip]]), int(chip), "same pixels") for chip in again])


def learnt_twins(pairs: Pairs, learnt: np.ndarray) -> Pairs:
    """Each chip that is the same as one that is `learnt` (N,) and not learnt itself, with the first such one.

    Of pairs that name each copy with the first of its kind only, as `exact_duplicates` does: A, B and C are the same,
    and C is learnt, makes two, though (B, C) is no pair.
    """
    found = []
    for group in groups(len(learnt), pairs):
        known = [chip for chip in group if learnt[chip]]
        found += [
            (min(chip, known[0]), max(chip, known[0]), "same pixels") for chip in group if known and not learnt[chip]
        ]
    return _pairs(found)


def near_duplicates(store: Store, features: Features) -> Pairs:
    """Pairs whose hashes are close and whose thumbnails differ by little of their contrast; exact ones left out.

    A chip without contrast looks like any other of its kind: it is left to `constant`.
    """
    checksum = store.checksum  # a read; there are as many pairs as chips and more
    usable = np.flatnonzero((features.low < features.high).any(axis=1))
    rows = _close_hashes(features.hash[usable], MAX_HAMMING)
    found = []
    for one, two in usable[rows].tolist():
        if checksum[one] == checksum[two]:
            continue
        a, b = features.thumbnail[one], features.thumbnail[two]
        contrast = np.sqrt((a.var(axis=(1, 2)).mean() + b.var(axis=(1, 2)).mean()) / 2)
        if np.sqrt(((a - b) ** 2).mean()) <= MAX_DIFFERENCE * contrast:
            found.append((one, two, "nearly the same"))
    return _pairs(found)


def _close_hashes(hashes: np.ndarray, most: int) -> np.ndarray:
    """(P, 2) rows whose hashes differ in at most `most` bits, the smaller row first. Every pair is looked at."""
    found = [np.empty((0, 2), np.int64)]
    for one in range(len(hashes) - 1):
        twins = np.flatnonzero(np.bitwise_count(hashes[one + 1 :] ^ hashes[one]) <= most) + one + 1
        if len(twins):
            found.append(np.stack([np.full(len(twins), one), twins], axis=1))
    return np.concatenate(found)


def neighbours(features: Features) -> tuple[Pairs, float]:
    """Pairs whose edges continue each other, left to right or top to bottom, and the correlation that was asked for.

    Two lines match if each is the other's best match of all chips, at the same level, and their steps from pixel to
    pixel correlate clearly more than those of any pair of lines of which one is reversed: such pairs match by chance,
    so the store itself says how much chance can do. (Small chips have short lines, and chance does more.) Reversed
    lines that are the same are no chance but a chip and its copy turned by 180 degrees, and say nothing of it. A chip
    and its mirrored copy have a whole edge in common and are among the pairs.
    """
    found: list[tuple[int, int, str]] = []
    needed = 0.0
    for first, second, how in ((1, 0, "left to right"), (3, 2, "top to bottom")):
        ends, starts = features.edges[:, first], features.edges[:, second]
        kept = ~np.isnan(ends[0, 0])
        ends, starts = ends[..., kept], starts[..., kept]
        reversed_best = _best_matches(_steps(ends), _steps(starts[..., ::-1]))[1]
        chance = reversed_best[reversed_best < SAME_LINE].max(initial=0)
        threshold = max(MIN_CORRELATION, float(np.tanh(CHANCE_MARGIN * np.arctanh(chance))))
        needed = max(needed, threshold)
        partner, correlation, back = _best_matches(_steps(ends), _steps(starts))
        for one in np.flatnonzero(correlation > threshold).tolist():
            two = int(partner[one])
            if back[two] == one and _same_level(ends[one, 0], starts[two, 0]):
                same = correlation[one] >= SAME_LINE
                found.append(
                    (min(one, two), max(one, two), "the same edge: mirrored, or they overlap" if same else how)
                )
    return _pairs(found), needed


def _steps(lines: np.ndarray) -> np.ndarray:
    """(N, channels, side) -> (N, channels * (side - 1)): ranks of the steps from pixel to pixel, scaled to length 1.

    Ranks, since one tall step (a cloud's edge) would make any two lines alike that have one at the same place. Zeros
    for lines of which more than half the steps are equal to another: those of dark water, of saturated cloud or of 8
    bits have so few different steps that chance makes them the same.
    """
    steps = np.diff(lines, axis=2)
    distinct = (np.diff(np.sort(steps, axis=2), axis=2) > 1e-6).sum(axis=2) + 1
    ranks = rankdata(steps, axis=2).astype(np.float32)
    ranks[(distinct < steps.shape[2] / 2).any(axis=1)] = 0
    ranks = (ranks - ranks.mean(axis=2, keepdims=True)).reshape(len(lines), -1)
    length = np.linalg.norm(ranks, axis=1, keepdims=True)
    return np.asarray(np.divide(ranks, length, out=np.zeros_like(ranks), where=length > 0))


def _best_matches(ends: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every end the best start and its correlation, for every start the best end; never a chip with itself.

    Args:
        ends, starts: (N, D) rows of length 1.
    """
    count = len(ends)
    partner, correlation = np.zeros(count, np.int64), np.full(count, -1.0, np.float32)
    back, back_best = np.zeros(count, np.int64), np.full(count, -1.0, np.float32)
    for first in range(0, count, _BLOCK):
        block = ends[first : first + _BLOCK] @ starts.T
        rows = np.arange(len(block))
        block[rows, first + rows] = -1
        partner[first + rows] = best = block.argmax(axis=1)
        correlation[first + rows] = block[rows, best]
        column_best = block.argmax(axis=0)
        values = block[column_best, np.arange(count)]
        better = values > back_best
        back[better], back_best[better] = first + column_best[better], values[better]
    return partner, correlation, back


def _same_level(end: np.ndarray, start: np.ndarray) -> bool:
    """The lines lie nearer to each other than each varies along itself."""
    return bool(
        np.abs(end - start).mean() < (np.abs(end - end.mean()).mean() + np.abs(start - start.mean()).mean()) / 2
    )


def _pairs(found: list[tuple[int, int, str]]) -> Pairs:
    """Each pair once, with all that was said of it."""
    said: dict[tuple[int, int], list[str]] = {}
    for one, two, how in sorted(set(found)):
        said.setdefault((one, two), []).append(how)
    return Pairs(chips=np.array(list(said), np.int64).reshape(-1, 2), how=[", ".join(hows) for hows in said.values()])


def groups(num_chips: int, *pairs: Pairs) -> list[list[int]]:
    """Chips that are joined by any pair, directly or through others; groups of two and more, ascending."""
    chips = np.concatenate([found.chips for found in pairs])
    links = coo_array((np.ones(len(chips)), (chips[:, 0], chips[:, 1])), shape=(num_chips, num_chips))
    _, label = connected_components(links, directed=False)
    order = np.argsort(label, kind="stable")
    pieces = np.split(order, np.flatnonzero(np.diff(label[order])) + 1)
    return sorted(piece.tolist() for piece in pieces if len(piece) > 1)


def write_groups(store: Store, found: list[list[int]]) -> None:
    """Keep the groups beside the store, where SPLIT=blocked looks for them."""
    text = json.dumps({"fingerprint": store.fingerprint, "groups": found})
    write_atomic(groups_path(store.local_path), text.encode())
