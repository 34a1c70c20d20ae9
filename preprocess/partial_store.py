"""NAME.partial: the store while it is converted, its plan, and which of its shards are done.

In: a `Plan`. Out: the folder, and the numbers of the shards that are left. One conversion holds the folder alone, or
several shares of one (SHARDS=1/4 and others, on any host that sees the disk) hold it together. The folder has

    plan.json   the settings that must be equal to resume
    plan.npz    the plan for worker processes, see `plan_file`; whoever comes first makes both
    store/      the growing store
    progress/   N.npz for each finished shard: sums, checksums, places
    temporary/  unfinished shard files
    lock        held alone by a conversion, together by shares

Leaves converting shards to `write`, and completing the store to `convert`.
"""

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from preprocess import zarr_store
from preprocess.console import UserError
from preprocess.files import locked, named_errors, partial_path, shared_lock, write_atomic, write_new
from preprocess.plan import Plan
from preprocess.plan_file import PLAN, WorkPlan, read_plan
from preprocess.progress import differences, progress_name
from preprocess.targets import TEMPORARY, DiskTarget

_HOUR_S = 3600  # an unfinished file of a share on another host is younger
_SHARED = "shared"  # exists if shares have ever worked in the folder


class PartialFolder:
    """NAME.partial beside a store on a disk. `PartialBucket` has the same methods for a bucket."""

    def __init__(self, store: Path) -> None:
        self.store, self.root = store, partial_path(store)

    def is_complete(self) -> bool:
        """Whether the store is complete."""
        return self.store.exists()

    def held(self, *, alone: bool) -> AbstractContextManager[None]:
        """Hold the folder alone, or together with other shares.

        Raises:
            UserError: another conversion holds it.
        """
        return locked(self.root, "conversion") if alone else shared_lock(self.root, "conversion")

    def prepare(self, plan: Plan, *, alone: bool, others: bool) -> WorkPlan:
        """See `prepare`."""
        return prepare(self.root, plan, alone=alone, others=others)

    def progress(self, shards: range) -> Iterator[tuple[bytes | None, int]]:
        """Of each shard its progress (None: not done) and its size."""
        target = DiskTarget(self.root)
        for shard in shards:
            try:
                yield target.read(progress_name(shard)), target.shard_bytes(shard)
            except OSError:
                yield None, 0

    def num_done(self) -> int:
        """Shards with a progress file."""
        return sum(1 for _ in (self.root / "progress").glob("[0-9]*.npz"))

    def flush(self, shard: int) -> None:
        """Write a shard from the page cache to the disk."""
        path = zarr_store.shard_path(self.root / "store", shard)
        with named_errors(path), open(path, "rb") as file:
            os.fsync(file.fileno())

    def complete(self, plan: Plan, arrays: dict[str, Any], source: dict[str, Any]) -> None:
        """Write the small arrays, and rename the store."""
        store = self.root / "store"
        with named_errors(store):
            zarr_store.finish(store, plan.layout, plan.classes, plan.num_csv_rows, arrays, source)
        sweep(store)
        os.sync()  # flush everything else: all of it must be on disk before the final name exists
        os.rename(store, self.store)
        with contextlib.suppress(OSError):  # a second writer of a shard that is late finds no place for another file
            os.rename(self.root / TEMPORARY, self.root / "removed")
        self.remove()

    def remove(self) -> None:
        """Remove NAME.partial."""
        shutil.rmtree(self.root, ignore_errors=True)


def prepare(root: Path, plan: Plan, *, alone: bool, others: bool = False) -> WorkPlan:
    """Start a partial store, or check that the existing one can be resumed.

    Args:
        root: NAME.partial, locked.
        alone: whether the lock is exclusive. Then files of killed writers are removed, and source files may have
            changed since the folder was made: their shards are converted again.
        others: whether workers on other hosts will write into the folder; shares do.

    Raises:
        UserError: the folder was started with other settings, or its files are damaged.
    """
    for folder in ("progress", TEMPORARY):
        (root / folder).mkdir(exist_ok=True)
    if others or not alone:
        (root / _SHARED).touch()
    _check_settings(root, plan, alone=alone)
    if not _chips_exist(root):
        _create_store(root, plan)
    if alone:
        sweep(root)  # frees the disk space of incomplete files before more is written
    work = plan.work()
    path = root / PLAN
    if not write_new(path, work.encode()):
        _check_plan(path, work, plan, alone=alone)
    return work


def _chips_exist(root: Path) -> bool:
    return (root / "store" / "tiles" / "zarr.json").exists()


def _check_settings(root: Path, plan: Plan, *, alone: bool) -> None:
    record, settings = root / "plan.json", plan.settings()
    data = json.dumps(settings, indent=1).encode()
    if alone and not _chips_exist(root):
        write_atomic(record, data)  # nothing is written yet, so any settings can be used
    if write_new(record, data):
        return
    try:
        before: dict[str, str] = json.loads(record.read_text())
    except ValueError as error:
        raise UserError(f"{record}: damaged. Remove {root} to start again.") from error
    if found := differences(before, settings):
        raise UserError(
            f"{root}: started with other settings ({found}). Use those again, or remove {root} to start again."
        )


def _create_store(root: Path, plan: Plan) -> None:
    """Create the store under another name and rename it: of several shares that start together one wins."""
    made = root / f"store.{secrets.token_hex(8)}"
    with named_errors(made):
        zarr_store.create_chips(made, plan.layout, len(plan.names))
    if not (root / "store").exists() or not _chips_exist(root):
        try:
            os.rename(made, root / "store")  # fails if the other store has files
            return
        except OSError:
            if not _chips_exist(root):
                raise
    shutil.rmtree(made)


def _check_plan(path: Path, work: WorkPlan, plan: Plan, *, alone: bool) -> None:
    """Compare the existing plan with this one; replace it if no share can be using it.

    Raises:
        UserError: shares have other source files.
    """
    try:
        before = read_plan(path)
    except UserError:
        if not alone:
            raise
        before = None
    if before is not None and before.digest == work.digest:
        return
    if alone:
        write_atomic(path, work.encode())
        return
    assert before is not None
    changed = np.flatnonzero((before.size != work.size) | (before.mtime_ns != work.mtime_ns))
    what = f"size or time of {len(changed)} source files, first {plan.paths[changed[0]]}" if len(changed) else (
        f"files below {before.folder or before.paths.prefix}, now {work.folder or work.paths.prefix}"
    )  # fmt: skip
    raise UserError(
        f"{path.parent}: another share was started with other files ({what}). Run the command without SHARDS, which "
        "converts the changed ones."
    )


def sweep(folder: Path) -> None:
    """Remove files left by a killed writer: ours are called `.NAME.RANDOM`, zarr-python's `NAME.ID.partial`.

    If shares have worked here, one may still run on a host that does not see our lock: files of the last hour stay.
    """
    newest = time.time() - (_HOUR_S if (folder / _SHARED).exists() else 0)
    for path in folder.rglob("*"):
        if path.is_file() and (path.name.startswith(".") or path.name.endswith(".partial")):
            if path.stat().st_mtime <= newest:
                path.unlink(missing_ok=True)
    for path in folder.glob("store.*"):
        shutil.rmtree(path)
