"""`make zarr`: convert TIFFs and a CSV to a store, shard by shard, in parallel, resumable at any moment.

In: a `Request`. Out: a store. First `plan.make_plan` checks everything that needs no pixels. Each shard is one task
(`write.convert_shard`), which ends by writing `progress/N.npz` with sums and checksums. A shard is done when that file
exists, so a kill at any moment loses at most the shards in work. At the end the small arrays are written, the disk is
synced, and `NAME.partial/store` is renamed to `NAME`.

Memory: one chip per process. The result does not depend on the order in which tasks end, so any engine that runs
`convert_shard` over `Plan.tasks()` makes the same bytes.
"""

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from preprocess import zarr_store
from preprocess.commands import ConversionSettings
from preprocess.console import Progress, UserError, say
from preprocess.csv_rows import csv_line
from preprocess.files import locked, named_errors
from preprocess.fit import FitCounts, fit_line
from preprocess.georeference import has_place, places_line, unit_of_crs
from preprocess.labels import settings_of
from preprocess.layout import MIB
from preprocess.nodata import nodata_lines
from preprocess.plan import Plan, make_plan
from preprocess.split_rules import split_counts
from preprocess.workers import check_open_files, run_tasks, start_server
from preprocess.write import ShardTask, convert_shard, progress_path

MAX_SHOWN = 50  # classes listed in the last line
_RECORDED = ("band_sum", "band_sumsq", "checksum", "source_size", "source_mtime_ns", "shard_digest", "transform", "crs",
             "crs_unit")  # fmt: skip


def convert(settings: ConversionSettings, check_plan: Callable[[Plan], None] = lambda plan: None) -> None:
    """Convert, resume a stopped conversion, or report that the store is complete.

    `check_plan` may refuse the plan before a pixel is read.

    Raises:
        UserError: something is wrong with the input; the final name is then unchanged.
    """
    if settings.jobs > 1:
        check_open_files(settings.jobs)
        start_server("preprocess.write", "preprocess.lz4")  # while the plan is made
    plan = make_plan(settings)
    check_plan(plan)
    root = zarr_store.partial_path(settings.store)
    if settings.store.exists():
        _report_complete(plan)
        return
    for note in plan.notes:
        say(note)
    with locked(root, "conversion"):
        if settings.store.exists():  # another conversion ended between the check and the lock
            _report_complete(plan)
            return
        tasks = _tasks_left(plan, root)
        total, left = len(plan.names), sum(len(task.paths) for task in tasks)
        if left < total:
            say(f"{settings.store}: resuming: {total - left} of {total} chips are done.")
        with Progress("convert", total=total, unit="chips", done=total - left) as progress:
            chips_of = {task.shard: len(task.paths) for task in tasks}
            for number in run_tasks(convert_shard, tasks, jobs=settings.jobs):
                progress.update(chips_of[number])
                # Flushed while the others work: flushing all at the end took a sixth of the time for 2,048 Planet-size
                # chips.
                _flush(zarr_store.shard_path(root / "store", number))
        fitted, places = _finish(plan, root)
    _say_nodata(settings.store, plan)
    encoded = zarr_store.encoded_bytes(settings.store, plan.layout, total)
    raw = plan.layout.chip_bytes * total
    untagged = int((plan.labels.sum(axis=1) == 0).sum())
    if untagged:
        say(f"{settings.store}: {untagged} chips have no tag.")
    for line in _optional_lines(plan, fitted, places):
        say(f"{settings.store}: {line}")
    say(
        f"{settings.store}: {total} chips, {len(plan.classes)} classes ({_listed(plan.classes)}), "
        f"bands {', '.join(plan.layout.bands)}; "
        f"{encoded / MIB:.1f} MiB (raw {raw / MIB:.1f} MiB, ratio {raw / encoded:.2f})."
    )


def _optional_lines(plan: Plan, fitted: np.ndarray, places: str) -> Iterator[str]:
    """Lines about what only some stores have."""
    if plan.split is not None:
        yield f"SPLIT=column uses the split of the labels file ({split_counts(plan.split)})."
    if plan.files.fit:
        yield fit_line(plan.files.fit, fitted, len(plan.names))
    if places:
        yield f"chips with coordinates: {places}."


def _say_nodata(path: Path, plan: Plan) -> None:
    if plan.layout.nodata is not None:
        store = zarr_store.open_store(path)
        pixels = plan.layout.height * plan.layout.width
        first, *others = nodata_lines(plan.layout.nodata, store.valid_count, pixels, store.names)
        for line in (f"nodata {first}", *others):
            say(f"{path}: {line}.")


def _listed(classes: tuple[str, ...]) -> str:
    """The classes as CLASSES=... takes them, with quotes around one with a comma; long lists are cut."""
    if len(classes) <= MAX_SHOWN:
        return csv_line(classes)
    return f"{csv_line(classes[:MAX_SHOWN])} and {len(classes) - MAX_SHOWN} more; `make info` lists all"


def _report_complete(plan: Plan) -> None:
    _compare_with_complete(plan)
    zarr_store.encoded_bytes(plan.store, plan.layout, len(plan.names))  # raises for a missing shard
    shutil.rmtree(
        zarr_store.partial_path(plan.store), ignore_errors=True
    )  # left by a conversion killed at its very end
    say(f"{plan.store}: the store is complete ({len(plan.names)} chips, unchanged files). Nothing to do.")


def _tasks_left(plan: Plan, root: Path) -> list[ShardTask]:
    """Tasks that are not done. Starts a partial store, or checks that the existing one can be resumed."""
    record = root / "plan.json"
    if record.exists() and (root / "store" / "tiles" / "zarr.json").exists():
        try:
            before: dict[str, str] = json.loads(record.read_text())
        except ValueError as error:
            raise UserError(f"{record}: damaged. Remove {root} to start again.") from error
        if differences := _differences(before, plan.settings()):
            raise UserError(
                f"{root}: started with other settings ({differences}). Use those again, or remove {root} to start "
                "again."
            )
    else:
        (root / "progress").mkdir(exist_ok=True)
        with named_errors(root / "store"):
            zarr_store.create_chips(root / "store", plan.layout, len(plan.names))
        zarr_store.write_atomic(record, json.dumps(plan.settings(), indent=1).encode())
    _sweep(root)  # frees the disk space of incomplete files before more is written
    left = []
    for task in plan.tasks():
        state = _shard_state(task)
        if state != "done":
            left.append(task)
        if state.startswith("changed"):
            say(f"{plan.store}: {state}. Converting shard {task.shard} again.")
    return left


def _sweep(folder: Path) -> None:
    """Remove files left by a killed writer: ours are called `.NAME.RANDOM`, zarr-python's `NAME.ID.partial`."""
    for path in folder.rglob("*"):
        if path.is_file() and (path.name.startswith(".") or path.name.endswith(".partial")):
            path.unlink(missing_ok=True)


def _differences(before: dict[str, str], now: dict[str, str]) -> str:
    pairs = {key: (before.get(key, _UNSET), now.get(key, _UNSET)) for key in {**now, **before}}
    return "; ".join(f"{key}: {old}, now {new}" for key, (old, new) in pairs.items() if old != new)


_UNSET = "not set"  # a setting that is only recorded where a user gives it


def _shard_state(task: ShardTask) -> str:
    """ "done", "missing", or a text that begins with "changed" and names the first changed file."""
    try:
        # Read into memory: given a path, numpy leaves an incomplete file open.
        with np.load(io.BytesIO(progress_path(task).read_bytes())) as progress:
            size, mtime_ns, shard_bytes = progress["source_size"], progress["source_mtime_ns"], progress["shard_bytes"]
            progress["shard_digest"], progress["transform"]  # earlier versions of canopy wrote neither
        if zarr_store.shard_path(task.root / "store", task.shard).stat().st_size != int(shard_bytes):
            return "missing"
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return "missing"  # or incomplete after a power cut: it is written again in both cases
    changed = np.flatnonzero((size != task.size) | (mtime_ns != task.mtime_ns))
    if not len(changed):
        return "done"
    return f"changed: size or time of {len(changed)} source files (first {task.paths[changed[0]]})"


def _flush(path: Path) -> None:
    with named_errors(path), open(path, "rb") as file:
        os.fsync(file.fileno())


def _finish(plan: Plan, root: Path) -> tuple[np.ndarray, str]:
    """Write the small arrays and rename the store. Returns the counts of `fit`, and how many chips have a place."""
    blocks: dict[str, list[np.ndarray]] = {}
    fitted = np.zeros(len(FitCounts().as_array()), np.int64)
    for task in plan.tasks():
        with named_errors(progress_path(task)), np.load(progress_path(task)) as progress:
            for name in _RECORDED if plan.layout.nodata is None else (*_RECORDED, "valid_count"):
                blocks.setdefault(name, []).append(np.atleast_1d(progress[name]))
            fitted += progress["fitted"] if plan.files.fit else 0
    arrays = {name: np.concatenate(values) for name, values in blocks.items()}
    arrays |= {"names": np.array(plan.names, object), "labels": plan.labels, "csv_row": plan.csv_row}
    if plan.split is not None:
        arrays["split"] = plan.split
    source: dict[str, Any] = {**plan.source, "labels": plan.label_settings.as_dict()}
    units, places = arrays.pop("crs_unit"), ""
    if has_place(arrays["transform"]).any():
        source["crs_units"] = unit_of_crs(arrays["crs"], units)
        places = places_line(arrays["transform"], arrays["crs"])
    else:  # such stores are as they were before coordinates were kept
        del arrays["transform"], arrays["crs"]
    with named_errors(root / "store"):
        zarr_store.finish(root / "store", plan.layout, plan.classes, plan.num_csv_rows, arrays, source)
    _sweep(root / "store")
    os.sync()  # flush everything else: all of it must be on disk before the final name exists
    os.rename(root / "store", plan.store)
    shutil.rmtree(root, ignore_errors=True)
    return fitted, places


def _compare_with_complete(plan: Plan) -> None:
    """Raise UserError if a complete store differs from the current settings; names the difference."""
    store = zarr_store.open_store(plan.store)
    before = replace(
        plan, layout=store.layout, classes=store.classes, num_csv_rows=store.num_csv_rows,
        names=tuple(str(name) for name in store.names), labels=store.labels, csv_row=store.csv_row, split=store.split,
        source=store.source, label_settings=settings_of(store),
    )  # fmt: skip
    differences = _differences(before.settings(), plan.settings())
    if not differences:
        changed = np.flatnonzero((store.source_size != plan.size) | (store.source_mtime_ns != plan.mtime_ns))
        if len(changed):
            differences = f"size or time of {len(changed)} source files, first {plan.paths[changed[0]]}"
    if differences:
        raise UserError(
            f"{plan.store}: made with other settings or files ({differences}). "
            "Choose another STORE, or remove it to convert again."
        )
