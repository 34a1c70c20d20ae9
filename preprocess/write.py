"""Convert shards: read their chips, encode them, write each shard, then its progress file.

In: a `ShardRun`, which points into the plan's file. Out: a shard file and a progress file per shard. A function of the
plan and the files: any process on any host, and any number of them at once, writes the same bytes. Runs in worker
processes, so it imports neither zarr nor pandas, which saves a quarter of a second per process. Arrays are made once
per shard and reused: in fresh memory, transposing (y, x, band) to (band, y, x) takes four times as long.
"""

import contextlib
import errno
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from preprocess.addresses import location
from preprocess.chip_reader import ChipReader, state_of
from preprocess.console import TemporaryError, advice
from preprocess.georeference import Place, place_arrays
from preprocess.nodata import nodata_mask
from preprocess.plan_file import ShardRun, ShardTask, load_plan
from preprocess.progress import progress_name, progress_state
from preprocess.raster_file import changed
from preprocess.shard_writer import NotFiniteError, encode_shard
from preprocess.sources import begin, source_of
from preprocess.targets import Target, target_of
from preprocess.tiff_page import ChipError
from preprocess.window_reader import WindowReader


@dataclass(frozen=True, kw_only=True)
class Converted:
    """The result of a task: one line per chip that cannot be used. Shards with such chips are not written."""

    run: ShardRun
    bad_chips: tuple[str, ...]


def convert_shards(run: ShardRun) -> Converted:
    """Write every shard of a task that is not done, and its progress file.

    Raises:
        UserError: the plan's file is damaged or replaced.
    """
    plan, target, bad_chips = load_plan(run.root, run.digest), target_of(run.root), list[str]()
    for shard in run.shards:
        task = plan.task(location(run.root), shard)
        if is_done(task, target):  # another copy of this task was faster
            continue
        try:
            convert_shard(task)
        except ChipError as error:
            if is_machine_fault(error):
                raise
            bad_chips += _bad_chips(task) or [str(error)]
    return Converted(run=run, bad_chips=tuple(bad_chips))


def is_done(task: ShardTask, target: Target) -> bool:
    """Whether a shard is written, and its files are as the plan says."""
    try:
        data = target.read(progress_name(task.shard))
        return progress_state(task, data, target.shard_bytes(task.shard)) == "done"
    except OSError:
        return False


def convert_shard(task: ShardTask) -> None:
    """Write one shard and its progress file.

    Raises:
        ChipError: a chip is damaged, has another shape or dtype or values that are not finite, or has changed since it
            was listed.
    """
    target, reader = target_of(task.root), _reader(task)
    places: list[Place | None] = []
    chips = _all_chips(task, reader, places)
    try:
        with target.shard_file(task.shard) as file:
            record = encode_shard(file, task.layout, chips)
    except NotFiniteError as error:
        _check_finite(task, error.index, error.chip)
        raise
    fitted = {"fitted": reader.counts.as_array()} if task.files.fit else {}
    progress = io.BytesIO()
    np.savez(
        progress, allow_pickle=False, **record.arrays, source_size=task.size, source_mtime_ns=task.mtime_ns,
        shard_bytes=np.int64(record.num_bytes), **place_arrays(places), **fitted,
    )  # fmt: skip
    target.write(progress_name(task.shard), progress.getvalue())


def is_machine_fault(error: BaseException) -> bool:
    """Whether a failed disk, share or network is the reason, and not the chip: then another try may succeed."""
    cause = error.__cause__
    return isinstance(error, TemporaryError) or (isinstance(cause, OSError) and cause.errno not in _CHIP_FAULTS)


_CHIP_FAULTS = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.ELOOP, errno.EACCES, errno.EPERM)


def _bad_chips(task: ShardTask) -> list[str]:
    """One line for each chip of a shard that cannot be used; one for all windows of a raster that cannot."""
    lines = []
    for index in range(len(task.paths)):
        chip = one_chip(task, index)
        try:
            for values in read_chips(chip):
                _check_finite(chip, 0, values)
        except ChipError as error:
            if is_machine_fault(error):
                raise
            lines.append(str(error))
    return list(dict.fromkeys(lines))


def one_chip(task: ShardTask, index: int) -> ShardTask:
    """The task with only one of its chips."""
    corners = None if task.corners is None else task.corners[index : index + 1]
    return replace(
        task, paths=task.paths[index : index + 1], size=task.size[index : index + 1],
        mtime_ns=task.mtime_ns[index : index + 1], corners=corners,
        etags=None if task.etags is None else task.etags[index : index + 1],
    )  # fmt: skip


def read_chips(task: ShardTask) -> Iterator[np.ndarray]:
    """The chips of a task as the store holds them, (bands, height, width); each is used up before the next is read."""
    return map(np.ascontiguousarray, _all_chips(task, _reader(task), []))


def _reader(task: ShardTask) -> ChipReader:
    """A reader of the task's chips; those in object storage are fetched ahead of it."""
    source = source_of(task.paths[0])
    begin(source, task.paths, task.files.bands, task.size, task.etags)
    return ChipReader(task.files, source)


def _all_chips(task: ShardTask, reader: ChipReader, places: list[Place | None]) -> Iterator[np.ndarray]:
    return _chips(task, reader, places) if task.corners is None else _windows(task, places)


def _check_finite(task: ShardTask, index: int, chip: np.ndarray) -> None:
    only_nan = task.layout.nodata is None and not np.isinf(chip).any()
    check_finite(chip, task.where(index), task.layout.nodata, f"{_NAN if only_nan else ''}{_REPLACE}")


def _read_planned(task: ShardTask, index: int, reader: ChipReader, places: list[Place | None]) -> np.ndarray:
    """Read one chip as planned, and add its place; the next one overwrites its array."""
    with _planned(task, index, lambda path: state_of(path, task.files.bands, reader.source)):
        chip = reader.read(task.paths[index])
    places.append(reader.place)
    return chip


def _chips(task: ShardTask, reader: ChipReader, places: list[Place | None]) -> Iterator[np.ndarray]:
    return (_read_planned(task, index, reader, places) for index in range(len(task.paths)))


def _windows(task: ShardTask, places: list[Place | None]) -> Iterator[np.ndarray]:
    """Read all windows of the task, raster by raster, so that each block is decoded once, and add their places.

    The windows of a shard take at most 64 MiB, or are one window.
    """
    layout, reader = task.layout, WindowReader(task.files)
    chips = np.empty((len(task.paths), len(layout.bands), layout.height, layout.width), layout.dtype)
    places.extend([None] * len(chips))
    of_path: dict[str, list[int]] = {}
    for index, path in enumerate(task.paths):
        of_path.setdefault(path, []).append(index)
    assert task.corners is not None
    for path, indices in of_path.items():
        with _planned(task, indices[0], reader.state):
            where, errors = reader.read(path, task.corners[indices], [chips[index] for index in indices])
            for error in errors.values():
                raise error
        for index, place in zip(indices, where, strict=True):
            places[index] = place
    yield from chips


@contextlib.contextmanager
def _planned(task: ShardTask, index: int, state: Callable[[str], tuple[int, int]]) -> Iterator[None]:
    """Check that a chip's files are as they were listed, and turn the system's errors into a ChipError."""
    path = task.paths[index]
    try:
        if state(path) != (task.size[index], task.mtime_ns[index]):
            raise changed(path)
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ChipError(error.filename or path, "a readable file", reason, advice(error)) from error


_REPLACE = "Replace them, or remove the chip from the CSV."
_NAN = "NODATA=nan marks NaN as nodata. "


def check_finite(chip: np.ndarray, path: str | Path, nodata: str | None, advice: str = _REPLACE) -> None:
    """Refuse a chip with values that are neither finite nor `nodata`.

    Raises:
        ChipError: gives the numbers of NaN and infinite values and the position of the first one.
    """
    allowed = np.isfinite(chip) if nodata is None else np.isfinite(chip) | nodata_mask(chip, nodata)
    wrong = np.argwhere(~allowed)
    if not len(wrong):
        return
    band, y, x = wrong[0].tolist()
    nan = int((np.isnan(chip) & ~allowed).sum())
    raise ChipError(
        path, "finite values",
        f"{nan} NaN and {len(wrong) - nan} infinite values of {chip.size} (the first in band {band + 1}, row {y}, "
        f"column {x})",
        advice,
    )  # fmt: skip
