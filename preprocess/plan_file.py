"""The plan of a conversion as one file, `NAME.partial/plan.npz`, and the small tasks that point into it.

In: what a `Plan` says about reading and writing chips. Out: the file, and a `WorkPlan` in each process that converts.
The coordinator writes the file once, and each worker process reads it once, so a task is about 100 bytes: where the
plan is, its digest, and a run of shards. Leaves the settings that must be equal to resume (`plan.json`) to
`partial_store`. Worker processes load this file: it imports neither zarr nor pandas.
"""

import functools
import io
import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from preprocess.addresses import Location, location
from preprocess.chip_reader import ChipFiles
from preprocess.console import UserError
from preprocess.expected import Expected
from preprocess.fit import Fit
from preprocess.layout import Layout, layout_from
from preprocess.packed_texts import PackedTexts
from preprocess.targets import target_of
from preprocess.window_cut import Cut


@dataclass(frozen=True, kw_only=True)
class ShardRun:
    """A task: convert the shards `first` to `last`. `root` is NAME.partial; `digest` is that of its plan."""

    root: str
    digest: str
    first: int
    last: int

    @property
    def shards(self) -> range:
        """The numbers of the shards."""
        return range(self.first, self.last + 1)

    def parts(self) -> list["ShardRun"]:
        """A task per shard: if a task fails, its other shards do not fail with it."""
        return [replace(self, first=shard, last=shard) for shard in self.shards]

    def __str__(self) -> str:
        return f"shard {self.first}" if self.first == self.last else f"shards {self.first} to {self.last}"


@dataclass(frozen=True, kw_only=True, eq=False)
class ShardTask:
    """The planned chips of one shard. `root` is NAME.partial, which holds `store/`, `progress/` and `temporary/`.

    corners: (chips, 2), first row and column of each window of a raster; None if a chip is a file. etags: of the files
    of each chip in object storage, see `remote_files.etags_of`.
    """

    shard: int
    root: Location
    layout: Layout
    paths: tuple[str, ...]
    size: np.ndarray
    mtime_ns: np.ndarray
    files: ChipFiles
    corners: np.ndarray | None = None
    etags: tuple[str, ...] | None = None

    def where(self, index: int) -> str:
        """The file of a chip, and its window in it, for messages."""
        if self.corners is None:
            return self.paths[index]
        row, column = self.corners[index].tolist()
        return f"{self.paths[index]} (window from row {row}, column {column} on)"


@dataclass(frozen=True, kw_only=True, eq=False)
class WorkPlan:
    """What a process needs to convert shards. Arrays have one row per chip.

    folder: the folder from which relative paths start; "" if paths are absolute. corners, etags: see `ShardTask`.
    """

    layout: Layout
    files: ChipFiles
    folder: str
    paths: PackedTexts
    size: np.ndarray
    mtime_ns: np.ndarray
    corners: np.ndarray | None = None
    etags: PackedTexts | None = None

    @property
    def num_shards(self) -> int:
        """Shards of the store."""
        return self.layout.num_shards(len(self.size))

    def count(self, shards: Iterable[int]) -> int:
        """Chips in these shards."""
        return sum(chips.stop - chips.start for chips in map(self.shard_chips, shards))

    def shard_chips(self, shard: int) -> slice:
        """The chips of one shard."""
        step = self.layout.shard_tiles
        return slice(shard * step, min((shard + 1) * step, len(self.size)))

    def task(self, root: Location, shard: int) -> ShardTask:
        """The chips of one shard, with paths that can be opened from the current folder."""
        chips = self.shard_chips(shard)
        paths = tuple(self.paths[chips])
        if self.folder and self.folder != str(Path.cwd()):
            paths = tuple(os.path.join(self.folder, path) for path in paths)
        return ShardTask(
            shard=shard, root=root, layout=self.layout, paths=paths, size=self.size[chips],
            mtime_ns=self.mtime_ns[chips], files=self.files,
            corners=None if self.corners is None else self.corners[chips],
            etags=None if self.etags is None else tuple(self.etags[chips]),
        )  # fmt: skip

    @functools.cached_property
    def digest(self) -> str:
        """A digest of everything in the plan."""
        digest = xxhash.xxh3_128(self._header())
        for array in self._arrays().values():
            digest.update(array.data)
        return digest.hexdigest()

    def _header(self) -> bytes:
        header = {
            "layout": self.layout.as_json(), "files": asdict(self.files), "folder": self.folder,
            "prefix": self.paths.prefix,
        }  # fmt: skip
        return json.dumps(header, sort_keys=True).encode()

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {"path_bytes": self.paths.data, "path_ends": self.paths.ends}
        arrays |= {"size": self.size, "mtime_ns": self.mtime_ns}
        if self.corners is not None:
            arrays["corners"] = self.corners
        if self.etags is not None:
            arrays |= {"etag_bytes": self.etags.data, "etag_ends": self.etags.ends}
        return {name: np.ascontiguousarray(array) for name, array in arrays.items()}

    def encode(self) -> bytes:
        """The plan's file: a zip of npy arrays. Equal plans give equal bytes."""
        file = io.BytesIO()
        header = {"digest": self.digest, **json.loads(self._header())}
        np.savez(
            file, allow_pickle=False, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **self._arrays()
        )
        return file.getvalue()


PLAN = "plan.npz"


def plan_path(root: Location) -> Location:
    """File of the plan in NAME.partial."""
    return root / PLAN


def read_plan(path: Path) -> WorkPlan:
    """The plan in a file; see `parse_plan`."""
    return parse_plan(path.read_bytes(), path)


def parse_plan(data: bytes, path: Location) -> WorkPlan:
    """The plan in the bytes of a file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with np.load(io.BytesIO(data)) as file:
            header = json.loads(file["header"].tobytes())
            paths = PackedTexts(prefix=header["prefix"], data=file["path_bytes"], ends=file["path_ends"])
            plan = WorkPlan(
                layout=layout_from({"nodata": None, **header["layout"]}), files=chip_files_from(header["files"]),
                folder=header["folder"], paths=paths, size=file["size"], mtime_ns=file["mtime_ns"],
                corners=file["corners"] if "corners" in file.files else None,
                etags=PackedTexts(prefix="", data=file["etag_bytes"], ends=file["etag_ends"])
                if "etag_bytes" in file.files else None,
            )  # fmt: skip
    except (EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged. Remove {path.parent} to start again.") from error
    if plan.digest != header["digest"]:
        raise UserError(f"{path}: damaged. Remove {path.parent} to start again.")
    return plan


def chip_files_from(values: dict[str, Any]) -> ChipFiles:
    """What `asdict` made, after JSON."""
    expected = tuple(
        Expected(**{**each, "shape": None if each["shape"] is None else tuple(each["shape"])})
        for each in values["expected"]
    )
    fit = None if values["fit"] is None else Fit(**values["fit"])
    cut = None if values["cut"] is None else Cut(**values["cut"])
    return ChipFiles(expected=expected, bands=tuple(values["bands"]), preset=values["preset"], fit=fit, cut=cut)


@functools.lru_cache(maxsize=1)
def load_plan(root: str, digest: str) -> WorkPlan:
    """The plan of a task, read once per process.

    Raises:
        UserError: the file is damaged, or holds another plan.
    """
    path = plan_path(location(root))
    plan = parse_plan(target_of(root).read(PLAN), path)
    if plan.digest != digest:
        raise UserError(f"{path}: another conversion has replaced the plan. Stop it, and run the same command again.")
    return plan


def shard_runs(root: Location, plan: WorkPlan, shards: list[int], *, workers: int) -> list[ShardRun]:
    """Tasks for `shards` (ascending): runs of neighbours worth about a second, and enough of them for all workers."""
    longest = max(1, min(_shards_per_second(plan), len(shards) // (_TASKS_PER_WORKER * workers)))
    runs = []
    for first, last in _neighbours(shards, longest):
        runs.append(ShardRun(root=str(root), digest=plan.digest, first=first, last=last))
    return runs


def _neighbours(shards: list[int], longest: int) -> Iterator[tuple[int, int]]:
    """(first, last) of each run of consecutive numbers, at most `longest` long."""
    start = 0
    for end in range(1, len(shards) + 1):
        if end == len(shards) or shards[end] != shards[end - 1] + 1 or end - start == longest:
            yield shards[start], shards[end - 1]
            start = end


def _shards_per_second(plan: WorkPlan) -> int:
    """How many shards a core converts in a second, about: opening a chip takes 0.3 ms, and 200 MB/s are encoded."""
    chips = plan.layout.shard_tiles
    return max(1, int(1 / (chips * (_CHIP_S + plan.layout.chip_bytes / _BYTES_PER_S))))


_CHIP_S, _BYTES_PER_S = 3e-4, 200e6
_TASKS_PER_WORKER = 8  # at the end, when the last tasks run, few workers wait
