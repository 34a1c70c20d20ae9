"""(seed, epoch) -> chip order; (seed, epoch, chip) -> crop and flips. Pure functions, numpy only.

Philox is counter-based: block t of the stream keyed (seed, epoch) is a function of (seed, epoch, t) alone.
So batch size, threads, ranks, restarts and earlier epochs change nothing. Four 64-bit words a chip: 0 orders
the epoch, 1 and 2 place the crop, 3 holds the flips. Leaves applying them to `graph`.
"""

from dataclasses import dataclass

import numpy as np

FLIPS = ("none", "horizontal", "both", "dihedral")


_BLOCK = 4096  # chips that are drawn at a time: memory holds the one word of each that is wanted


def words(seed: int, epoch: int, num_chips: int, word: int) -> np.ndarray:
    """(num_chips,) uint64, one of a chip's four words; entry t depends on (seed, epoch, t) only."""
    stream = np.random.Philox(key=np.array([seed, epoch], np.uint64))
    found = np.empty(num_chips, np.uint64)
    for first in range(0, num_chips, _BLOCK):
        count = min(_BLOCK, num_chips - first)
        found[first : first + count] = stream.random_raw(4 * count)[word::4]
    return found


def epoch_order(seed: int, epoch: int, chips: np.ndarray) -> np.ndarray:
    """`chips` (indices in the store) in the epoch's order."""
    keys = words(seed, epoch, int(chips.max()) + 1, 0)[chips]
    return chips[np.argsort(keys, kind="stable")]


def draws_used(flips: str, decode: str) -> tuple[str, ...]:
    """Fields of `Augmentation` that the graph is given: those that a choice of flips makes use of (the others are
    always False), less `flip_rows` where host decode writes the rows in their new order already."""
    rows = ("flip_rows",) if flips in ("both", "dihedral") and decode == "device" else ()
    return ("crop_y", "crop_x", "mirror", *rows, *(("transpose",) if flips == "dihedral" else ()))


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What happens to each of N chips, in this order: flip rows, transpose, crop, mirror columns.

    `crop_y`, `crop_x` are int32 pixels; the other three are bool. All (N,).
    """

    flip_rows: np.ndarray
    transpose: np.ndarray
    crop_y: np.ndarray
    crop_x: np.ndarray
    mirror: np.ndarray

    def take(self, rows: np.ndarray | slice) -> "Augmentation":
        """The same of some of the chips."""
        return Augmentation(**{name: values[rows] for name, values in vars(self).items()})


def augmentation(
    seed: int, epoch: int, chips: np.ndarray, *, height: int, width: int, crop: tuple[int, int], flips: str
) -> Augmentation:
    """Draw crop positions and flips.

    Args:
        seed, epoch, chips: what they are a function of; chips are indices in the store.
        height, width: of a chip, in pixels.
        crop: (height, width) of the crop, in pixels.
        flips: "none", "horizontal", "both" (rows and columns), or "dihedral" (all 8 symmetries of a
            square; on chips or crops that are not square the 4 that keep the shape).
    """
    num_chips = int(chips.max()) + 1
    square = height == width and crop[0] == crop[1]
    bits = words(seed, epoch, num_chips, 3)[chips].astype(np.uint8)  # the lowest three are used

    def bit(index: int, *, wanted: bool) -> np.ndarray:
        return np.asarray((bits >> np.uint8(index)) & np.uint8(1), bool) & wanted

    def position(word: int, room: int) -> np.ndarray:
        return np.asarray(words(seed, epoch, num_chips, word)[chips] % np.uint64(room + 1), np.int32)

    return Augmentation(
        transpose=bit(2, wanted=flips == "dihedral" and square),
        flip_rows=bit(1, wanted=flips in ("both", "dihedral")),
        crop_y=position(1, height - crop[0]),
        crop_x=position(2, width - crop[1]),
        mirror=bit(0, wanted=flips != "none"),
    )


def center(count: int, *, height: int, width: int, crop: tuple[int, int]) -> Augmentation:
    """What happens to `count` test chips: torchvision's CenterCrop, nothing flipped."""
    no, top, left = np.zeros(count, bool), round((height - crop[0]) / 2), round((width - crop[1]) / 2)
    position = np.ones(count, np.int32)
    return Augmentation(
        flip_rows=no, transpose=no, crop_y=np.int32(top) * position, crop_x=np.int32(left) * position, mirror=no
    )
