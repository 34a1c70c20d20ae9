"""(seed, epoch) -> chip order; (seed, epoch, chip) -> crop and flips. Pure functions, numpy only.

Philox is counter-based: block t of the stream with key (seed, epoch) is a function of (seed, epoch, t) alone. So batch
size, threads, ranks, restarts and earlier epochs change nothing. A chip has four 64-bit words: word 0 orders the epoch,
words 1 and 2 place the crop, word 3 holds the flips. Leaves the use of these numbers to the engines.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

FLIPS = ("none", "horizontal", "both", "dihedral")
_BLOCK = 4096  # chips at a time: what is needed of their words takes 8 or 9 bytes per chip, not 32


def _blocks(seed: int, epoch: int, num_chips: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Places of chips, and their words (places, 4) uint64."""
    stream = np.random.Philox(key=np.array([seed, epoch], np.uint64))
    for first in range(0, num_chips, _BLOCK):
        count = min(_BLOCK, num_chips - first)
        yield slice(first, first + count), stream.random_raw(4 * count).reshape(count, 4)


def words(seed: int, epoch: int, num_chips: int, word: int) -> np.ndarray:
    """(num_chips,) uint64: one of the four words of each chip. Entry t depends on (seed, epoch, t) only."""
    values = np.empty(num_chips, np.uint64)
    for places, block in _blocks(seed, epoch, num_chips):
        values[places] = block[:, word]
    return values


def epoch_order(seed: int, epoch: int, chips: np.ndarray) -> np.ndarray:
    """`chips` (indices in the store) in the order of the epoch."""
    keys = words(seed, epoch, int(chips.max()) + 1, 0)[chips]
    places = np.argsort(keys)  # numpy has vector instructions for this one, not for the stable one
    ordered = keys[places]
    if (ordered[1:] == ordered[:-1]).any():  # a chip that occurs twice, or equal keys
        places = np.argsort(keys, kind="stable")
    return chips[places]


def augmentation_fields(flips: str, decode: str) -> tuple[str, ...]:
    """The fields of `Augmentation` that DALI's graph gets: those that `flips` uses (the others are always False), less
    `flip_rows` for host decode, which already writes the rows in their new order."""
    rows = ("flip_rows",) if flips in ("both", "dihedral") and decode == "device" else ()
    return ("crop_y", "crop_x", "mirror", *rows, *(("transpose",) if flips == "dihedral" else ()))


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Augmentation parameters of N chips, in the order in which they act: flip rows, transpose, crop, mirror columns.

    `crop_y`, `crop_x` are int32 pixels; the other three are bool. All (N,).
    """

    flip_rows: np.ndarray
    transpose: np.ndarray
    crop_y: np.ndarray
    crop_x: np.ndarray
    mirror: np.ndarray

    def take(self, rows: np.ndarray | slice) -> "Augmentation":
        """The parameters of some of the chips."""
        return Augmentation(**{name: values[rows] for name, values in vars(self).items()})


def joined(parameters: list[Augmentation]) -> Augmentation:
    """The parameters of all chips, in this order."""
    return Augmentation(
        **{name: np.concatenate([getattr(one, name) for one in parameters]) for name in vars(parameters[0])}
    )


def augmentation(
    seed: int, epoch: int, chips: np.ndarray, *, height: int, width: int, crop: tuple[int, int], flips: str
) -> Augmentation:
    """Crop positions and flips of chips in an epoch.

    Args:
        seed, epoch, chips: the result is a function of these; chips are indices in the store.
        height, width: of a chip, in pixels.
        crop: (height, width) of the crop, in pixels.
        flips: "none", "horizontal", "both" (rows and columns), or "dihedral" (all 8 symmetries of a
            square; for chips or crops that are not square the 4 that keep the shape).
    """
    num_chips = int(chips.max()) + 1
    square = height == width and crop[0] == crop[1]
    crop_y, crop_x, flip_bits = (np.empty(num_chips, dtype) for dtype in (np.int32, np.int32, np.uint8))
    for places, block in _blocks(seed, epoch, num_chips):
        crop_y[places] = block[:, 1] % np.uint64(height - crop[0] + 1)
        crop_x[places] = block[:, 2] % np.uint64(width - crop[1] + 1)
        flip_bits[places] = block[:, 3] & np.uint64(7)
    bits = flip_bits[chips]

    def bit(index: int, *, used: bool) -> np.ndarray:
        return np.asarray((bits >> np.uint8(index)) & np.uint8(1), bool) & used

    return Augmentation(
        transpose=bit(2, used=flips == "dihedral" and square),
        flip_rows=bit(1, used=flips in ("both", "dihedral")),
        crop_y=crop_y[chips],
        crop_x=crop_x[chips],
        mirror=bit(0, used=flips != "none"),
    )


def center(count: int, *, height: int, width: int, crop: tuple[int, int]) -> Augmentation:
    """The parameters of `count` test chips: torchvision's CenterCrop, no flips."""
    no, top, left = np.zeros(count, bool), round((height - crop[0]) / 2), round((width - crop[1]) / 2)
    return Augmentation(
        flip_rows=no, transpose=no, mirror=no,
        crop_y=np.full(count, top, np.int32), crop_x=np.full(count, left, np.int32),
    )  # fmt: skip
