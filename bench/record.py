"""A benchmark's record: conditions and raw samples in JSON; the table is made from it."""

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from preprocess.schema import write_atomic
from train import runfolder

RESULTS = Path("bench/results")


def conditions(mode: str) -> dict[str, Any]:
    """Machine, versions, commit."""
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown")
    return {
        "mode": mode,
        "when": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.system(),
        "versions": runfolder.versions(),
        "commit": runfolder.commit(),
    }


def write(record: dict[str, Any]) -> Path:
    """Keep it under bench/results/."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{record['mode']}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    write_atomic(path, (json.dumps(record, indent=1) + "\n").encode())
    return path


def table(record: dict[str, Any]) -> str:
    """The rows of a record as a Markdown table."""
    rows = record["rows"]
    columns = [name for name in rows[0] if name not in ("samples", "cpu_samples")]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(name)) for name in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
    return "-" if value is None else str(value)
