"""Memory of this machine, or of the control group (container) where that is less.

In: nothing. Out: bytes. Leaves what to keep there to `cache` and `shards`.
"""

from pathlib import Path

_GROUP = Path("/sys/fs/cgroup")


def free_host_bytes() -> int:
    """Memory available without swapping: the system's, or the control group's where that is less. Pages of files count
    as free: the OS drops them when memory is short."""
    free, limit = _meminfo("MemAvailable"), _group_limit()
    if limit is None:
        return free
    stat = dict(line.split() for line in (_GROUP / "memory.stat").read_text().splitlines())
    files = sum(int(stat.get(f"{kind}_file", 0)) for kind in ("active", "inactive"))
    return min(free, max(0, limit - int((_GROUP / "memory.current").read_text()) + files))


def host_bytes() -> int:
    """All memory."""
    limit = _group_limit()
    return _meminfo("MemTotal") if limit is None else min(_meminfo("MemTotal"), limit)


def _meminfo(name: str) -> int:
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def _group_limit() -> int | None:
    limit = _GROUP / "memory.max"
    return int(text) if limit.exists() and (text := limit.read_text().strip()) != "max" else None
