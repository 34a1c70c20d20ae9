"""2,048 realistic chips from a seed, as TIFFs and as stores; made once and kept.

256 x 256 x 4 uint16, smooth ground with sensor noise at Planet's levels; byte shuffle + LZ4 shrinks them by 1.35
(real chips: 1.25 to 1.39).
"""

import os
from pathlib import Path

import numpy as np
import tifffile

from preprocess.console import Progress
from preprocess.convert import convert
from preprocess.plan import Request
from preprocess.schema import write_atomic
from preprocess.workers import run_tasks

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
        part = x - low
        rows = coarse[low] * (1 - part)[:, None] + coarse[low + 1] * part[:, None]
        smooth = rows[:, low] * (1 - part) + rows[:, low + 1] * part
        level = mean + rng.normal(0, 2 * texture) + smooth
        out[..., band] = np.clip(level + rng.normal(0, texture / 2.0, (SIDE, SIDE)), 0, 65535)
    return out


def _write(task: tuple[str, int]) -> int:
    folder, first = task
    for index in range(first, first + _STEP):
        path = Path(folder) / f"chip_{index}.tif"
        tifffile.imwrite(path, chip(index), photometric="rgb", extrasamples=["assocalpha"])
    return _STEP


def make_chips(folder: Path) -> None:
    """`folder/tif/`, `folder/labels.csv`, `folder/lz4.zarr`, `folder/none.zarr`; what is there is kept."""
    jobs = len(os.sched_getaffinity(0))
    if not (folder / "labels.csv").exists():
        (folder / "tif").mkdir(parents=True, exist_ok=True)
        tasks = [(str(folder / "tif"), first) for first in range(0, NUM_CHIPS, _STEP)]
        with Progress("bench chips", total=NUM_CHIPS, unit="chips") as progress:
            for count in run_tasks(_write, tasks, jobs=jobs):
                progress.update(count)
        rng = np.random.Generator(np.random.Philox(key=7))
        tags = [" ".join(f"c{number}" for number in np.flatnonzero(rng.random(17) < 0.2)) for _ in range(NUM_CHIPS)]
        lines = ["image_name,tags", *(f"chip_{index},{tag}" for index, tag in enumerate(tags))]
        write_atomic(folder / "labels.csv", "\n".join(lines).encode())
    for codec in ("lz4", "none"):
        if not (folder / f"{codec}.zarr").exists():
            convert(
                Request(
                    data=folder / "tif", labels=folder / "labels.csv", store=folder / f"{codec}.zarr", bands=BANDS,
                    codec=codec, jobs=jobs,
                )
            )  # fmt: skip
