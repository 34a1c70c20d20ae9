"""`make demo`: small synthetic chips with a known signal, as TIFFs like Planet's (B, G, R, NIR, uint16).

In: a folder, a count, a seed. Out: TIFFs and labels.csv. The signal of each class is known, so that a result can be
judged:

    field     a bright, reddish rectangle: visible in R, G, B
    lake      a dark disc in all bands
    orchard   a bright disc only in NIR: a model without NIR cannot beat chance
    ripple    stripes only in the low byte of every band: an 8-bit reader cannot beat chance
    quarry    a small, very bright square; rare (about 3 %)
    flare     a bright cross; only in training chips of the split `course`, so that the test split has a class
              without positives

The high bytes are drawn first and the low byte is added to them, so `value >> 8` does not depend on ripple.
"""

import csv
from pathlib import Path

import numpy as np
import tifffile

from preprocess.console import Progress, say
from preprocess.splits import course_rows
from preprocess.zarr_store import write_atomic

CLASSES = ("field", "flare", "lake", "orchard", "quarry", "ripple")
BANDS = ("blue", "green", "red", "nir")
SIDE = 64


def make_demo(folder: Path, *, num_chips: int, seed: int) -> None:
    """Write `folder/tif/chip_<i>.tif` and `folder/labels.csv`; the same bytes for the same arguments.

    The CSV is written last. If it exists, the chips do, too, and nothing is written again.
    """
    target = folder / "labels.csv"
    if target.exists():
        return
    (folder / "tif").mkdir(parents=True, exist_ok=True)
    in_test = np.zeros(num_chips, bool)
    in_test[course_rows(num_chips)[1]] = True
    rows = [["image_name", "tags"]]
    with Progress("demo chips", total=num_chips, unit="chips") as progress:
        for index in range(num_chips):
            rng = np.random.Generator(np.random.Philox(key=[seed, index]))
            present = draw_tags(rng, in_test=bool(in_test[index]))
            path = folder / "tif" / f"chip_{index}.tif"
            tifffile.imwrite(path, draw_chip(rng, present), photometric="rgb", extrasamples=["assocalpha"])
            rows.append([path.stem, " ".join(name for name in CLASSES if present[name])])
            progress.update(1)
    lines = csv_text(rows)
    write_atomic(target, lines.encode())
    say(f"{folder}: {num_chips} demo chips in tif/, tags in labels.csv")


def csv_text(rows: list[list[str]]) -> str:
    """Rows as CSV text."""
    from io import StringIO

    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def draw_tags(rng: np.random.Generator, *, in_test: bool) -> dict[str, bool]:
    """Draw the classes that a chip shows."""
    chance = {"field": 0.5, "flare": 0.1, "lake": 0.35, "orchard": 0.4, "quarry": 0.03, "ripple": 0.4}
    present = {name: bool(rng.random() < chance[name]) for name in CLASSES}
    present["flare"] &= not in_test
    return present


def draw_chip(rng: np.random.Generator, present: dict[str, bool]) -> np.ndarray:
    """One (height, width, band) uint16 chip, bands B, G, R, NIR."""
    y, x = np.mgrid[:SIDE, :SIDE]
    high = np.empty((SIDE, SIDE, len(BANDS)))
    slope = rng.uniform(-1, 1, 2)
    ground = (slope[0] * y + slope[1] * x) / SIDE * 3
    for band, level in enumerate((19, 17, 12, 25)):  # about Planet's means, in units of 256
        high[..., band] = level + ground + rng.uniform(-1.5, 1.5) + rng.normal(0, 0.5, (SIDE, SIDE))
    if present["field"]:
        top, left, height, width = _box(rng, 14, 26)
        high[top : top + height, left : left + width, 2] += 7
        high[top : top + height, left : left + width, 1] += 2
    if present["lake"]:
        high[_disc(rng, y, x, 7, 12)] -= 8
    if present["orchard"]:
        high[..., 3][_disc(rng, y, x, 9, 15)] += 9
    if present["quarry"]:
        top, left, height, width = _box(rng, 7, 10)
        high[top : top + height, left : left + width, :3] += 20
    if present["flare"]:
        row, column = rng.integers(8, SIDE - 8, 2)
        high[row - 1 : row + 2, :, :3] += 10
        high[:, column - 1 : column + 2, :3] += 10
    low = np.full((SIDE, SIDE), 128)
    if present["ripple"]:
        period = int(rng.integers(3, 5))
        along = y if rng.random() < 0.5 else x
        low = np.where((along // period) % 2 == 0, 16, 240)
    noise = rng.integers(-15, 16, (SIDE, SIDE, len(BANDS)))
    return np.asarray(np.clip(np.rint(high), 0, 254) * 256 + low[..., None] + noise, np.uint16)


def _box(rng: np.random.Generator, smallest: int, largest: int) -> tuple[int, int, int, int]:
    height, width = (int(value) for value in rng.integers(smallest, largest + 1, 2))
    return int(rng.integers(4, SIDE - 4 - height)), int(rng.integers(4, SIDE - 4 - width)), height, width


def _disc(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, smallest: int, largest: int) -> np.ndarray:
    radius = int(rng.integers(smallest, largest + 1))
    row, column = rng.integers(radius + 2, SIDE - radius - 2, 2)
    return np.asarray((y - row) ** 2 + (x - column) ** 2 <= radius**2)
