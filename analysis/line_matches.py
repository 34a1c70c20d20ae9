"""Match the edges of chips: for the last line of each chip, find the first line that continues it best.

In: (N, channels, side) lines, in memory or on disk. Out: best matches and their correlations. Up to `MAX_EXACT` lines
every pair is compared. For more, an index proposes `CANDIDATES` lines with a similar shape for each line (k-d tree over
the lowest frequencies, by scipy), and only these are compared. Leaves what counts as a match to `duplicates`.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.fft import dct
from scipy.spatial import cKDTree
from scipy.stats import rankdata

from preprocess.console import Progress

# Comparing every pair takes 4 * N^2 * channels * side multiplications: at 50,000 chips of 256 pixels, 2 minutes.
MAX_EXACT = 50_000
CANDIDATES = 16  # on 675 real chips with 564 found neighbours all of them are among these; docs/log.md
_FREQUENCIES = 8  # of each channel
_SAMPLE = 2_000  # lines from which the best correlation by chance is estimated
_BLOCK = 1024  # lines at a time
# Two lines with at least this correlation are one line: the chips are mirrored or rotated copies, not neighbours.
SAME_LINE = 0.99


@dataclass(frozen=True, kw_only=True)
class Matches:
    """For every end its best start and their correlation; for every start its best end, -1 if it has none."""

    partner: np.ndarray
    correlation: np.ndarray
    back: np.ndarray


def spilled(shape: tuple[int, ...], folder: Path) -> np.ndarray:
    """A float32 array in a file without a name: the system frees it when the array is gone or the process ends."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(4 * int(np.prod(shape)))
        return np.memmap(file, np.float32, "r+", shape=shape)


def steps(lines: np.ndarray, folder: Path | None = None) -> np.ndarray:
    """(N, channels, side) -> (N, channels * (side - 1)): ranks of the steps from pixel to pixel, scaled to length 1.

    Ranks are used because one high step (the edge of a cloud) would make any two lines similar that have one at the
    same place. A line becomes zeros if more than half of its steps equal another step: lines in dark water, saturated
    clouds or 8-bit data have so few different steps that they match by chance. With `folder` the result is on disk.
    """
    shape = (len(lines), lines.shape[1] * (lines.shape[2] - 1))
    result = np.empty(shape, np.float32) if folder is None else spilled(shape, folder)
    for first in range(0, len(lines), _BLOCK):
        result[first : first + _BLOCK] = _steps(np.asarray(lines[first : first + _BLOCK]))
    return result


def _steps(lines: np.ndarray) -> np.ndarray:
    steps = np.diff(lines, axis=2)
    distinct = (np.diff(np.sort(steps, axis=2), axis=2) > 1e-6).sum(axis=2) + 1
    ranks = rankdata(steps, axis=2).astype(np.float32)
    ranks[(distinct < steps.shape[2] / 2).any(axis=1)] = 0
    ranks = (ranks - ranks.mean(axis=2, keepdims=True)).reshape(len(lines), -1)
    length = np.linalg.norm(ranks, axis=1, keepdims=True)
    return np.asarray(np.divide(ranks, length, out=np.zeros_like(ranks), where=length > 0))


def best_matches(ends: np.ndarray, starts: np.ndarray) -> Matches:
    """Compare every pair; a chip never matches itself.

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
    return Matches(partner=partner, correlation=correlation, back=back)


def proposed_matches(
    ends: np.ndarray, starts: np.ndarray, shapes: tuple[np.ndarray, np.ndarray], label: str
) -> Matches:
    """Compare each end with the starts that the index proposes for it.

    Args:
        ends, starts: (N, D) rows of length 1.
        shapes: of both, from `shapes_of`.
        label: of the progress.
    """
    count = len(ends)
    partner, correlation = np.zeros(count, np.int64), np.full(count, -1.0, np.float32)
    back, back_best = np.full(count, -1, np.int64), np.full(count, -1.0, np.float32)
    tree = cKDTree(shapes[1])
    with Progress(label, total=count, unit="edges") as progress:
        for first in range(0, count, _BLOCK):
            rows = np.arange(first, min(first + _BLOCK, count))
            _, others = tree.query(shapes[0][rows], k=min(CANDIDATES, count), workers=-1)
            values = np.einsum("nd,nkd->nk", ends[rows], starts[others])
            values[others == rows[:, None]] = -1
            best = values.argmax(axis=1)
            place = np.arange(len(rows))
            partner[rows], correlation[rows] = others[place, best], values[place, best]
            order = np.argsort(values, axis=None, kind="stable")  # the best value of a start is written last
            start, value, end = others.ravel()[order], values.ravel()[order], np.repeat(rows, others.shape[1])[order]
            better = value > back_best[start]
            back[start[better]], back_best[start[better]] = end[better], value[better]
            progress.update(len(rows))
    return Matches(partner=partner, correlation=correlation, back=back)


def shapes_of(lines: np.ndarray) -> np.ndarray:
    """(N, channels * 8) float32: the lowest frequencies of each channel of (N, channels, side) lines."""
    blocks = (np.asarray(lines[first : first + _BLOCK]) for first in range(0, len(lines), _BLOCK))
    return np.concatenate(
        [dct(block, axis=2, norm="ortho")[:, :, :_FREQUENCIES].reshape(len(block), -1) for block in blocks]
    )


def chance(ends: np.ndarray, starts: np.ndarray) -> np.float32:
    """The best correlation of lines that match only by chance, estimated from `_SAMPLE` ends and all starts.

    In Fisher's z the best of n pairs grows as the root of log(n), so the estimate for all pairs is scaled by that.
    """
    count = len(ends)
    rows = np.sort(np.random.Generator(np.random.Philox(key=0)).permutation(count)[:_SAMPLE])
    sample, best = np.asarray(ends[rows]), np.full(len(rows), -1.0, np.float32)
    for first in range(0, count, _BLOCK):
        block = sample @ np.asarray(starts[first : first + _BLOCK]).T
        own = np.flatnonzero((rows >= first) & (rows < first + block.shape[1]))
        block[own, rows[own] - first] = -1
        best = np.maximum(best, block.max(axis=1))
    growth = np.sqrt(2 * np.log(count) / (np.log(count) + np.log(len(rows))))
    return np.float32(np.tanh(growth * np.arctanh(best[best < SAME_LINE].max(initial=0))))
