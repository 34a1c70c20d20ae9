"""Every dtype, kind of file and codec: chips that another library writes and reads, and their store."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from helpers.chips import BANDS, DTYPES, conversion, smooth, write_csv
from helpers.pictures import colours, encoded, write_bands
from preprocess.convert import convert
from preprocess.zarr_store import open_store

FILES = {"chunky": DTYPES, "planar": DTYPES, "bands": DTYPES, "png": ("uint8", "uint16"), "jpeg": ("uint8",)}
HEIGHT, WIDTH = 24, 20


@dataclass(frozen=True)
class Cell:
    """One dtype, kind of file and codec."""

    dtype: str
    files: str
    codec: str

    def __str__(self) -> str:
        return f"{self.dtype}-{self.files}-{self.codec}"

    @property
    def bands(self) -> tuple[str, ...]:
        return BANDS if self.files in ("chunky", "planar", "bands") else ("red", "green", "blue")

    @property
    def pattern(self) -> str | None:
        return "{name}/{name}_{band}.tif" if self.files == "bands" else None


CELLS = [
    Cell(dtype, files, codec)
    for dtype, files, codec in itertools.product(DTYPES, FILES, ("lz4", "none"))
    if dtype in FILES[files]
]
# One per dtype and per kind of file.
QUICK = (
    Cell("float32", "chunky", "lz4"), Cell("int16", "planar", "none"), Cell("uint16", "bands", "lz4"),
    Cell("uint16", "png", "none"), Cell("uint8", "jpeg", "lz4"),
)  # fmt: skip


def write_cell(folder: Path, cell: Cell, count: int) -> np.ndarray:
    """Chips t_0, t_1, ... Returns (chip, band, y, x): the values as the library of each kind of file reads them."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    values = []
    for index in range(count):
        chip = smooth(rng, (len(cell.bands), HEIGHT, WIDTH), cell.dtype)
        values.append(_write(folder, f"t_{index}", cell, chip, index))
    return np.stack(values)


def _write(folder: Path, name: str, cell: Cell, chip: np.ndarray, seed: int) -> np.ndarray:
    """Write one chip; returns what the decoder reads."""
    if cell.files == "bands":
        write_bands(folder, name, dict(zip(cell.bands, chip, strict=True)))
        return np.stack([tifffile.imread(folder / name / f"{name}_{band}.tif") for band in cell.bands])
    if cell.files in ("png", "jpeg"):
        return _write_picture(folder / name, cell, chip, seed)
    chunky = cell.files == "chunky"
    path = folder / f"{name}.tif"
    tifffile.imwrite(
        path, np.moveaxis(chip, 0, -1) if chunky else chip, photometric="minisblack",
        planarconfig="contig" if chunky else "separate",
    )  # fmt: skip
    return np.moveaxis(tifffile.imread(path), -1, 0) if chunky else tifffile.imread(path)


def _write_picture(path: Path, cell: Cell, chip: np.ndarray, seed: int) -> np.ndarray:
    """A PNG or JPEG: Pillow and imagecodecs must agree, except about uint16, of which Pillow reads 8 bits."""
    if cell.files == "jpeg":
        path, data = path.with_suffix(".jpg"), encoded(colours(seed, HEIGHT, WIDTH), "jpeg")
        values = imagecodecs.jpeg8_decode(data)
    else:
        path, data = path.with_suffix(".png"), imagecodecs.png_encode(np.ascontiguousarray(np.moveaxis(chip, 0, -1)))
        values = imagecodecs.png_decode(data)
        assert np.array_equal(values, np.moveaxis(chip, 0, -1))
    path.write_bytes(data)
    with Image.open(path) as picture:
        assert cell.dtype == "uint16" or np.array_equal(np.asarray(picture), values)
    return np.moveaxis(values, -1, 0)


def make_cell(folder: Path, cell: Cell, count: int = 60) -> SimpleNamespace:
    """A store of several shards, with several chunks per band, and its chips. `values` are those of the decoder."""
    values = write_cell(folder / "chips", cell, count)
    tags = [" ".join(tag for bit, tag in enumerate("abc") if (index % 7 + 1) >> bit & 1) for index in range(count)]
    write_csv(folder / "tags.csv", [(f"t_{index}", tag) for index, tag in enumerate(tags)])
    settings = conversion(
        data=folder / "chips", labels=folder / "tags.csv", store=folder / "chips.zarr", codec=cell.codec,
        bands=cell.bands if len(cell.bands) == 4 else None, files=cell.pattern,
    )  # fmt: skip
    with mock.patch.multiple("preprocess.layout", CHUNK_BYTES=320, MAX_SHARD_CHIPS=16):
        convert(settings)
    return SimpleNamespace(cell=cell, folder=folder, values=values, store=open_store(folder / "chips.zarr"))
