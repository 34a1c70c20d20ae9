"""Realistic chips from a seed, as TIFFs and as stores; made once and reused.

In: a folder, a number of chips, and their `Shape`. Out: `Work`. The chips are smooth ground with sensor noise at
Planet's levels, 256 x 256 x 4 uint16 unless `shapes` asks for others. Byte shuffle and the reference LZ4 encoder
compress these by a factor of 1.35 (real chips: 1.25 to 1.39); our encoder reaches 1.45 (real chips: 1.37).
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile

from bench.work import BATCH, Work
from preprocess.commands import ConversionSettings
from preprocess.console import Progress, UserError
from preprocess.convert import convert
from preprocess.workers import run_tasks
from preprocess.zarr_store import write_atomic

NUM_CHIPS, SIDE, BANDS = 2048, 256, ("blue", "green", "red", "nir")
_MEAN = (4988.0, 4271.0, 3075.0, 6399.0)  # Planet's train set
_TEXTURE = (90.0, 110.0, 130.0, 260.0)
_STEP = 64


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Side in pixels, bands, and dtype of the chips."""

    side: int = SIDE
    bands: tuple[str, ...] = BANDS
    dtype: str = "uint16"

    def __str__(self) -> str:
        return f"{self.side} x {self.side} x {len(self.bands)} {self.dtype}"


PLANET = Shape()


def chip(index: int, shape: Shape = PLANET) -> np.ndarray:
    """(height, width, band). uint8: a 32nd of the levels. float32: a 10,000th, as reflectances are scaled."""
    rng = np.random.Generator(np.random.Philox(key=[2048, index]))
    side, bands = shape.side, len(shape.bands)
    out = np.empty((side, side, bands), np.uint16)
    for band in range(bands):
        mean, texture = _MEAN[band % len(_MEAN)], _TEXTURE[band % len(_MEAN)]
        coarse = rng.normal(0, 3 * texture, (9, 9))
        x = np.linspace(0, 8, side, endpoint=False)
        low = x.astype(int)
        weight = x - low
        rows = coarse[low] * (1 - weight)[:, None] + coarse[low + 1] * weight[:, None]
        smooth = rows[:, low] * (1 - weight) + rows[:, low + 1] * weight
        level = mean + rng.normal(0, 2 * texture) + smooth
        out[..., band] = np.clip(level + rng.normal(0, texture / 2.0, (side, side)), 0, 65535)
    if shape.dtype == "float32":
        return out.astype(np.float32) / np.float32(10_000)
    return np.minimum(out >> 5, 255).astype(np.uint8) if shape.dtype == "uint8" else out.astype(shape.dtype)


def _write(task: tuple[str, int, int, Shape]) -> int:
    folder, first, count, shape = task
    for index in range(first, first + count):
        write_tiff(Path(folder) / f"chip_{index}.tif", chip(index, shape))
    return count


def write_tiff(path: Path, values: np.ndarray) -> None:
    """Write (height, width, band) values as GDAL writes them: RGB if there are 3 or 4."""
    kinds: dict[int, dict[str, Any]] = {3: {"photometric": "rgb"}, 4: {"photometric": "rgb", "extrasamples": [1]}}
    options = kinds.get(values.shape[2], {"photometric": "minisblack", "planarconfig": "contig"})
    tifffile.imwrite(path, values, **options)


def make_chips(folder: Path, count: int = NUM_CHIPS) -> Work:
    """Chips of `PLANET`; see `make_shape`.

    Raises:
        UserError: `count` is not a multiple of 64.
    """
    if count < 2 * _STEP or count % _STEP:
        raise UserError(f"CHIPS={count}: expected a multiple of {_STEP}, at least {2 * _STEP}.")
    return make_shape(folder, count, PLANET)


def make_shape(folder: Path, count: int, shape: Shape, batch: int = BATCH) -> Work:
    """`folder/tif/`, `folder/labels.csv`, `folder/lz4.zarr`, `folder/none.zarr`; existing ones are reused.

    Raises:
        UserError: `folder` holds another number of chips.
    """
    jobs = len(os.sched_getaffinity(0))
    labels = folder / "labels.csv"
    if not labels.exists():
        (folder / "tif").mkdir(parents=True, exist_ok=True)
        tasks = [(str(folder / "tif"), at, min(_STEP, count - at), shape) for at in range(0, count, _STEP)]
        with Progress(f"chips of {shape}", total=count, unit="chips") as progress:
            for done in run_tasks(_write, tasks, jobs=jobs):
                progress.update(done)
        rng = np.random.Generator(np.random.Philox(key=7))
        tags = [" ".join(f"c{number}" for number in np.flatnonzero(rng.random(17) < 0.2)) for _ in range(count)]
        lines = ["image_name,tags", *(f"chip_{index},{tag}" for index, tag in enumerate(tags))]
        write_atomic(labels, "\n".join(lines).encode())
    num_chips = labels.read_text().count("\n")
    if num_chips != count:
        raise UserError(f"{folder}: expected {count} chips, found {num_chips}. Choose another DATA.")
    codecs: tuple[Literal["lz4"], Literal["none"]] = ("lz4", "none")
    for codec in codecs:
        store = folder / f"{codec}.zarr"
        if not store.exists():
            started = time.perf_counter()
            convert(
                ConversionSettings(
                    data=folder / "tif", labels=labels, store=store, bands=shape.bands, codec=codec, jobs=jobs
                )
            )  # fmt: skip
            write_atomic(folder / f"{codec}.seconds", f"{time.perf_counter() - started:.3f}".encode())
    return Work(
        folder=folder, stores={codec: folder / f"{codec}.zarr" for codec in codecs}, tif=folder / "tif",
        bands=shape.bands, height=shape.side, width=shape.side, batch=batch,
    )  # fmt: skip
