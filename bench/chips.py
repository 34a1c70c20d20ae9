"""2,048 realistic chips from a seed, as TIFFs and as stores; made once and reused.

In: a folder. Out: `Work`. The chips are 256 x 256 x 4 uint16: smooth ground with sensor noise at Planet's levels. Byte
shuffle and the reference LZ4 encoder compress them by a factor of 1.35 (real chips: 1.25 to 1.39); our encoder reaches
1.45 (real chips: 1.37).
"""

import os
import time
from pathlib import Path
from typing import Literal

import numpy as np
import tifffile

from bench.work import Work
from preprocess.commands import ConversionSettings
from preprocess.console import Progress, UserError
from preprocess.convert import convert
from preprocess.workers import run_tasks
from preprocess.zarr_store import write_atomic

NUM_CHIPS, SIDE, BANDS = 2048, 256, ("blue", "green", "red", "nir")
_MEAN = (4988.0, 4271.0, 3075.0, 6399.0)  # Planet's train set
_TEXTURE = (90.0, 110.0, 130.0, 260.0)
_STEP = 64


def chip(index: int) -> np.ndarray:
    """(height, width, band) uint16."""
    rng = np.random.Generator(np.random.Philox(key=[2048, index]))
    out = np.empty((SIDE, SIDE, len(BANDS)), np.uint16)
    for band, (mean, texture) in enumerate(zip(_MEAN, _TEXTURE, strict=True)):
        coarse = rng.normal(0, 3 * texture, (9, 9))
        x = np.linspace(0, 8, SIDE, endpoint=False)
        low = x.astype(int)
        weight = x - low
        rows = coarse[low] * (1 - weight)[:, None] + coarse[low + 1] * weight[:, None]
        smooth = rows[:, low] * (1 - weight) + rows[:, low + 1] * weight
        level = mean + rng.normal(0, 2 * texture) + smooth
        out[..., band] = np.clip(level + rng.normal(0, texture / 2.0, (SIDE, SIDE)), 0, 65535)
    return out


def _write(task: tuple[str, int]) -> int:
    folder, first = task
    for index in range(first, first + _STEP):
        path = Path(folder) / f"chip_{index}.tif"
        tifffile.imwrite(path, chip(index), photometric="rgb", extrasamples=["assocalpha"])
    return _STEP


def make_chips(folder: Path, count: int = NUM_CHIPS) -> Work:
    """`folder/tif/`, `folder/labels.csv`, `folder/lz4.zarr`, `folder/none.zarr`; existing ones are reused.

    Raises:
        UserError: `count` is not a multiple of 64, or `folder` holds another number of chips.
    """
    if count < 2 * _STEP or count % _STEP:
        raise UserError(f"CHIPS={count}: expected a multiple of {_STEP}, at least {2 * _STEP}.")
    jobs = len(os.sched_getaffinity(0))
    labels = folder / "labels.csv"
    if not labels.exists():
        (folder / "tif").mkdir(parents=True, exist_ok=True)
        tasks = [(str(folder / "tif"), first) for first in range(0, count, _STEP)]
        with Progress("bench chips", total=count, unit="chips") as progress:
            for done in run_tasks(_write, tasks, jobs=jobs):
                progress.update(done)
        rng = np.random.Generator(np.random.Philox(key=7))
        tags = [" ".join(f"c{number}" for number in np.flatnonzero(rng.random(17) < 0.2)) for _ in range(count)]
        lines = ["image_name,tags", *(f"chip_{index},{tag}" for index, tag in enumerate(tags))]
        write_atomic(labels, "\n".join(lines).encode())
    num_chips = labels.read_text().count("\n")
    if num_chips != count:
        raise UserError(f"{folder}: expected {count} chips (CHIPS), found {num_chips}. Choose another DATA.")
    codecs: tuple[Literal["lz4"], Literal["none"]] = ("lz4", "none")
    for codec in codecs:
        store = folder / f"{codec}.zarr"
        if not store.exists():
            started = time.perf_counter()
            convert(
                ConversionSettings(
                    data=folder / "tif", labels=labels, store=store, bands=BANDS, codec=codec, jobs=jobs
                )
            )  # fmt: skip
            write_atomic(folder / f"{codec}.seconds", f"{time.perf_counter() - started:.3f}".encode())
    stores: dict[str, Path] = {codec: folder / f"{codec}.zarr" for codec in codecs}
    return Work(folder=folder, stores=stores, tif=folder / "tif", bands=BANDS, height=SIDE, width=SIDE)
