"""Made-up labels and scores of a split, and the resamples of the bootstrap."""

import numpy as np

from analysis import bootstrap


def scores(seed: int = 0, *, count: int = 600, ties: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(labels, logits, probabilities) of 6 classes. The last class has no positive, the fifth has two."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, 6)) < [0.6, 0.3, 0.1, 0.05, 0, 0]).astype(np.uint8)
    labels[[3, count - 1], 4] = 1
    logits = rng.normal(size=(count, 6)) * 3 + 2 * labels - 1
    if ties:
        logits = np.round(logits)
    return labels, logits, 1 / (1 + np.exp(-logits))


def resamples(num_chips: int, num_resamples: int, seed: int = 0) -> np.ndarray:
    """(resamples, chips) counts."""
    blocks = list(bootstrap.count_blocks(num_chips, num_resamples, seed))
    rows = [
        counts[group, :, lane] for counts in blocks for group in range(len(counts)) for lane in range(bootstrap.LANES)
    ]
    assert not any(row.any() for row in rows[num_resamples:])
    return np.array(rows[:num_resamples], int)
