"""Large TIFFs in small: rasters, the windows of each by hand, and stores made of them."""

from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from helpers.chips import conversion, smooth, write_csv
from preprocess.addresses import Location
from preprocess.convert import convert
from preprocess.zarr_store import Store, open_store


def raster(seed: int, height: int, width: int, bands: int = 3, dtype: str = "uint16") -> np.ndarray:
    """(bands, height, width) of smooth values."""
    return smooth(np.random.default_rng(seed), (bands, height, width), dtype)


def write_raster(path: Path, values: np.ndarray, *, planar: bool = False, **options: Any) -> None:
    """(bands, height, width) values as a TIFF, chunky or planar."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if len(values) == 1:
        values, config = values[0], None
    else:
        values, config = (values, "separate") if planar else (np.moveaxis(values, 0, -1), "contig")
    tifffile.imwrite(path, values, photometric="minisblack", planarconfig=config, metadata=None, **options)


def corners(height: int, width: int, window: int, stride: int) -> list[tuple[int, int]]:
    """First row and column of each window that lies in a raster."""
    rows = [row for row in range(height) if row % stride == 0 and row + window <= height]
    columns = [column for column in range(width) if column % stride == 0 and column + window <= width]
    return [(row, column) for row in rows for column in columns]


def names(raster: str, places: list[tuple[int, int]]) -> list[str]:
    return [f"{raster}_r{row:05d}_c{column:05d}" for row, column in places]


def write_labels(folder: Path, windows: list[str]) -> None:
    """The tags alternate."""
    write_csv(folder / "tags.csv", [(name, "ab"[index % 2]) for index, name in enumerate(windows)])


def windows_store(folder: Location, store: Path, **settings: Any) -> Store:
    """Convert the rasters in a folder with its tags.csv."""
    convert(conversion(data=folder, labels=folder / "tags.csv", store=store, **settings))
    return open_store(store)


def cut(path: Path, places: list[tuple[int, int]], window: int, *, planar: bool = False) -> np.ndarray:
    """The windows of a file, by tifffile and numpy: (windows, bands, window, window)."""
    whole = tifffile.imread(path)
    whole = whole[None] if whole.ndim == 2 else whole if planar else np.moveaxis(whole, -1, 0)
    return np.stack([whole[:, row : row + window, column : column + window] for row, column in places])
