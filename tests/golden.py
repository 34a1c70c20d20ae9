"""Print hashes of everything that a change of names and structure must leave as it is. Not a test: pytest skips it.

    python tests/golden.py > before.txt                      # the code of this checkout
    python tests/golden.py --root /other/checkout > after.txt
    python tests/golden.py --compare before.txt after.txt    # exit code 1 if they differ

One line per item: `name value`, sorted. A value is a SHA-256 (its first 32 digits), floats in hexadecimal, or a word.
Hashes depend on the CPU and on the versions of the libraries, so compare two outputs of one machine and keep none.
Items whose name ends in `.text` hash words that people read (column titles, sentences); `.numbers` the numbers alone.

The whole run takes about 90 seconds on two cores. `--only stores,batches` runs some sections; `--keep DIR` keeps what
they wrote. Everything that knows the names of the code is in the section "Adapter".
"""

import argparse
import csv
import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

BANDS = ("blue", "green", "red", "nir")
Items = dict[str, str]

# ---- Adapter: what the code is called. A rename needs a change here and nowhere else.

# Keys of run.json and metrics.jsonl, and columns of epochs.csv, that hold times or belong to one machine.
UNSTABLE = re.compile(r"seconds|chips_per_s|wait|_s$|gpu|digest|checkpoint$|evaluate$|^(step|copy)$|^store$|workers")


class Code:
    """The code under test, in `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def command(self, package: str, command: str = "", **settings: object) -> list[str]:
        """`python -m package command`, with settings as words (NAME=value) or, in older code, as options."""
        start = [sys.executable, "-W", "ignore", "-m", package, *([command] if command else [])]
        words = {name: str(value) for name, value in settings.items()}
        if '"--store"' not in (self.root / package / "__main__.py").read_text():
            return start + [f"{name}={text}" for name, text in words.items()]
        options, rest = [], []
        for name, text in words.items():
            if name in ("DETERMINISTIC", "SHUFFLE_LABELS", "TTA"):
                options += [f"--{name.lower().replace('_', '-')}"]
            elif package == "train" and name not in self._train_options():
                rest.append(f"{name.lower()}={text}")
            else:
                options += [f"--{name.lower().replace('_', '-')}={text}"]
        return start + options + (["--set", " ".join(rest)] if rest else [])

    def _train_options(self) -> set[str]:
        found = re.findall(r'"--([a-z0-9-]+)"', (self.root / "train" / "flags.py").read_text())
        return {name.upper().replace("-", "_") for name in found} | {"TASK", "STORE", "RUN", "RESUME", "RECIPE"}

    @staticmethod
    def name(*places: str) -> Any:
        """The first of several `module:name` that exists."""
        for place in places:
            module, _, name = place.partition(":")
            try:
                return getattr(importlib.import_module(module), name)
            except (ModuleNotFoundError, AttributeError) as error:
                missing = error
        raise missing

    def load(self) -> None:
        """Import what the batches and splits need, from `root`."""
        sys.path.insert(0, str(self.root))
        importlib.import_module("pipeline")  # sets DALI's environment
        self.open_store = self.name("preprocess.zarr_store:open_store", "preprocess.schema:open_store")
        self.make_split = self.name("preprocess.splits:make_split", "preprocess.split:make_split")
        self.train_loader = self.name("pipeline.loader:train_loader", "canopy:train_loader")
        self.eval_loader = self.name("pipeline.loader:eval_loader", "canopy:eval_loader")
        self.raw_inputs = self.name("pipeline.inputs:raw_inputs", "canopy:raw_inputs")
        self.course_inputs = self.name("pipeline.inputs:course_inputs", "canopy:course_inputs")

    @staticmethod
    def chips(batch: Any) -> np.ndarray:
        """The indices of a batch's chips in the store."""
        return np.asarray(batch.chips if hasattr(batch, "chips") else batch.tiles)

    @staticmethod
    def set_shard(loader: Any, rank: int, world: int) -> None:
        (loader.set_shard if hasattr(loader, "set_shard") else loader.deal)(rank, world)


class Place:
    """A folder of inputs and outputs, and commands that run in it with one thread each: sums have one order."""

    def __init__(self, code: Code, folder: Path) -> None:
        self.code, self.folder = code, folder
        self.environment = os.environ | {
            "PYTHONPATH": str(code.root), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
        }  # fmt: skip

    def start(self, package: str, command: str = "", **settings: object) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.code.command(package, command, **settings), cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, package: str, command: str = "", *, codes: tuple[int, ...] = (0,), **settings: object) -> int:
        """Run a command to its end; its exit code must be one of `codes`."""
        process = self.start(package, command, **settings)
        output, _ = process.communicate()
        if process.returncode not in codes:
            raise RuntimeError(f"{package} {command} {settings}: exit code {process.returncode}\n{output}")
        return process.returncode


# ---- Hashes.


def sha(*values: bytes) -> str:
    return hashlib.sha256(b"".join(values)).hexdigest()[:32]


def hash_array(array: Any) -> str:
    array = np.asarray(array)
    if array.dtype.kind in "UTO":  # strings
        return sha(json.dumps([str(value) for value in array.ravel().tolist()]).encode())
    return sha(f"{array.dtype.str} {array.shape} ".encode(), np.ascontiguousarray(array).tobytes())


def exact(value: Any) -> str:
    """JSON whose floats are in hexadecimal, without the unstable keys; one word."""
    return json.dumps(_exact(value), sort_keys=True).replace(" ", "")


def _exact(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _exact(entry) for key, entry in value.items() if not UNSTABLE.search(key)}
    if isinstance(value, list):
        return [_exact(entry) for entry in value]
    return value.hex() if isinstance(value, float) else value


def hash_csv(path: Path, name: str) -> Items:
    """A table's numbers, without titles and words, in order; and its whole text. Columns of times are left out."""
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    stable = [column for column, title in enumerate(rows[0]) if not UNSTABLE.search(title)]
    rows = [[row[column] for column in stable] for row in rows]
    numbers = [[re.findall(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|nan|inf", cell) for cell in row] for row in rows[1:]]
    return {f"{name}.numbers": sha(json.dumps(numbers).encode()), f"{name}.text": sha(json.dumps(rows).encode())}


def hash_tables(folder: Path, name: str) -> Items:
    return {key: value for path in sorted(folder.glob("*.csv"))
            for key, value in hash_csv(path, f"{name}.{path.stem}").items()}  # fmt: skip


# ---- Inputs: seeded TIFFs.


def smooth(rng: np.random.Generator, shape: tuple[int, int, int], dtype: str) -> np.ndarray:
    """Values as smooth as a picture, with the extremes of their type."""
    if dtype == "float32":
        return (smooth(rng, shape, "int16") / np.float32(10_000)).astype(np.float32)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    ramp = np.cumsum(rng.integers(-3, 4, shape), axis=1) + int(rng.integers(high // 4, high // 2))
    values = np.clip(ramp + low // 2, low, high).astype(dtype)
    values[0, :2, 0] = (low, high)
    return values


def fix_times(folder: Path) -> None:
    """Give the TIFFs one time of change: stores record it."""
    for path in folder.glob("*.tif"):
        os.utime(path, (1_700_000_000, 1_700_000_000))


def write_folder(folder: Path, chips: list[np.ndarray], tags: list[str]) -> None:
    folder.mkdir(parents=True)
    for index, chip in enumerate(chips):
        photometric = "rgb" if chip.shape[-1] == 3 else "minisblack"
        planarconfig = 1 if chip.shape[-1] > 1 else None  # tifffile refuses one for a single band
        tifffile.imwrite(folder / f"t_{index}.tif", chip, photometric=photometric, planarconfig=planarconfig)
    fix_times(folder)
    with open(folder / "tags.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image_name", "tags"), *((f"t_{index}", tag) for index, tag in enumerate(tags))])


def random_folder(folder: Path, *, count: int, height: int, width: int, dtype: str, bands: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    chips = [smooth(rng, (height, width, bands), dtype) for _ in range(count)]
    tags = [" ".join(sorted(rng.choice(["a", "b", "c"], rng.integers(1, 4), replace=False))) for _ in range(count)]
    write_folder(folder, chips, tags)


def faulty_folder(folder: Path) -> None:
    """Chips with a fault of each kind that the audit looks for."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(5)
    wide = [gaussian_filter(rng.normal(size=(48, 96, 4)), (1.5, 1.5, 0)) for _ in range(20)]
    values = [np.clip(5000 + 30_000 * each, 100, 60_000).astype(np.uint16) for each in wide]
    chips = [half for each in values for half in (each[:, :48], each[:, 48:])]  # pairs of neighbours
    chips[7], chips[21] = chips[2].copy(), chips[3] + np.uint16(3)  # a duplicate, a near duplicate
    chips[9] = np.full_like(chips[9], 5000)
    chips[11][:8, :8] = 65535
    chips[13][-10:] = 0
    chips[15] = chips[15] // 40
    tags = [f"{('clear', 'cloudy')[index % 2]} {('road', 'water')[index // 2 % 2]}" for index in range(len(chips))]
    tags[17], tags[18], tags[19] = "clear cloudy", "road", "clear road road"
    write_folder(folder, chips, tags)


# ---- Sections: each returns items.

STORES: dict[str, dict[str, Any]] = {
    "uint16": {"count": 14, "height": 16, "width": 16, "dtype": "uint16", "bands": 4},
    "uint8": {"count": 14, "height": 16, "width": 16, "dtype": "uint8", "bands": 3},
    "int16": {"count": 14, "height": 16, "width": 16, "dtype": "int16", "bands": 4},
    "float32": {"count": 14, "height": 16, "width": 16, "dtype": "float32", "bands": 4},
    "odd": {"count": 30, "height": 17, "width": 23, "dtype": "uint16", "bands": 4},
    "single": {"count": 14, "height": 15, "width": 15, "dtype": "uint8", "bands": 1},
    "chunks": {"count": 3, "height": 210, "width": 200, "dtype": "uint16", "bands": 2},  # two chunks per band
    "shards": {"count": 300, "height": 9, "width": 8, "dtype": "uint8", "bands": 3},  # two shards
}
CODECS = ("lz4", "none")


def store_path(place: Place, name: str, codec: str = "lz4") -> Path:
    return place.folder / f"{name}-{codec}.zarr"


def make_store(place: Place, name: str) -> Items:
    """Write chips, convert them with each codec, and hash the stores. A dtype that the code does not take: refused."""
    folder, values, items = place.folder / f"{name}-tif", STORES[name], {}
    random_folder(folder, **values, seed=sorted(STORES).index(name))
    for codec in CODECS:
        path, bands = store_path(place, name, codec), {"BANDS": ",".join(BANDS)} if values["bands"] == 4 else {}
        code = place.run("preprocess", "convert", codes=(0, 2), DATA=folder, LABELS=folder / "tags.csv", STORE=path,
                         CODEC=codec, JOBS=1, **bands)  # fmt: skip
        items |= hash_store(path, f"store.{name}.{codec}") if code == 0 else {f"store.{name}.{codec}": "refused"}
    if code == 0:
        items[f"store.{name}.verify"] = str(place.run("preprocess", "verify", STORE=path, JOBS=1))
    return items


def hash_store(path: Path, name: str) -> Items:
    """Arrays as plain zarr reads them, attributes, the encoded chunks in order, and whole shard files."""
    import zarr

    group = zarr.open_group(path, mode="r")
    items = {f"{name}.array.{key}": hash_array(array[...]) for key, array in group.arrays()}
    items |= {f"{name}.attribute.{key}": sha(json.dumps(value, sort_keys=True).encode())
              for key, value in group.attrs.items()}  # fmt: skip
    tiles = group["tiles"]
    num_chunks = int(np.prod([shard // chunk for shard, chunk in zip(tiles.shards, tiles.chunks, strict=True)]))
    shards = sorted((path / "tiles" / "c").glob("*/0/0/0"), key=lambda shard: int(shard.parts[-4]))
    chunks = b"".join(chunk for shard in shards for chunk in shard_chunks(shard.read_bytes(), num_chunks))
    return items | {f"{name}.chunks": sha(chunks), f"{name}.shards": sha(*(shard.read_bytes() for shard in shards))}


def shard_chunks(data: bytes, num_chunks: int) -> Iterator[bytes]:
    """Encoded chunks of a shard, whose index is at its end: offsets and sizes, then a crc32c."""
    index = np.frombuffer(data[-(16 * num_chunks + 4) : -4], "<u8").reshape(-1, 2)
    for offset, size in index[index[:, 0] != 2**64 - 1].tolist():
        yield data[offset : offset + size]


def hash_splits(place: Place) -> Items:
    store = place.code.open_store(store_path(place, "odd"))
    rules = [("course", 0.0), ("course", 0.2), ("0.8,0.2", 0.0), ("0.7,0.1,0.2@5", 0.0)]
    return {f"split.{rule}.{val:g}": place.code.make_split(rule, store, val=val).sha256()[:32] for rule, val in rules}


def hash_batches(loader: Any, name: str, epochs: range = range(3), first_step: int = 0) -> Items:
    digests = {key: hashlib.sha256() for key in ("images", "labels", "chips")}
    for epoch in epochs:
        for batch in loader.epoch(epoch, first_step):
            arrays = batch.images_nchw, batch.labels, Code.chips(batch)
            for key, array in zip(digests, arrays, strict=True):
                digests[key].update(hash_array(array).encode())
            digests["chips"].update(str(batch.num_valid).encode())
            digests["images"].update(str(batch.images_nchw.stride()).encode())
    loader.close()
    return {f"batches.{name}.{key}": digest.hexdigest()[:32] for key, digest in digests.items()}


def make_batches(place: Place) -> Items:
    code, items = place.code, {}
    for name in ("demo", "odd", "uint8", "float32"):
        path = store_path(place, name)
        if not path.exists():
            continue
        store = code.open_store(path)
        split, size = code.make_split("course", store), 8 if name in ("demo", "odd") else 4
        train, test, bands = split.train[:40], split.test[:18], BANDS if name != "uint8" else store.layout.bands
        raw = {len(chosen): code.raw_inputs(store, chosen, split.train) for chosen in (bands, ("red", "green", "blue"))
               if set(chosen) <= set(store.layout.bands)}  # fmt: skip
        flips = ("none", "both", "dihedral") if name in ("demo", "odd") else ("dihedral",)
        for engine, flip, count in product(("direct", "dali"), flips, raw):
            loader = code.train_loader(store, train, raw[count], batch_size=size, seed=3, flips=flip, workers=2,
                                       engine=engine)  # fmt: skip
            items |= hash_batches(loader, f"{name}.train.{engine}.{flip}.{count}")
        count = max(raw)
        for engine, test_rule in (("direct", "center"), ("dali", "center"), ("dali", "resize")):
            loader = code.eval_loader(store, test, raw[count], batch_size=size, test=test_rule, workers=2,
                                      engine=engine)  # fmt: skip
            items |= hash_batches(loader, f"{name}.{test_rule}.{engine}", range(1))
        if name == "demo":
            items |= make_course_batches(code, store, train, test) | make_other_batches(code, store, train, raw[4])
    return items


def make_course_batches(code: Code, store: Any, train: np.ndarray, test: np.ndarray) -> Items:
    items = {}
    for count in (3, 4):
        inputs = code.course_inputs(store, count)
        loader = code.train_loader(store, train, inputs, batch_size=8, seed=3, flips="horizontal", workers=2)
        items |= hash_batches(loader, f"course.train.{count}")
        for rule in ("center", "resize"):
            loader = code.eval_loader(store, test, inputs, batch_size=8, test=rule, workers=2)
            items |= hash_batches(loader, f"course.{rule}.{count}", range(1))
    return items


def make_other_batches(code: Code, store: Any, train: np.ndarray, inputs: Any) -> Items:
    """A cache in memory, one rank of two, and an epoch from its third step on."""
    items = {}
    for name, engine, cache in (("cached", "direct", "host"), ("rank", "direct", "none"), ("later", "dali", "none")):
        loader = code.train_loader(store, train, inputs, batch_size=4, seed=5, crop=(40, 33), workers=1, engine=engine,
                                   cache=cache)  # fmt: skip
        if name == "rank":
            code.set_shard(loader, 1, 2)
        items |= hash_batches(loader, name, range(2), first_step=2 if name == "later" else 0)
    return items


COMMON = {"GPU": "cpu", "WEIGHTS": "none", "WORKERS": 1, "AMP": "off", "BATCH": 16, "CROP": 32, "EPOCHS": 3}
RUNS: dict[str, dict[str, object]] = {
    "task1": {"TASK": 1},
    "task3": {"TASK": 3, "ACCUMULATE": 2, "TRUNK_LR": 0.5, "FLIPS": "both", "SEED": 7},
    "task4": {"TASK": 4, "EMA": 0.9, "SMOOTHING": 0.1, "BALANCE": 0.5, "VAL": 0.2},
    "best": {"TASK": 1, "RECIPE": "best", "EPOCHS": 1, "SCHEDULE": "cosine", "LOSS": "asymmetric"},
    "course": {"TASK": 4, "RECIPE": "course", "INPUT": "course", "TEST": "resize", "EPOCHS": 2, "LOSS": "soft_margin"},
    "control": {"TASK": 1, "EPOCHS": 1, "SHUFFLE_LABELS": 1, "SPLIT": "0.7,0.1,0.2@5", "CACHE": "host"},
}
RESUMED = ("task1", "task3", "task4")


def train(place: Place, name: str) -> Items:
    run = place.folder / "runs" / name
    place.run("train", RUN=run, STORE=store_path(place, "demo"), **COMMON | RUNS[name])
    return hash_run(run, f"train.{name}")


def train_stopped(place: Place, name: str) -> Items:
    """Stop a run in its second epoch, and resume it: it must equal the run that nobody stopped."""
    run = place.folder / "stopped" / name
    process = place.start("train", RUN=run, STORE=store_path(place, "demo"), **COMMON | RUNS[name])
    lines = run / "metrics.jsonl"
    while process.poll() is None and not (lines.exists() and lines.stat().st_size):
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    if process.returncode != 75:
        raise RuntimeError(f"{name}: expected exit code 75 of a stopped run, found {process.returncode}\n{output}")
    place.run("train", RESUME=run)
    return hash_run(run, f"resumed.{name}")


def hash_run(run: Path, name: str) -> Items:
    """Losses, scores and weights, from the run's files."""
    from safetensors.numpy import load_file

    record = json.loads((run / "run.json").read_text())
    items = {f"{name}.config.{key}": exact(value) for key, value in record["config"].items()
             if not UNSTABLE.search(key)}  # fmt: skip
    items |= {f"{name}.inputs.{key}": exact(value) for key, value in record["inputs"].items()}
    items |= {f"{name}.split": record["split"]["sha256"][:32], f"{name}.best_epoch": str(record["best_epoch"])}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        items |= {f"{name}.epoch{values['epoch']}.{key}": exact(value) for key, value in values.items()
                  if not UNSTABLE.search(key)}  # fmt: skip
    with np.load(run / "results.npz") as results:
        items |= {f"{name}.results.{key}": hash_array(results[key]) for key in results.files if key != "depends_on"}
    tensors = load_file(run / "model.safetensors")
    items[f"{name}.weights"] = sha(*(f"{key} {hash_array(tensors[key])}".encode() for key in sorted(tensors)))
    return items


def report(place: Place) -> Items:
    runs = place.folder / "runs"
    place.run("analysis", "reproduce", RUN=runs / "task1", GPU="cpu")
    place.run("analysis", "report", RUN=runs / "task1", COMPARE=f"{runs / 'task3'},{runs / 'best'}")
    return hash_tables(runs / "task1" / "report" / "tables", "report")


def audit(place: Place) -> Items:
    folder, items = place.folder / "faulty-tif", {}
    faulty_folder(folder)
    store, demo = place.folder / "faulty.zarr", store_path(place, "demo")
    place.run("preprocess", "convert", DATA=folder, LABELS=folder / "tags.csv", STORE=store, BANDS=",".join(BANDS))
    place.run("analysis", "audit", STORE=store, LABELS=folder / "tags.csv", EXCLUSIVE="clear,cloudy", SPLIT="course")
    place.run("analysis", "audit", STORE=demo, RUN=place.folder / "runs" / "task1")
    for path in (store, demo):
        items |= hash_tables(path.with_name(f"{path.name}.audit") / "tables", f"audit.{path.stem}")
        groups = json.loads(path.with_name(f"{path.name}.groups.json").read_text())["groups"]
        items[f"audit.{path.stem}.groups"] = sha(json.dumps(groups).encode())
    split = place.code.make_split("blocked", place.code.open_store(store), val=0.1)
    return items | {"split.blocked": split.sha256()[:32]}


def predict(place: Place) -> Items:
    """A folder with a file that is no TIFF; scores with and without the mean over the symmetries."""
    folder, items = place.folder / "new-tif", {}
    shutil.copytree(place.folder / "other" / "tif", folder)
    (folder / "broken.tif").write_text("no TIFF")
    for name, more in (("task4", {}), ("task3", {"TTA": 1})):
        out = place.folder / f"predictions-{name}.csv"
        place.run("analysis", "predict", codes=(1,), RUN=place.folder / "runs" / name, DATA=folder, OUT=out, **more)
        for path in (out, out.with_name(f"{out.stem}_submission.csv")):
            items[f"predict.{name}.{path.stem.replace('predictions-', '')}"] = sha(path.read_bytes())
        bad = out.with_name(f"{out.stem}_bad.csv").read_text().splitlines()
        items[f"predict.{name}.bad"] = sha("\n".join(line.split(",")[0] for line in bad).encode())
    return items


def make_demo(place: Place) -> Items:
    """The demo chips that the runs learn from, and others to predict."""
    place.run("preprocess", "demo", OUT=place.folder / "demo", CHIPS=150)
    place.run("preprocess", "demo", OUT=place.folder / "other", CHIPS=20, SEED=1)
    fix_times(place.folder / "demo" / "tif")
    path = store_path(place, "demo")
    place.run("preprocess", "convert", DATA=place.folder / "demo" / "tif", LABELS=place.folder / "demo" / "labels.csv",
              STORE=path, BANDS=",".join(BANDS), JOBS=1)  # fmt: skip
    return hash_store(path, "store.demo.lz4")


# ---- The run, and the comparison of two.

Work = Callable[[], Items]


def phases(place: Place) -> list[dict[str, Work]]:
    """Work by name; each phase needs those before it. What starts with `batches` or `split` runs in this process."""

    def work(function: Callable[..., Items], *arguments: str) -> Work:
        return lambda: function(place, *arguments)

    return [
        {"stores.demo": work(make_demo), **{f"stores.{name}": work(make_store, name) for name in STORES}},
        {
            **{f"train.{name}": work(train, name) for name in RUNS},
            **{f"resumed.{name}": work(train_stopped, name) for name in RESUMED},
            "split": work(hash_splits), "batches": work(make_batches),
        },
        {"report": work(report), "audit": work(audit), "predict": work(predict)},
    ]  # fmt: skip


def golden(place: Place, sections: tuple[str, ...] = ()) -> tuple[Items, list[str]]:
    """All items, and what failed. `sections`: the first words of the names of the work to do; empty: all."""
    place.code.load()
    items: Items = {}
    failed: list[str] = []
    lock = threading.Lock()

    def attempt(name: str, function: Work) -> None:
        started = time.monotonic()
        try:
            found = function()
        except Exception:
            # Whatever it is, the other sections say more; the run ends with exit code 1.
            failed.append(name)
            print(f"{name} FAILED\n{traceback.format_exc()}", file=sys.stderr)
            return
        with lock:
            items.update(found)
        print(f"{name}: {len(found)} items, {time.monotonic() - started:.1f} s", file=sys.stderr)

    for phase in phases(place):
        phase = {name: work for name, work in phase.items() if not sections or name.split(".")[0] in sections}
        here = [name for name in phase if name in ("split", "batches")]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for name in phase:
                if name not in here:
                    pool.submit(attempt, name, phase[name])
            for name in here:
                attempt(name, phase[name])
    for name in RESUMED if not sections or {"train", "resumed"} <= set(sections) else ():
        whole = {key.partition(".")[2]: value for key, value in items.items() if key.startswith(f"train.{name}.")}
        resumed = {key.partition(".")[2]: value for key, value in items.items() if key.startswith(f"resumed.{name}.")}
        items = {key: value for key, value in items.items() if not key.startswith(f"resumed.{name}.")}
        different = sorted(key for key in whole.keys() | resumed.keys() if whole.get(key) != resumed.get(key))
        items[f"resumed.{name}"] = ",".join(different) or "equals-the-uninterrupted-run"
    return items, failed


def compare(before: Path, after: Path) -> list[str]:
    """A line for each difference. An item that has another name and the same value is called renamed."""
    old, new = (dict(line.split(" ", 1) for line in path.read_text().splitlines()) for path in (before, after))
    lines = [f"differs  {name}: {old[name]} -> {new[name]}" for name in sorted(old.keys() & new.keys())
             if old[name] != new[name]]  # fmt: skip
    gone, come = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
    for name in gone:
        if other := next((each for each in come if new[each] == old[name]), None):
            come.remove(other)
            lines.append(f"renamed  {name} -> {other}")
        else:
            lines.append(f"missing  {name} {old[name]}")
    return lines + [f"new      {name} {new[name]}" for name in come]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="the checkout to run; default: the one that holds this file")
    parser.add_argument(
        "--only", default="", help="sections, with commas: stores,train,resumed,split,batches,report,audit,predict"
    )
    parser.add_argument("--keep", type=Path, help="a new folder for everything that is written; it is not removed")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"))
    args = parser.parse_args()
    if args.compare:
        lines = compare(*args.compare)
        print("\n".join(lines) or "equal")
        return 1 if lines else 0
    warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3 specification")
    root = (args.root or Path(__file__).parents[1]).resolve()
    print(f"the code of {root}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (args.keep or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        items, failed = golden(Place(Code(root), folder), tuple(args.only.split(",")) if args.only else ())
    for name in sorted(items):
        print(name, items[name])
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
