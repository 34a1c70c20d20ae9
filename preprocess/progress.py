"""The progress file of a shard, and what differs between the settings of two conversions.

In: the bytes of a progress file. Out: whether its shard is done. Leaves writing it to `write`, and where it lies to
`targets`.
"""

import io
import zipfile

import numpy as np

from preprocess.plan_file import ShardTask

_UNSET = "not set"  # a setting that is only recorded where a user gives it


def progress_name(shard: int) -> str:
    """The file in NAME.partial that marks a shard as done and holds its sums, checksums and places."""
    return f"progress/{shard}.npz"


def progress_state(task: ShardTask, data: bytes | None, shard_bytes: int) -> str:
    """ "done", "missing", or a text that begins with "changed" and names the first changed file.

    Args:
        task: the shard.
        data: its progress file; None if there is none.
        shard_bytes: size of the shard that is there.
    """
    if data is None:
        return "missing"
    try:
        with np.load(io.BytesIO(data)) as progress:
            size, mtime_ns, expected = progress["source_size"], progress["source_mtime_ns"], progress["shard_bytes"]
            progress["shard_digest"], progress["transform"]  # earlier versions of canopy wrote neither
        if shard_bytes != int(expected):
            return "missing"
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return "missing"  # or incomplete after a power cut: it is written again in both cases
    changed = np.flatnonzero((size != task.size) | (mtime_ns != task.mtime_ns))
    if not len(changed):
        return "done"
    return f"changed: size or time of {len(changed)} source files (first {task.paths[changed[0]]})"


def first_checksum(data: bytes) -> int:
    """The checksum of the first chip of a shard that is done."""
    with np.load(io.BytesIO(data)) as progress:
        return int(progress["checksum"][0])


def differences(before: dict[str, str], now: dict[str, str]) -> str:
    """What differs between two results of `Plan.settings`, in words; "" if nothing does."""
    pairs = {key: (before.get(key, _UNSET), now.get(key, _UNSET)) for key in {**now, **before}}
    return "; ".join(f"{key}: {old}, now {new}" for key, (old, new) in pairs.items() if old != new)
