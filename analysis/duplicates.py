"""Find chips that must stay in one split: exact duplicates, near duplicates, neighbours in one scene.

In: a store and its `Features`. Out: pairs of chips, and groups of them. A model that was trained on one chip of a pair
knows something about the other.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from analysis.close_hashes import close_hashes
from analysis.features import Features
from analysis.line_matches import (
    MAX_EXACT,
    SAME_LINE,
    Matches,
    best_matches,
    chance,
    proposed_matches,
    shapes_of,
    steps,
)
from preprocess.remote_files import write_file
from preprocess.splits import groups_path
from preprocess.zarr_store import Store, write_atomic

# Of 64 bits. Different images differ in about 32; JPEG of quality 50, or noise of a tenth of the contrast, flips 0 to
# 4.
MAX_HAMMING = 8
# Root mean square difference of the thumbnails, as a share of their contrast.
MAX_DIFFERENCE = 0.15
_AT_ONCE = 1 << 20  # values of thumbnails; 4 MiB
# Smallest rank correlation of two lines' steps from pixel to pixel; `neighbours` has the other conditions.
MIN_CORRELATION = 0.5
# Factor above the best correlation by chance, in Fisher's z. z is about normal, and the best of n^2 pairs lies 4 (n =
# 90) to 6 (n = 40,000) deviations out; beyond 1.3 times that, fewer than 0.002 pairs are expected by chance.
CHANCE_MARGIN = 1.3


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """(P, 2) chip indices, the smaller first, ascending; `how`: one reason per pair."""

    chips: np.ndarray
    how: list[str]


def exact_duplicates(store: Store) -> Pairs:
    """Pairs of chips with equal 64-bit checksums of their pixels; each chip is paired with the first equal one."""
    _, first, inverse = np.unique(store.checksum, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse] != np.arange(store.num_chips))
    return _pairs([(int(first[inverse[chip]]), int(chip), "same pixels") for chip in again])


def trained_twins(pairs: Pairs, trained: np.ndarray) -> Pairs:
    """Pair each untrained chip with the first equal chip that is `trained` (N,).

    `pairs` come from `exact_duplicates`, which pairs each copy only with the first one. If A, B and C are equal and C
    is trained, the result is (A, C) and (B, C), although (B, C) is not in `pairs`.
    """
    found = []
    for group in groups(len(trained), pairs):
        known = [chip for chip in group if trained[chip]]
        found += [
            (min(chip, known[0]), max(chip, known[0]), "same pixels") for chip in group if known and not trained[chip]
        ]
    return _pairs(found)


def near_duplicates(store: Store, features: Features) -> Pairs:
    """Pairs with close hashes whose thumbnails differ by a small share of their contrast; exact duplicates are
    excluded.

    A chip without contrast equals any other such chip; `pixel_checks` reports these as constant.
    """
    checksum = store.checksum  # read once: there can be more pairs than chips
    usable = np.flatnonzero((features.low < features.high).any(axis=1))
    rows = close_hashes(features.hash[usable], MAX_HAMMING)
    pairs = usable[rows]
    pairs = pairs[checksum[pairs[:, 0]] != checksum[pairs[:, 1]]]
    count = max(1, _AT_ONCE // features.thumbnail[0].size)
    blocks = (pairs[first : first + count] for first in range(0, len(pairs), count))
    alike = [block[_look_alike(*features.thumbnail[block.T])] for block in blocks]
    return _pairs([(one, two, "nearly the same") for block in alike for one, two in block.tolist()])


def _look_alike(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(P,) bool: whether two of (P, bands, height, width) thumbnails differ by a small share of their contrast."""
    contrast = np.sqrt((_variance(a) + _variance(b)) / 2)
    return np.asarray(np.sqrt(((a - b) ** 2).reshape(len(a), -1).mean(axis=1)) <= MAX_DIFFERENCE * contrast)


def _variance(thumbnails: np.ndarray) -> np.ndarray:
    return np.asarray(thumbnails.var(axis=(2, 3)).mean(axis=1))


def neighbours(features: Features) -> tuple[Pairs, float]:
    """Pairs whose edges continue each other, left to right or top to bottom, and the required correlation.

    Two lines match if each is the other's best match among all chips, their levels are equal, and their steps from
    pixel to pixel correlate clearly more than those of any pair of lines with one reversed. Reversed pairs match only
    by chance, so they show how much correlation chance gives in this store. (Small chips have short lines, and chance
    gives more.) Equal reversed lines are excluded: they belong to a chip and its copy rotated by 180 degrees. A chip
    and its mirrored copy share a whole edge and are among the pairs.

    Of more than `MAX_EXACT` chips, only lines of similar shape are compared, see `line_matches`.
    """
    found: list[tuple[int, int, str]] = []
    needed = 0.0
    for first, second, how in ((1, 0, "left to right"), (3, 2, "top to bottom")):
        ends, starts = features.edges[:, first], features.edges[:, second]
        valid = ~np.isnan(ends[0, 0])
        ends, starts = ends[..., : valid.sum()], starts[..., : valid.sum()]  # NaN comes last
        matches, level = _matches(ends, starts, features.folder, how)
        threshold = max(MIN_CORRELATION, float(np.tanh(CHANCE_MARGIN * np.arctanh(level))))
        needed = max(needed, threshold)
        for one in np.flatnonzero(matches.correlation > threshold).tolist():
            two = int(matches.partner[one])
            if matches.back[two] == one and _same_level(ends[one, 0], starts[two, 0]):
                same = matches.correlation[one] >= SAME_LINE
                found.append((min(one, two), max(one, two), "the same edge: mirrored or overlapping" if same else how))
    return _pairs(found), needed


def _matches(ends: np.ndarray, starts: np.ndarray, folder: Path, how: str) -> tuple[Matches, np.float32]:
    """Match (N, channels, side) lines. Also returns the best correlation between a line and a reversed one, which is
    the level of chance."""
    if len(ends) <= MAX_EXACT:
        last = steps(ends)
        by_chance = best_matches(last, steps(starts[..., ::-1])).correlation
        return best_matches(last, steps(starts)), by_chance[by_chance < SAME_LINE].max(initial=0)
    last = steps(ends, folder)
    level = chance(last, steps(starts[..., ::-1], folder))
    shapes = (shapes_of(ends), shapes_of(starts))
    return proposed_matches(last, steps(starts, folder), shapes, f"audit: neighbours, {how}"), level


def _same_level(end: np.ndarray, start: np.ndarray) -> bool:
    """Whether the lines differ less from each other than each varies along its length."""
    return bool(
        np.abs(end - start).mean() < (np.abs(end - end.mean()).mean() + np.abs(start - start.mean()).mean()) / 2
    )


def _pairs(matches: list[tuple[int, int, str]]) -> Pairs:
    """Each pair once, with all its reasons."""
    reasons: dict[tuple[int, int], list[str]] = {}
    for one, two, how in sorted(set(matches)):
        reasons.setdefault((one, two), []).append(how)
    chips = np.array(list(reasons), np.int64).reshape(-1, 2)
    return Pairs(chips=chips, how=[", ".join(hows) for hows in reasons.values()])


def groups(num_chips: int, *pairs: Pairs) -> list[list[int]]:
    """Chips connected by pairs, directly or through others; groups of two or more, ascending."""
    chips = np.concatenate([kind.chips for kind in pairs])
    links = coo_array((np.ones(len(chips)), (chips[:, 0], chips[:, 1])), shape=(num_chips, num_chips))
    _, label = connected_components(links, directed=False)
    order = np.argsort(label, kind="stable")
    pieces = np.split(order, np.flatnonzero(np.diff(label[order])) + 1)
    return sorted(piece.tolist() for piece in pieces if len(piece) > 1)


def write_groups(store: Store, chip_groups: list[list[int]]) -> None:
    """Write the groups beside the store, where SPLIT=blocked reads them."""
    text = json.dumps({"fingerprint": store.fingerprint, "groups": chip_groups})
    path = groups_path(store.place)
    if isinstance(path, Path):
        write_atomic(path, text.encode())
    else:
        write_file(path, text.encode())
