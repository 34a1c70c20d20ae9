"""Folders of chips for the golden harness: seeded TIFFs and tags.csv. Knows nothing of the code under test."""

import csv
import os
from pathlib import Path

import numpy as np
import tifffile


def smooth(rng: np.random.Generator, shape: tuple[int, int, int], dtype: str) -> np.ndarray:
    """Values as smooth as a picture, with the extremes of their type."""
    if dtype == "float32":
        return (smooth(rng, shape, "int16") / np.float32(10_000)).astype(np.float32)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    ramp = np.cumsum(rng.integers(-3, 4, shape), axis=1) + int(rng.integers(high // 4, high // 2))
    values = np.clip(ramp + low // 2, low, high).astype(dtype)
    values[0, :2, 0] = (low, high)
    return values


def fix_times(folder: Path) -> None:
    """Give the TIFFs one time of change: stores record it."""
    for path in folder.glob("*.tif"):
        os.utime(path, (1_700_000_000, 1_700_000_000))


def write_folder(folder: Path, chips: list[np.ndarray], tags: list[str]) -> None:
    folder.mkdir(parents=True)
    for index, chip in enumerate(chips):
        photometric = "rgb" if chip.shape[-1] == 3 else "minisblack"
        planarconfig = 1 if chip.shape[-1] > 1 else None  # tifffile refuses one for a single band
        tifffile.imwrite(folder / f"t_{index}.tif", chip, photometric=photometric, planarconfig=planarconfig)
    fix_times(folder)
    with open(folder / "tags.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image_name", "tags"), *((f"t_{index}", tag) for index, tag in enumerate(tags))])


def random_folder(folder: Path, *, count: int, height: int, width: int, dtype: str, bands: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    chips = [smooth(rng, (height, width, bands), dtype) for _ in range(count)]
    tags = [" ".join(sorted(rng.choice(["a", "b", "c"], rng.integers(1, 4), replace=False))) for _ in range(count)]
    write_folder(folder, chips, tags)


def faulty_folder(folder: Path) -> None:
    """Chips with a fault of each kind that the audit looks for."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(5)
    wide = [gaussian_filter(rng.normal(size=(48, 96, 4)), (1.5, 1.5, 0)) for _ in range(20)]
    values = [np.clip(5000 + 30_000 * each, 100, 60_000).astype(np.uint16) for each in wide]
    chips = [half for each in values for half in (each[:, :48], each[:, 48:])]  # pairs of neighbours
    chips[7], chips[21] = chips[2].copy(), chips[3] + np.uint16(3)  # a duplicate, a near duplicate
    chips[9] = np.full_like(chips[9], 5000)
    chips[11][:8, :8] = 65535
    chips[13][-10:] = 0
    chips[15] = chips[15] // 40
    tags = [f"{('clear', 'cloudy')[index % 2]} {('road', 'water')[index // 2 % 2]}" for index in range(len(chips))]
    tags[17], tags[18], tags[19] = "clear cloudy", "road", "clear road road"
    write_folder(folder, chips, tags)
