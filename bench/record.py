"""A benchmark's record: conditions and raw samples as JSON, and the table made from it.

In: rows. Out: bench/results/MODE-TIME.json and a Markdown table.
"""

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from preprocess.zarr_store import write_atomic

RESULTS = Path("bench/results")


def conditions(mode: str) -> dict[str, Any]:
    """Machine, versions, commit."""
    from train import run_folder  # here: it imports torch, which `make bench-report` does not need

    with open("/proc/cpuinfo") as file:
        model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown")
    return {
        "mode": mode,
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.system(),
        "versions": run_folder.versions(),
        "commit": run_folder.commit(),
    }


def write(record: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write the record below `folder` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['mode']}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    write_atomic(path, (json.dumps(record, indent=1) + "\n").encode())
    return path


def newest(mode: str, folder: Path = RESULTS) -> dict[str, Any] | None:
    """The newest record of a mode; None if there is none."""
    paths = sorted(folder.glob(f"{mode}-[0-9]*.json"))
    return json.loads(paths[-1].read_text()) if paths else None


def table(record: dict[str, Any]) -> str:
    """The rows of a record as a Markdown table; the last cell of a skipped row gives the reason."""
    rows = record["rows"]
    names = dict.fromkeys(name for row in rows for name in row if not _hidden(name))
    last = [name for name in ("note", "skipped") if name in names]
    columns = [name for name in names if name not in last]
    lines = ["| " + " | ".join([*columns, "note"] if last else columns) + " |"]
    lines.append("|" + "---|" * (len(columns) + bool(last)))
    for row in rows:
        cells = [_cell(row.get(name)) for name in columns]
        if last:
            cells.append(f"skipped: {row['skipped']}" if "skipped" in row else row.get("note", ""))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _hidden(name: str) -> bool:
    return name.endswith(("samples", "_a_chip"))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
    if isinstance(value, int) and value >= 10_000:
        return f"{value:,}"
    return "-" if value is None else str(value)
