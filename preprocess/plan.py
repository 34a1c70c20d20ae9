"""What is to be converted: everything that can be checked and decided before a pixel is read in bulk.

In: the user's `Request`. Out: a `Plan` that fixes every byte of the store, cut into one `ShardTask` a shard.
Leaves doing it, and going on after a stop, to `convert`.
"""

import hashlib
import json
import os
import stat
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocess import presets, schema, tiff
from preprocess.console import UserError, advice, say
from preprocess.labels import LabelTable, read_labels, stem
from preprocess.layout import CODECS, Layout, plan_layout
from preprocess.write import ShardTask


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asked for; None means "derive it"."""

    data: Path
    store: Path
    labels: Path | None = None
    preset: str | None = None
    bands: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None
    codec: str = "lz4"
    jobs: int = 1
    allow_missing: bool = False


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that decides a store's bytes. Arrays are one row a tile."""

    store: Path
    layout: Layout
    classes: tuple[str, ...]
    num_csv_rows: int
    preset: str | None
    names: tuple[str, ...]
    paths: tuple[str, ...]
    labels: np.ndarray
    csv_row: np.ndarray
    size: np.ndarray
    mtime_ns: np.ndarray

    def tasks(self) -> list["ShardTask"]:
        """One task a shard."""
        step = self.layout.shard_tiles
        return [
            ShardTask(
                shard=first // step,
                root=schema.partial_path(self.store),
                layout=self.layout,
                preset=self.preset,
                paths=self.paths[first : first + step],
                size=self.size[first : first + step],
                mtime_ns=self.mtime_ns[first : first + step],
                example=self.paths[0],
            )
            for first in range(0, len(self.names), step)
        ]

    def settings(self) -> dict[str, str]:
        """What must be the same for a half-done conversion to go on, each as a comparable text."""
        chips = hashlib.sha256(json.dumps(self.names).encode())
        chips.update(self.labels.tobytes() + self.csv_row.tobytes())
        shape = (len(self.layout.bands), self.layout.height, self.layout.width)
        return {
            "store version": str(schema.VERSION),
            "CODEC": self.layout.codec,
            "BANDS": ",".join(self.layout.bands),
            "chip shape and dtype": f"{shape} {self.layout.dtype}",
            "classes": " ".join(self.classes),
            "number of chips": str(len(self.names)),
            "rows of the CSV": str(self.num_csv_rows),
            "chips and tags": chips.hexdigest()[:12],
        }


def make_plan(request: Request) -> Plan:
    """Check all that can be checked without reading every chip, and lay out the store."""
    if request.codec not in CODECS:
        raise UserError(f"CODEC={request.codec}: expected {' or '.join(CODECS)}.")
    if request.jobs < 1:
        raise UserError(f"JOBS={request.jobs}: expected 1 or more.")
    if not request.data.is_dir():
        raise UserError(f"DATA={request.data}: expected a folder of TIFFs, found {_kind(request.data)}.")
    preset = presets.get(request.preset) if request.preset else None
    folder, csv_path = presets.find(request.data, preset) if preset else (request.data, None)
    csv_path = request.labels or csv_path
    if csv_path is None:
        raise UserError(f"LABELS is not set, and DATA={request.data} has no CSV that a preset knows. LABELS=file.csv")
    if request.classes:
        _check_different("CLASSES", "class", request.classes)
    table = read_labels(csv_path, request.classes or (preset.classes if preset else None))
    found = _find_all(table, folder, allow_missing=request.allow_missing)
    paths = found.paths
    try:
        first = tiff.read(paths[0], preset.check_page if preset else None)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise tiff.TileError(paths[0], "a readable file", reason, advice(error)) from error
    return Plan(
        store=request.store,
        layout=_layout(request, preset, first, paths[0]),
        classes=table.classes,
        num_csv_rows=len(table.names),
        preset=request.preset,
        names=tuple(table.names[row] for row in found.csv_row.tolist()),
        paths=paths,
        labels=table.labels[found.csv_row],
        csv_row=found.csv_row,
        size=found.size,
        mtime_ns=found.mtime_ns,
    )


def _kind(path: Path) -> str:
    return "a file" if path.exists() else "nothing"


def _find(folder: Path, name: str) -> tuple[str, os.stat_result] | None:
    base = os.path.join(folder, stem(name))
    for suffix in tiff.SUFFIXES:
        try:
            found = os.stat(base + suffix)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:  # a name too long for the file system, no permission, a link loop
            raise UserError(f"{base + suffix}: cannot be looked at ({error.strerror}).") from error
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "something else"
            raise tiff.TileError(base + suffix, "a TIFF file", kind, "Rename it, or take the chip out of the CSV.")
        return base + suffix, found
    return None


@dataclass(frozen=True, kw_only=True)
class _Found:
    """Files of the CSV's chips: one path and one entry of each array (int64) per chip that is there."""

    paths: tuple[str, ...]
    csv_row: np.ndarray
    size: np.ndarray
    mtime_ns: np.ndarray


def _find_all(table: LabelTable, folder: Path, *, allow_missing: bool) -> _Found:
    """Look up every row of the CSV; rows without a file are refused, or left out and counted."""
    paths: list[str] = []
    columns = {name: array("q") for name in ("csv_row", "size", "mtime_ns")}  # a stat result per chip took 700 MB
    missing: list[str] = []
    for row, name in enumerate(table.names):
        chip = _find(folder, name)
        if chip is None:
            missing.append(name)
            continue
        paths.append(chip[0])
        for column, value in zip(columns.values(), (row, chip[1].st_size, chip[1].st_mtime_ns), strict=True):
            column.append(value)
    if missing:
        first = ", ".join(missing[:3])
        count = f"{len(missing)} of {len(table.names)} chips of the CSV are missing in {folder} (first: {first})"
        if not paths:
            raise UserError(f"{count}: none is left. Is DATA the folder of the TIFFs?")
        if not allow_missing:
            raise UserError(f"{count}. Pass ALLOW_MISSING=1 to leave them out.")
        say(f"{count}; they are left out.")
    return _Found(paths=tuple(paths), **{name: np.array(column, np.int64) for name, column in columns.items()})


def _layout(request: Request, preset: presets.Preset | None, first: np.ndarray, path: str) -> Layout:
    count, height, width = first.shape
    bands = request.bands or (preset.bands if preset else None)
    if bands is None:
        # Three samples are R, G, B by TIFF's own definition of RGB. Four are not: Planet's own are B, G, R, NIR
        # under the same tag, so a guess would be wrong without a sign of it.
        bands = ("red", "green", "blue") if count == 3 else tuple(f"band{index + 1}" for index in range(count))
    if len(bands) != count:
        raise UserError(
            f"{path}: expected {len(bands)} bands ({', '.join(bands)}), found {count}. "
            "BANDS names each of them, in the file's order."
        )
    _check_different("BANDS", "band", bands)
    return plan_layout(bands=bands, height=height, width=width, dtype=first.dtype.name, codec=request.codec)


def _check_different(variable: str, what: str, names: tuple[str, ...]) -> None:
    """UserError if a name is there twice or empty."""
    if len(set(names)) != len(names) or not all(names):
        raise UserError(f"{variable}={','.join(names)}: expected a different name for each {what}.")
