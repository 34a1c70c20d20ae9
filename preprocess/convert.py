"""`make zarr`: convert TIFFs and a CSV to a store, shard by shard, in parallel, resumable at any moment.

In: `ConversionSettings`. Out: a store. First `plan.make_plan` checks everything that needs no pixels. A task is a run
of shards (`write.convert_shards`). Each shard ends by writing `progress/N.npz` with sums and checksums. It is done when
that file exists, so a kill at any moment loses at most the shards in work. At the end the small arrays are written, the
disk is synced, and `NAME.partial/store` is renamed to `NAME`. With SHARDS=i/n only a share of the shards is converted;
the command without SHARDS then completes the store.

Memory: one chip per process. The result does not depend on the order in which tasks end, so any engine that runs
`convert_shards` over the runs of a plan makes the same bytes.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np

from preprocess import zarr_store
from preprocess.addresses import Location, absolute
from preprocess.commands import ConversionSettings
from preprocess.console import Progress, UserError, say
from preprocess.csv_rows import csv_line
from preprocess.engine import Engine, open_engine
from preprocess.fit import FitCounts, fit_line
from preprocess.georeference import has_place, places_line, unit_of_crs
from preprocess.labels import settings_of
from preprocess.layout import MIB
from preprocess.nodata import nodata_lines
from preprocess.partials import Partial, partial_of
from preprocess.plan import Plan, make_plan
from preprocess.plan_file import WorkPlan, plan_path, shard_runs
from preprocess.progress import differences, first_checksum, progress_name, progress_state
from preprocess.shares import Share
from preprocess.source_samples import check_samples
from preprocess.split_rules import split_counts
from preprocess.write import convert_shards

MAX_SHOWN = 50  # classes listed in the last line
MAX_SHOWN_BAD, MAX_BAD = 20, 1000  # chips that cannot be used: listed; found before the conversion stops
# Imported before workers are forked.
_MODULES = ("preprocess.write", "preprocess.lz4", "preprocess.integer_sums", "preprocess.planes")
_RECORDED = ("band_sum", "band_sumsq", "checksum", "source_size", "source_mtime_ns", "shard_digest", "transform", "crs",
             "crs_unit")  # fmt: skip


def convert(
    settings: ConversionSettings,
    check_plan: Callable[[Plan], None] = lambda plan: None,
    *,
    share: Share | None = None,
    cluster: str | None = None,
) -> None:
    """Convert, resume a stopped conversion, or report that the store is complete.

    Args:
        settings: what is converted.
        check_plan: may refuse the plan before a pixel is read.
        share: convert only these shards, and do not complete the store.
        cluster: the Dask workers that convert, as CLUSTER names them.

    Raises:
        UserError: something is wrong with the input; the final name is then unchanged.
    """
    with open_engine(cluster, jobs=settings.jobs, modules=_MODULES) as engine:
        plan = make_plan(settings)
        check_plan(plan)
        partial = partial_of(settings.store)
        if partial.is_complete():
            _report_complete(plan, partial)
            return
        for note in plan.notes:
            say(note)
        with partial.held(alone=share is None):
            if partial.is_complete():  # another conversion ended between the check and the lock
                _report_complete(plan, partial)
                return
            # Dask workers can outlive their coordinator, as shares on other hosts can.
            work = partial.prepare(plan, alone=share is None, others=cluster is not None)
            shards = share.of(work.num_shards) if share else range(work.num_shards)
            _convert_left(partial, work, shards, engine)
            if share:
                _report_share(partial, work, share)
                return
            if partial.is_complete():  # in a bucket another conversion with the same plan can be faster
                _report_complete(plan, partial)
                return
            fitted, places = _finish(plan, work, partial)
    _report_done(plan, fitted, places)


def _convert_left(partial: Partial, work: WorkPlan, shards: range, engine: Engine) -> None:
    """Convert those of `shards` that are not done.

    Raises:
        UserError: chips cannot be used. All shards without such chips are done then.
    """
    root, store = absolute(partial.root), partial.store  # workers may be in other folders
    left = _shards_left(partial, work, shards)
    total, chips_left = work.count(shards), work.count(left)
    if chips_left < total:
        say(f"{store}: resuming: {total - chips_left} of {total} chips are done.")
    runs = shard_runs(root, work, left, workers=engine.workers)
    bad_chips, num_left = list[str](), len(left)
    with Progress(
        "convert", total=total, unit="chips", done=total - chips_left, every_s=engine.log_every_s,
        megabytes=work.layout.chip_bytes / 1e6,
    ) as progress:  # fmt: skip
        for done in engine.run(convert_shards, runs, needs=plan_path(root)):
            num_left -= len(done.run.shards)
            progress.update(work.count(done.run.shards), f"{engine.note}{num_left} shards left{_count(bad_chips)}")
            bad_chips += done.bad_chips
            if len(bad_chips) >= MAX_BAD:
                break
            for shard in () if done.bad_chips else done.run.shards:
                # Flushed while the others work: flushing all at the end took a sixth of the time for 2,048 Planet-size
                # chips.
                partial.flush(shard)
    if bad_chips:
        _refuse(store, bad_chips)


def _shards_left(partial: Partial, work: WorkPlan, shards: range) -> list[int]:
    """Which of `shards` are not done."""
    left, done = list[int](), list[tuple[int, bytes]]()  # done: the first and the last shard
    for shard, (data, shard_bytes) in zip(shards, partial.progress(shards), strict=True):
        state = progress_state(work.task(partial.root, shard), data, shard_bytes)
        if data is not None and state == "done":
            done = [*done[:1], (shard, data)]
        else:
            left.append(shard)
        if state.startswith("changed"):
            say(f"{partial.store}: {state}. Converting shard {shard} again.")
    checksums = [(shard * work.layout.shard_tiles, first_checksum(data)) for shard, data in done]
    check_samples(partial.store, absolute(partial.root), work, checksums)
    return left


def _count(bad_chips: list[str]) -> str:
    return f", {len(bad_chips)} bad chips" if bad_chips else ""


def _refuse(store: Location, bad_chips: list[str]) -> NoReturn:
    """Raise UserError for the first chip that cannot be used, after a list of the others."""
    first, *others = bad_chips
    if others:
        least = "at least " if len(bad_chips) >= MAX_BAD else ""
        say(f"{store}: {least}{len(bad_chips)} chips cannot be used:")
        for line in others[: MAX_SHOWN_BAD - 1]:
            say(f"bad: {line}")
        if len(bad_chips) > MAX_SHOWN_BAD:
            say(f"... and {len(bad_chips) - MAX_SHOWN_BAD} more")
    raise UserError(first)


def _report_share(partial: Partial, work: WorkPlan, share: Share) -> None:
    done, shards = partial.num_done(), share.of(work.num_shards)
    say(
        f"{partial.store}: SHARDS={share.number}/{share.count} is done: {work.count(shards)} chips in {len(shards)} "
        f"shards. {done} of {work.num_shards} shards of the store are done. When all are, the same command without "
        "SHARDS completes it."
    )


def _report_done(plan: Plan, fitted: np.ndarray, places: str) -> None:
    """The lines at the end."""
    store, total = plan.store, len(plan.names)
    _say_nodata(store, plan)
    encoded = zarr_store.encoded_bytes(store, plan.layout, total)
    raw = plan.layout.chip_bytes * total
    untagged = int((plan.labels.sum(axis=1) == 0).sum())
    if untagged:
        say(f"{store}: {untagged} chips have no tag.")
    for line in _optional_lines(plan, fitted, places):
        say(f"{store}: {line}")
    say(
        f"{store}: {total} chips, {len(plan.classes)} classes ({_listed(plan.classes)}), "
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


def _say_nodata(path: Location, plan: Plan) -> None:
    if plan.layout.nodata is not None:
        store = zarr_store.open_store(path)
        pixels = plan.layout.height * plan.layout.width
        first, *others = nodata_lines(plan.layout.nodata, store.valid_count, pixels, store.name_texts)
        for line in (f"nodata {first}", *others):
            say(f"{path}: {line}.")


def _listed(classes: tuple[str, ...]) -> str:
    """The classes as CLASSES=... takes them, with quotes around one with a comma; long lists are cut."""
    if len(classes) <= MAX_SHOWN:
        return csv_line(classes)
    return f"{csv_line(classes[:MAX_SHOWN])} and {len(classes) - MAX_SHOWN} more; `make info` lists all"


def _report_complete(plan: Plan, partial: Partial) -> None:
    _compare_with_complete(plan)
    zarr_store.encoded_bytes(plan.store, plan.layout, len(plan.names))  # raises for a missing shard
    partial.remove()  # left by a conversion killed at its very end
    say(f"{plan.store}: the store is complete ({len(plan.names)} chips, unchanged files). Nothing to do.")


def _finish(plan: Plan, work: WorkPlan, partial: Partial) -> tuple[np.ndarray, str]:
    """Write the small arrays and complete the store. Returns the counts of `fit`, and how many chips have a place."""
    blocks: dict[str, list[np.ndarray]] = {}
    fitted = np.zeros(len(FitCounts().as_array()), np.int64)
    for shard, (data, _) in enumerate(partial.progress(range(work.num_shards))):
        if data is None:
            raise UserError(f"{partial.root}/{progress_name(shard)} is gone. Run the same command again.")
        with np.load(io.BytesIO(data)) as progress:
            for name in _RECORDED if plan.layout.nodata is None else (*_RECORDED, "valid_count"):
                blocks.setdefault(name, []).append(np.atleast_1d(progress[name]))
            fitted += progress["fitted"] if plan.files.fit else 0
    arrays = {name: np.concatenate(values) for name, values in blocks.items()}
    changed = np.flatnonzero((arrays["source_size"] != plan.size) | (arrays["source_mtime_ns"] != plan.mtime_ns))
    if len(changed):  # by a worker of an earlier plan, in a folder without locks
        raise UserError(
            f"{plan.store}: {len(changed)} chips were written by another conversion, first {plan.paths[changed[0]]}. "
            "Stop it, and run the same command again."
        )
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
    partial.complete(plan, arrays, source)
    return fitted, places


def _compare_with_complete(plan: Plan) -> None:
    """Raise UserError if a complete store differs from the current settings; names the difference."""
    store = zarr_store.open_store(plan.store)
    before = replace(
        plan, layout=store.layout, classes=store.classes, num_csv_rows=store.num_csv_rows,
        names=store.name_texts, labels=store.labels, csv_row=store.csv_row,
        split=store.split, source=store.source, label_settings=settings_of(store),
    )  # fmt: skip
    found = differences(before.settings(), plan.settings())
    if not found:
        changed = np.flatnonzero((store.source_size != plan.size) | (store.source_mtime_ns != plan.mtime_ns))
        if len(changed):
            found = f"size or time of {len(changed)} source files, first {plan.paths[changed[0]]}"
    if found:
        raise UserError(
            f"{plan.store}: made with other settings or files ({found}). "
            "Choose another STORE, or remove it to convert again."
        )
    checksum, last = store.checksum, store.num_chips - 1
    check_samples(plan.store, plan.store, plan.work(), [(chip, int(checksum[chip])) for chip in sorted({0, last})])
