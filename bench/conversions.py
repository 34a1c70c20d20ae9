"""Mode `convert` for other files: TIFFs of many shapes, JPEGs and PNGs, each to an LZ4 store.

In: a folder. Out: a record's rows. The files hold the chips of `chips`, made once and reused. Leaves the comparison
with zarr-python to `storage`.
"""

import functools
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import imagecodecs
import numcodecs.lz4
import numpy as np
import tifffile
from numcodecs import Shuffle

from bench.chips import BANDS, Shape, chip, write_tiff
from bench.process_usage import cpu_s
from preprocess.commands import ConversionSettings
from preprocess.console import say
from preprocess.convert import convert
from preprocess.layout import Layout
from preprocess.workers import run_tasks
from preprocess.zarr_store import open_store, write_atomic

_STEP, _FEW_CHIPS = 64, 256
_ENCODE: dict[str, Callable[[np.ndarray], Any]] = {
    "jpg": functools.partial(imagecodecs.jpeg8_encode, level=85),
    "png": imagecodecs.png_encode,
}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Files of one kind: `count` chips of a shape. `suffix`: tif, jpg or png."""

    shape: Shape
    count: int
    suffix: str = "tif"

    def __str__(self) -> str:
        return f"{ {'tif': 'TIFF', 'jpg': 'JPEG', 'png': 'PNG'}[self.suffix] }, {self.shape}"


_RGB = Shape(bands=BANDS[:3], dtype="uint8")
KINDS = (
    Kind(shape=Shape(side=32, bands=BANDS[:3], dtype="uint8"), count=16384),
    Kind(shape=Shape(side=64, bands=tuple(f"band_{number}" for number in range(1, 14))), count=2560),
    Kind(shape=Shape(), count=1024),
    Kind(shape=Shape(side=512, bands=BANDS[:3], dtype="uint8"), count=1024),
    Kind(shape=_RGB, count=2048, suffix="jpg"),
    Kind(shape=_RGB, count=2048, suffix="png"),
)


def rows(folder: Path, rounds: int) -> list[dict[str, Any]]:
    """A row per kind. `ratio_to_libraries`: chips/s divided by the number of cores times the rate of one core for
    `with_libraries`. `cpu_ratio_to_libraries`: their CPU time per chip divided by that of the whole command; other
    programs on the machine hardly change it."""
    return [_row(kind, make(kind, folder / str(kind).replace(", ", "-").replace(" ", "")), rounds) for kind in KINDS]


def make(kind: Kind, folder: Path) -> Path:
    """`folder/files/` and `folder/labels.csv`; existing ones are reused."""
    labels = folder / "labels.csv"
    if not labels.exists():
        (folder / "files").mkdir(parents=True, exist_ok=True)
        say(f"{folder}: making {kind.count} files")
        tasks = [(str(folder / "files"), first, kind) for first in range(0, kind.count, _STEP)]
        for _ in run_tasks(_write, tasks, jobs=len(os.sched_getaffinity(0))):
            pass
        write_atomic(labels, "\n".join(["image_name,tags", *(f"chip_{n},a" for n in range(kind.count))]).encode())
    return folder


def _write(task: tuple[str, int, Kind]) -> None:
    folder, first, kind = task
    for index in range(first, min(first + _STEP, kind.count)):
        path, values = Path(folder) / f"chip_{index}.{kind.suffix}", chip(index, kind.shape)
        if kind.suffix == "tif":
            write_tiff(path, values)
        else:
            encoded: Any = _ENCODE[kind.suffix](values)
            path.write_bytes(encoded)


def _row(kind: Kind, folder: Path, rounds: int) -> dict[str, Any]:
    store, cores = folder / "scratch.zarr", len(os.sched_getaffinity(0))
    paths = [folder / "files" / f"chip_{index}.{kind.suffix}" for index in range(min(kind.count, _FEW_CHIPS))]
    request = ConversionSettings(
        data=folder / "files", labels=folder / "labels.csv", store=store, bands=kind.shape.bands, jobs=cores
    )
    ours, libraries = list[tuple[float, float]](), list[tuple[float, float]]()
    for number in range(rounds + 1):
        shutil.rmtree(store, ignore_errors=True)
        one = _cost(kind.count, lambda: convert(request))
        layout = open_store(store).layout
        theirs = _cost(len(paths), lambda: with_libraries(paths, layout))  # noqa: B023
        if number:  # the first round warms up
            ours.append(one)
            libraries.append((theirs[0] / cores, theirs[1]))
    shutil.rmtree(store)
    rates, their_rates = ([1 / seconds for seconds, _ in costs] for costs in (ours, libraries))
    pairs = list(zip(ours, libraries, strict=True))
    return {
        "name": str(kind),
        "chips_per_s": median(rates),
        "ratio_to_libraries": median(theirs[0] / one[0] for one, theirs in pairs),
        "cpu_ratio_to_libraries": median(theirs[1] / one[1] for one, theirs in pairs),
        "cpu_ms_per_chip": 1e3 * median(cpu for _, cpu in ours),
        "samples": rates,
        "libraries_samples": their_rates,
    }


def _cost(count: int, work: Callable[[], object]) -> tuple[float, float]:
    """(seconds, CPU seconds of this process and its descendants) per chip."""
    started, cpu = time.perf_counter(), cpu_s()
    work()
    return (time.perf_counter() - started) / count, (cpu_s() - cpu) / count


def with_libraries(paths: list[Path], layout: Layout) -> None:
    """What each chip needs with libraries, without writing: tifffile reads a TIFF, imagecodecs decodes a JPEG or PNG,
    numcodecs shuffles the bytes of values of several bytes and compresses each chunk with LZ4."""
    decode = {".jpg": imagecodecs.jpeg8_decode, ".png": imagecodecs.png_decode}.get(paths[0].suffix)
    shuffle = Shuffle(layout.itemsize)
    for path in paths:
        pixels = decode(path.read_bytes()) if decode else tifffile.imread(path)
        values = np.ascontiguousarray(np.moveaxis(np.asarray(pixels), -1, 0))
        for chunk in values.reshape(-1, layout.chunk_bytes // layout.itemsize):
            numcodecs.lz4.compress(shuffle.encode(chunk) if layout.itemsize > 1 else chunk, 1)
