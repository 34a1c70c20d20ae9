"""What `golden.py` prints: each function here runs a part of the code and returns items, name -> hash or word.

In: a `Place`, the TIFFs of `golden_inputs`, and the demo chips. Knows files on disk (their names
never change) but no names of the code: those are in `golden_code`.
"""

import csv
import hashlib
import json
import re
import shutil
import signal
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from golden_code import UNSTABLE, Code, Place
from golden_inputs import faulty_folder, fix_times, random_folder

BANDS = ("blue", "green", "red", "nir")
Items = dict[str, str]


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
UNCOMPRESSED = ("uint16", "uint8", "float32", "odd")  # also converted with CODEC=none
VERIFIED = ("float32", "odd", "shards")


def store_path(place: Place, name: str, codec: str = "lz4") -> Path:
    return place.folder / f"{name}-{codec}.zarr"


def make_store(place: Place, name: str) -> Items:
    """Write chips, convert them with each codec, and hash the stores. A dtype that the code does not take: refused."""
    folder, values, items = place.folder / f"{name}-tif", STORES[name], {}
    random_folder(folder, **values, seed=sorted(STORES).index(name))
    for codec in ("lz4", "none") if name in UNCOMPRESSED else ("lz4",):
        path, bands = store_path(place, name, codec), {"BANDS": ",".join(BANDS)} if values["bands"] == 4 else {}
        code = place.run("preprocess", "convert", codes=(0, 2), DATA=folder, LABELS=folder / "tags.csv", STORE=path,
                         CODEC=codec, JOBS=1, **bands)  # fmt: skip
        items |= hash_store(path, f"store.{name}.{codec}") if code == 0 else {f"store.{name}.{codec}": "refused"}
    if name in VERIFIED and code == 0:
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
    for name, codec in (("demo", "lz4"), ("odd", "none"), ("uint8", "lz4"), ("int16", "lz4"), ("float32", "none")):
        path = store_path(place, name, codec)
        if path.exists():  # else refused
            store = code.open_store(path)
            split = code.make_split("course", store)
            items |= make_raw_batches(code, store, split, name)
            if name == "demo":
                items |= make_course_batches(code, store, split) | make_other_batches(code, store, split)
    return items


def make_raw_batches(code: Code, store: Any, split: Any, name: str) -> Items:
    """Both engines: each kind of flips and bands on the demo chips, the most of it on the other stores."""
    items: Items = {}
    train, test, size = split.train[:40], split.test[:18], 8 if len(split.train) > 16 else 4
    some = {BANDS, ("red", "green", "blue")} if name == "demo" else {tuple(store.layout.bands)}
    raw = {len(bands): code.raw_inputs(store, bands, split.train) for bands in some}
    flips = {"demo": ("none", "both", "dihedral"), "odd": ("both", "dihedral")}.get(name, ("dihedral",))
    for engine, flip, count in product(("direct", "dali"), flips, raw):
        loader = code.train_loader(store, train, raw[count], batch_size=size, seed=3, flips=flip, workers=2,
                                   engine=engine)  # fmt: skip
        items |= hash_batches(loader, f"{name}.train.{engine}.{flip}.{count}")
    for engine, test_rule in (("direct", "center"), ("dali", "center"), ("dali", "resize")):
        loader = code.eval_loader(store, test, raw[max(raw)], batch_size=size, test=test_rule, workers=2,
                                  engine=engine)  # fmt: skip
        items |= hash_batches(loader, f"{name}.{test_rule}.{engine}", range(1))
    return items


def make_course_batches(code: Code, store: Any, split: Any) -> Items:
    items, train, test = {}, split.train[:40], split.test[:18]
    for count in (3, 4):
        inputs = code.course_inputs(store, count)
        loader = code.train_loader(store, train, inputs, batch_size=8, seed=3, flips="horizontal", workers=2)
        items |= hash_batches(loader, f"course.train.{count}")
        for rule in ("center", "resize"):
            loader = code.eval_loader(store, test, inputs, batch_size=8, test=rule, workers=2)
            items |= hash_batches(loader, f"course.{rule}.{count}", range(1))
    return items


def make_other_batches(code: Code, store: Any, split: Any) -> Items:
    """A cache in memory, one rank of two, and an epoch from its third step on."""
    items, train, inputs = {}, split.train[:40], code.raw_inputs(store, BANDS, split.train)
    for name, engine, cache in (("cached", "direct", "host"), ("rank", "direct", "none"), ("later", "dali", "none")):
        loader = code.train_loader(store, train, inputs, batch_size=4, seed=5, crop=(40, 33), workers=1, engine=engine,
                                   cache=cache)  # fmt: skip
        if name == "rank":
            code.set_shard(loader, 1, 2)
        items |= hash_batches(loader, name, range(2), first_step=2 if name == "later" else 0)
    return items


COMMON = {"GPU": "cpu", "WEIGHTS": "none", "WORKERS": 1, "AMP": "off", "BATCH": 16, "CROP": 32, "EPOCHS": 2}
RUNS: dict[str, dict[str, object]] = {
    "task1": {"TASK": 1},
    "task3": {"TASK": 3, "ACCUMULATE": 2, "TRUNK_LR": 0.5, "FLIPS": "both", "SEED": 7},
    "task4": {"TASK": 4, "EMA": 0.9, "SMOOTHING": 0.1, "BALANCE": 0.5, "VAL": 0.2},
    "best": {"TASK": 1, "RECIPE": "best", "EPOCHS": 1, "SCHEDULE": "cosine", "LOSS": "asymmetric"},
    "course": {"TASK": 4, "RECIPE": "course", "INPUT": "course", "TEST": "resize", "EPOCHS": 1, "LOSS": "soft_margin"},
    "control": {"TASK": 1, "EPOCHS": 1, "SHUFFLE_LABELS": 1, "SPLIT": "0.7,0.1,0.2@5", "CACHE": "host"},
}
RESUMED = ("task1", "task3", "task4")


def train(place: Place, name: str) -> Items:
    run = place.folder / "runs" / name
    place.run("train", RUN=run, STORE=store_path(place, "demo"), **COMMON | RUNS[name])
    return hash_run(run, f"train.{name}")


def train_stopped(place: Place, name: str) -> Items:
    """Stop a run in its second epoch, and resume it: it must equal the run of this name that nobody stopped."""
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
    whole, resumed = hash_run(place.folder / "runs" / name, "run"), hash_run(run, "run")
    different = sorted(key for key in whole.keys() | resumed.keys() if whole.get(key) != resumed.get(key))
    return {f"resumed.{name}": ",".join(different) or "equals-the-uninterrupted-run"}


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
