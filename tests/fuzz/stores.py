"""Damaged stores: training's input, `make info` and `make verify` are compared with those of the undamaged store.

Bases: `store_bases`.

silent: training reads other values; or `make verify` finds nothing in a store that training or plain zarr reads
differently or cannot read. If a chunk was changed together with its crc32c, only `make verify` can find it.
"""

import contextlib
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from fuzz.crafted import craft
from fuzz.damage import Content, Special, Tree, damage_bytes, damage_json, read_tree, special, write_entry
from fuzz.outcome import Case, Refused, attempt, quiet
from fuzz.store_bases import BLOCK_KM, KINDS, OTHERS, make_bases
from pipeline.chunks import ChunkReader
from preprocess import info as preprocess_info
from preprocess import verify
from preprocess.splits import SPLIT_NAMES, make_split
from preprocess.zarr_store import open_store

__all__ = ["Jsons", "Stores", "make_bases"]


def training_reads(path: Path) -> dict[str, Any]:
    """Everything in the store that decides a training."""
    store = open_store(path)
    layout = store.layout
    pixels = np.zeros((store.num_chips, len(layout.bands), layout.height, layout.width), layout.dtype)
    ChunkReader(store, layout.bands).decode(np.arange(store.num_chips), pixels)
    split = make_split("course", store)
    mean, std = store.band_statistics(split.train)
    arrays = {"pixels": pixels, "labels": store.labels, "mean": mean, "std": std, "csv_row": store.csv_row}
    arrays |= {part: split.indices(part) for part in SPLIT_NAMES}
    if store.layout.nodata is not None:
        arrays["valid_count"] = store.valid_count
    if store.transform is not None:
        blocked = make_split("blocked", store, block_km=BLOCK_KM)
        arrays |= {"transform": store.transform} | {f"blocked {part}": blocked.indices(part) for part in SPLIT_NAMES}
    return {
        "bands": layout.bands, "classes": store.classes, "rows": store.num_csv_rows, "names": store.names.tolist(),
        "fingerprint": store.fingerprint, "nodata": layout.nodata,
        "crs": None if store.transform is None else store.crs.tolist(),
        **{name: (array.shape, array.dtype.str, array.tobytes()) for name, array in arrays.items()},
    }  # fmt: skip


def info(path: Path) -> str:
    """What `make info` prints, without the path."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        preprocess_info.info(path, "course")
    return out.getvalue().replace(str(path), "STORE")


def findings(path: Path) -> Any:
    """The number of findings of `make verify`."""
    return quiet(lambda: verify.verify(path, jobs=1))


def plain_zarr(path: Path, names: list[str]) -> dict[str, Any]:
    """Every array as zarr-python reads it."""
    group = zarr.open_group(path, mode="r")
    arrays: dict[str, Any] = {name: np.asarray(group[name][...]) for name in names}  # type: ignore[index]
    return {
        name: (array.shape, array.dtype.str, array.tobytes() if array.dtype.kind in "iuf" else array.tolist())
        for name, array in arrays.items()
    }


class Base:
    """An undamaged store: its files, its other versions, and what the readers return."""

    def __init__(self, place: Path) -> None:
        self.name = place.name
        self.files = read_tree(place / "base")
        self.others = {name: read_tree(place / name) for name in OTHERS}
        self.layout = open_store(place / "base").layout
        self.training, self.info = training_reads(place / "base"), info(place / "base")
        self.arrays = sorted(path.name for path in (place / "base").iterdir() if path.is_dir())
        self.zarr = plain_zarr(place / "base", self.arrays)
        assert findings(place / "base") == 0


class Stores:
    """Damage of every kind, one or two operations per case."""

    def __init__(self, bases: Path, work: Path) -> None:
        self._bases = [Base(bases / kind.name) for kind in KINDS]
        self._work = work
        for base in self._bases:
            for name, data in base.files.items():
                write_entry(work / base.name, name, data)
        self._changed: Tree = {}
        self._base = self._bases[0]
        self._crafted = False

    def draw(self, rng: random.Random, case: Case) -> None:
        """Choose a store, damage one or two of its files."""
        self._base, self._changed, self._crafted = rng.choice(self._bases), {}, False
        for _ in range(rng.choice((1, 1, 1, 2))):
            case.operations.append(self._operate(rng))
        case.operations.insert(0, self._base.name)
        for name, content in self._changed.items():
            write_entry(self._work / self._base.name, name, content)

    def _operate(self, rng: random.Random) -> str:
        names = list(self._base.files)
        name = rng.choice(names)
        data: Content = self._changed.get(name, self._base.files[name])
        operation = rng.choices(
            (self._bytes, self._json, self._replace, self._swap, self._special, self._delete, self._crc),
            weights=(40, 20, 12, 8, 4, 6, 10),
        )[0]
        return operation(rng, name, data if isinstance(data, bytes) else b"")

    def _bytes(self, rng: random.Random, name: str, data: bytes) -> str:
        self._changed[name], text = damage_bytes(rng, data)
        return f"{name}: {text}"

    def _json(self, rng: random.Random, name: str, data: bytes) -> str:
        del name, data
        name = rng.choice([name for name in self._base.files if name.endswith(".json")] + ["zarr.json"] * 8)
        self._changed[name], text = damage_json(rng, self._base.files[name])
        return f"{name}: {text}"

    def _replace(self, rng: random.Random, name: str, data: bytes) -> str:
        del data
        version = rng.choice(OTHERS)
        self._changed[name] = self._base.others[version].get(name, Special("missing"))
        return f"{name}: from the store {version!r}"

    def _swap(self, rng: random.Random, name: str, data: bytes) -> str:
        folder = name.partition("/")[0]
        siblings = [other for other in self._base.files if other.partition("/")[0] == folder and other != name]
        other = rng.choice(siblings if siblings and rng.random() < 0.5 else list(self._base.files))
        self._changed[name], self._changed[other] = self._base.files[other], data
        return f"{name} and {other} swapped"

    def _special(self, rng: random.Random, name: str, data: bytes) -> str:
        del data
        names = [str(self._work / self._base.name / other) for other in self._base.files]
        self._changed[name] = content = special(rng, names)
        return f"{name}: a {content.kind} {content.target}"

    def _delete(self, rng: random.Random, name: str, data: bytes) -> str:
        del data
        self._changed[name] = Special("missing")
        if rng.random() < 0.2:  # the whole array, or all its chunks
            top = name.partition("/")[0] if rng.random() < 0.5 else name.rpartition("/")[0]
            self._changed |= {other: Special("missing") for other in self._base.files if other.startswith(top)}
            return f"{top}: deleted"
        return f"{name}: deleted"

    def _crc(self, rng: random.Random, name: str, data: bytes) -> str:
        del name, data
        name = rng.choice([name for name in self._base.files if name.startswith("tiles/c/")])
        data = self._base.files[name]
        self._changed[name], text = craft(rng, data, self._base.layout)
        self._crafted = True
        return f"{name}: {text}"

    def judge(self, case: Case) -> Case:
        """Read it in every way."""
        path, base = self._work / self._base.name, self._base
        training, refusal = _try(lambda: training_reads(path))
        text, info_refusal = _try(lambda: info(path))
        count, verify_refusal = _try(lambda: findings(path))
        passes = count == 0
        if refusal is None and training != base.training and (passes or not self._crafted):
            differs = [name for name in base.training if training[name] != base.training[name]]
            return case.to("silent", f"training reads other {', '.join(differs)}; verify: {verify_refusal or count}")
        if refusal is not None and passes:
            return case.to("silent", f"verify passes; training: {refusal}")
        if passes and text != base.info:
            return case.to("silent", f"verify passes; info differs: {info_refusal or _difference(text, base.info)}")
        if not passes:
            return case.to("refused", refusal or verify_refusal or f"{count} findings of verify")
        try:
            same = plain_zarr(path, base.arrays) == base.zarr
        except Exception as error:
            return case.to("silent", f"verify passes; plain zarr: {type(error).__name__}: {error}")
        return case.to("equal") if same else case.to("silent", "verify passes; plain zarr reads other values")

    def mend(self) -> None:
        """Restore the files that were damaged."""
        for name in self._changed:
            write_entry(self._work / self._base.name, name, self._base.files[name])


class Jsons(Stores):
    """Only edits of the store's JSON: they must never reach a compiled kernel unchecked."""

    def _operate(self, rng: random.Random) -> str:
        return self._json(rng, "", b"")


def _try(call: Callable[[], Any]) -> tuple[Any, str | None]:
    """(value, None), or (None, the line with which it was refused)."""
    try:
        return attempt(call), None
    except Refused as error:
        return None, str(error)


def _difference(text: str, other: str) -> str:
    lines = zip(text.splitlines(), other.splitlines(), strict=False)
    return next((f"{line!r}, was {was!r}" for line, was in lines if line != was), "another number of lines")
