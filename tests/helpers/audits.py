"""Chips as smooth as photos, stores of such chips, and audits of these stores."""

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from scipy.ndimage import gaussian_filter

from analysis.audit import audit
from analysis.findings import Finding
from helpers.chips import conversion, write_csv
from preprocess.convert import convert
from preprocess.zarr_store import Store, open_store

SIDE = 64


def texture(rng: np.random.Generator, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """(height, width, 4) uint16, as smooth as a photo, with correlated bands."""
    common = gaussian_filter(rng.normal(size=(height, width)), 1.5)
    per_band = gaussian_filter(rng.normal(size=(height, width, 4)), (1.5, 1.5, 0))
    return np.clip(5000 + 3000 * common[..., None] + 1500 * per_band, 100, 60000).astype(np.uint16)


def store_of(folder: Path, chips: list[np.ndarray]) -> Store:
    """A store of (height, width, 4) chips t_0, t_1, ..."""
    (folder / "tif").mkdir()
    for index, chip in enumerate(chips):
        tifffile.imwrite(folder / f"tif/t_{index}.tif", chip, photometric="minisblack", planarconfig=1)
    write_csv(folder / "tags.csv", [(f"t_{index}", "ab"[index % 2]) for index in range(len(chips))])
    convert(conversion(data=folder / "tif", labels=folder / "tags.csv", store=folder / "chips.zarr",
                    bands=("blue", "green", "red", "nir")))  # fmt: skip
    return open_store(folder / "chips.zarr")


def findings_of(store: Store, **changes: Any) -> dict[str, Finding]:
    """The findings of an audit by their titles."""
    settings = {"labels": None, "jpeg": None, "run_path": None, "split_rule": None, "exclusive": None, **changes}
    return {finding.title: finding for finding in audit(store.path, **settings)}
