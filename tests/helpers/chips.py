"""Small TIFFs with a CSV, made of random values, and stores made from them."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from preprocess.commands import ConversionSettings
from preprocess.convert import convert
from preprocess.zarr_store import Store, open_store

BANDS = ("blue", "green", "red", "nir")
DTYPES = ("uint8", "uint16", "int16", "float32")


@dataclass(frozen=True)
class Chips:
    """A folder of TIFFs with its CSV, and the values that were written: (chips, bands, height, width)."""

    folder: Path
    csv: Path
    values: np.ndarray
    tags: list[str]


def smooth(rng: np.random.Generator, shape: tuple[int, int, int], dtype: str) -> np.ndarray:
    """Values as smooth as a photo, so that LZ4 can compress them; they include the extremes of the dtype."""
    if dtype == "float32":  # reflectances
        values = (smooth(rng, shape, "int16") / np.float32(10_000)).astype(np.float32)
        values[0, 0, 2:] -= np.float32(1e-7)
        return values
    bottom, top = np.iinfo(dtype).min, np.iinfo(dtype).max
    ramp = np.cumsum(rng.integers(-3, 4, shape), axis=-1) + int(rng.integers(top // 4, top // 2))
    values = np.clip(ramp + bottom // 2, bottom, top).astype(dtype)
    values[0, 0, :2] = (bottom, top)
    return values


def write_chips(
    folder: Path, *, count: int = 12, bands: int = 4, height: int = 16, width: int = 16, dtype: str = "uint16",
    seed: int = 0,
) -> Chips:  # fmt: skip
    """`count` chips of random smooth values with tags a, b, c."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    values = np.stack([smooth(rng, (bands, height, width), dtype) for _ in range(count)])
    tags = [" ".join(sorted(rng.choice(["a", "b", "c"], size=rng.integers(1, 4), replace=False))) for _ in range(count)]
    for index, chip in enumerate(values):
        tifffile.imwrite(
            folder / f"t_{index}.tif",
            np.moveaxis(chip, 0, -1),
            photometric="rgb" if bands == 3 else "minisblack",  # three bands are RGB only if the file says so
            planarconfig=1 if bands > 1 else None,
        )
    write_csv(folder / "tags.csv", [(f"t_{index}", tag) for index, tag in enumerate(tags)])
    return Chips(folder, folder / "tags.csv", values, tags)


def write_csv(path: Path, rows: list[tuple[str, str]], header: tuple[str, str] = ("image_name", "tags")) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def conversion(**settings: Any) -> ConversionSettings:
    """Settings of a conversion in this process, unless a test sets JOBS."""
    return ConversionSettings(**{"jobs": 1, **settings})


def to_store(chips: Chips, store: Path, **settings: object) -> Store:
    """Convert and open."""
    bands = BANDS if chips.values.shape[1] == 4 else None
    convert(conversion(data=chips.folder, labels=chips.csv, store=store, **{"bands": bands, **settings}))
    return open_store(store)
