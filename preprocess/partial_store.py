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

import json
import os
import secrets
import shutil
import time
from pathlib import Path

import numpy as np

from preprocess import zarr_store
from preprocess.console import UserError, say
from preprocess.files import named_errors, write_atomic, write_new
from preprocess.plan import Plan
from preprocess.plan_file import WorkPlan, plan_path, read_plan
from preprocess.write import TEMPORARY, shard_state

_HOUR_S = 3600  # an unfinished file of a share on another host is younger
_SHARED = "shared"  # exists if shares have ever worked in the folder


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
    path = plan_path(root)
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


def shards_left(root: Path, work: WorkPlan, shards: range, store: Path) -> list[int]:
    """Which of `shards` are not done."""
    left = []
    for shard in shards:
        task = work.task(root, shard)
        state = shard_state(task)
        if state != "done":
            left.append(shard)
        if state.startswith("changed"):
            say(f"{store}: {state}. Converting shard {shard} again.")
    return left


def differences(before: dict[str, str], now: dict[str, str]) -> str:
    """What differs between two results of `Plan.settings`, in words; "" if nothing does."""
    pairs = {key: (before.get(key, _UNSET), now.get(key, _UNSET)) for key in {**now, **before}}
    return "; ".join(f"{key}: {old}, now {new}" for key, (old, new) in pairs.items() if old != new)


_UNSET = "not set"  # a setting that is only recorded where a user gives it
