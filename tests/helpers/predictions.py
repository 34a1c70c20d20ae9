"""Files that `make predict` reads and writes."""

import csv
from pathlib import Path

import numpy as np
import tifffile


def read(path: Path) -> dict[str, list[float]]:
    """The scores of the classes a, b and c, by name."""
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image_name", "a", "b", "c"]
    return {row[0]: [float(cell) for cell in row[1:]] for row in rows[1:]}


def write_tiff(path: Path, values: np.ndarray) -> None:
    """(height, width, bands) values as a chunky TIFF."""
    tifffile.imwrite(path, values, photometric="minisblack", planarconfig=1)
