"""The same chips in the formats of other libraries, each written once by its library's writer and timed.

In: the TIFFs, read with tifffile. Out: `folder/formats/NAME/` with `made.json` (seconds, bytes, chips).
A format is written into `NAME.part` and renamed, so that a half-written one is never read.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from bench.work import Work


@dataclass(frozen=True, kw_only=True)
class OnDisk:
    """One format on disk. `seconds`: time to write it; None if it was not written here."""

    path: Path
    seconds: float | None
    num_bytes: int


def is_made(work: Work, name: str) -> bool:
    """Whether the chips exist in format `name`; TIFFs and stores always do."""
    return name not in _WRITERS or (work.folder / "formats" / name / "made.json").exists()


def written(work: Work, name: str) -> OnDisk:
    """The chips in format `name`, written now if they do not exist yet."""
    path = work.folder / "formats" / name
    if not (path / "made.json").exists():
        partial = path.with_name(f"{name}.part")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(path, ignore_errors=True)
        partial.mkdir(parents=True)
        started = time.perf_counter()
        _WRITERS[name](work, partial)
        seconds = time.perf_counter() - started
        made = {"seconds": seconds, "bytes": num_bytes(partial), "chips": work.store().num_chips}
        (partial / "made.json").write_text(json.dumps(made))
        os.rename(partial, path)
    made = json.loads((path / "made.json").read_text())
    return OnDisk(path=path, seconds=made["seconds"], num_bytes=made["bytes"])


def num_bytes(path: Path) -> int:
    """Size of all files below `path`."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def read_chip(work: Work, chip: int) -> np.ndarray:
    """(band, y, x), contiguous."""
    return np.ascontiguousarray(np.moveaxis(tifffile.imread(f"{work.tif}/chip_{chip}.tif"), -1, 0))


def _npy(work: Work, out: Path) -> None:
    store = work.store()
    count, shape = store.num_chips, (store.num_chips, len(work.bands), work.height, work.width)
    values = np.lib.format.open_memmap(out / "chips.npy", "w+", np.dtype(store.layout.dtype), shape)
    for chip in range(count):
        values[chip] = read_chip(work, chip)
    values.flush()


def _tensorstore(work: Work, out: Path) -> None:
    """Zarr v3, uncompressed, one chunk per chip: the fastest layout tried. It has no byte shuffle for LZ4."""
    import tensorstore

    count, size = work.store().num_chips, (len(work.bands), work.height, work.width)
    array = tensorstore.open(
        {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": str(out)},
            "metadata": {
                "shape": [count, *size],
                "data_type": "uint16",
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, *size]}},
            },
        },
        create=True,
    ).result()
    for chip in range(count):
        array[chip].write(read_chip(work, chip)).result()


class _Sample:
    """Make the sample of a chip in litdata's workers."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, chip: int) -> dict[str, Any]:
        return {"tile": chip, "image": read_chip(self._work, chip)}


def _litdata(work: Work, out: Path) -> None:
    import litdata

    litdata.optimize(
        fn=_Sample(work), inputs=list(range(work.store().num_chips)), output_dir=str(out), chunk_bytes="64MB",
        num_workers=len(os.sched_getaffinity(0)), start_method="fork",
    )  # fmt: skip


def _mds(work: Work, out: Path) -> None:
    from streaming import MDSWriter

    shape = f"{len(work.bands)},{work.height},{work.width}"
    with MDSWriter(out=str(out), columns={"tile": "int", "image": f"ndarray:uint16:{shape}"}) as writer:
        for chip in range(work.store().num_chips):
            writer.write({"tile": chip, "image": read_chip(work, chip)})


def _webdataset(work: Work, out: Path) -> None:
    import webdataset

    with webdataset.ShardWriter(f"{out}/chips-%04d.tar", maxcount=128, verbose=0) as writer:
        for chip in range(work.store().num_chips):
            writer.write({"__key__": f"{chip:08d}", "image.npy": read_chip(work, chip), "tile.cls": chip})


class _Indexed:
    """The indexable data set that ffcv's writer expects: position -> `(image, chip)`."""

    def __init__(self, work: Work) -> None:
        self._work, self._count = work, work.store().num_chips

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, chip: int) -> tuple[np.ndarray, int]:
        return read_chip(self._work, chip), chip

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        return (self[chip] for chip in range(self._count))


def _ffcv(work: Work, out: Path) -> None:
    from ffcv.fields import IntField, NDArrayField
    from ffcv.writer import DatasetWriter

    shape = (len(work.bands), work.height, work.width)
    fields = {"image": NDArrayField(shape=shape, dtype=np.dtype(np.uint16)), "tile": IntField()}
    DatasetWriter(str(out / "chips.beton"), fields, num_workers=len(os.sched_getaffinity(0))).from_indexed_dataset(
        _Indexed(work)
    )


_WRITERS: dict[str, Callable[[Work, Path], None]] = {
    "npy": _npy, "tensorstore": _tensorstore, "litdata": _litdata, "mds": _mds, "webdataset": _webdataset,
    "ffcv": _ffcv,
}  # fmt: skip
