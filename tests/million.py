"""Convert, open, read and verify very many tiny chips with few open files: `python tests/million.py --folder DIR`.

In: a number of chips and a folder. Out: one line per step: its seconds, the CPU seconds of all its processes, the peak
memory of its largest process.
Every step is a separate process that may open 256 files. The chips (uint8 TIFFs of one band, 10,000 per
subfolder) are kept; the store is converted again. Not part of the tests: a million files take 4 GB and several
minutes.
"""

import argparse
import io
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tifffile

from bench.process_usage import process_tree

OPEN_FILES = 256
_PER_FOLDER = 10_000
_OPEN = """
import sys
from pipeline.inputs import raw_inputs
from preprocess.zarr_store import open_store
from preprocess.splits import make_split
store = open_store(sys.argv[1])
"""
_PLAN = """
from pipeline.loader import train_loader
split = make_split("course", store, val=0.1)
loader = train_loader(store, split.train, raw_inputs(store, store.layout.bands, split.train), batch_size=64)
print(sum(len(plan.chips) for plan in loader.plans(0)), "chips are planned")
"""
_READ = _PLAN + 'print(sum(batch.num_valid for batch in loader.epoch(0)), "chips are read")\n'


def make_chips(folder: Path, count: int, side: int) -> Path:
    """Write chips that differ only in their pixels, from one template. Returns their CSV."""
    labels = folder / "labels.csv"
    if labels.exists():
        return labels
    data = io.BytesIO()
    tifffile.imwrite(data, np.full((side, side), 0xA5, np.uint8), photometric="minisblack")
    template = bytearray(data.getvalue())
    start = template.index(b"\xa5" * side * side)
    rng = np.random.default_rng(0)
    for first in range(0, count, _PER_FOLDER):
        below = folder / f"f{first // _PER_FOLDER}"
        below.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (min(_PER_FOLDER, count - first), side * side), np.uint8)
        for index, values in enumerate(pixels):
            template[start : start + side * side] = values.tobytes()
            opened = os.open(below / f"c{index}.tif", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.write(opened, template)
            os.close(opened)
    tags = rng.integers(1, 8, count)
    with open(labels, "w") as file:
        file.write("image_name,tags\n")
        for index in range(count):
            words = " ".join(tag for bit, tag in enumerate("abc") if tags[index] >> bit & 1)
            file.write(f"f{index // _PER_FOLDER}/c{index % _PER_FOLDER},{words}\n")
    return labels


def _peak_mib(pid: int) -> float:
    """Peak resident memory so far, of the process `pid` or of the largest of its children."""
    peak = 0
    for one in process_tree(pid):
        try:
            lines = Path(f"/proc/{one}/status").read_text().splitlines()
        except OSError:
            continue
        peak = max([peak, *(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))])
    return peak / 1024


def _cpu_s() -> float:
    """CPU seconds of all ended child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(name: str, *arguments: str) -> None:
    """Run Python with these arguments and print its seconds and memory.

    Raises:
        SystemExit: it failed; its output tells the reason.
    """
    started, cpu_before, peak = time.monotonic(), _cpu_s(), 0.0
    limit = (OPEN_FILES, OPEN_FILES)
    process = subprocess.Popen(
        [sys.executable, *arguments], preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    )
    while process.poll() is None:
        peak = max(peak, _peak_mib(process.pid))
        time.sleep(0.05)
    wall_s, cpu_s = time.monotonic() - started, _cpu_s() - cpu_before
    print(f"{name:<8} {wall_s:8.1f} s  {cpu_s:8.1f} CPU-s  {peak:8.0f} MiB in the largest process", flush=True)
    if process.returncode:
        sys.exit(f"{name} failed (exit code {process.returncode})")


def main() -> None:
    """Write the chips, then measure every step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chips", type=int, default=1_000_000)
    parser.add_argument("--side", type=int, default=8, help="pixels; 16 for an audit, which needs edges that differ")
    parser.add_argument("--folder", type=Path, required=True, help="for the chips and the store; they are not removed")
    parser.add_argument("--steps", default="convert,again,open,plan,read,info,verify")
    args = parser.parse_args()
    folder: Path = args.folder
    labels, store = make_chips(folder / "tif", args.chips, args.side), folder / "chips.zarr"
    convert = (
        "-m", "preprocess", "zarr", f"DATA={folder / 'tif'}", f"LABELS={labels}", "BANDS=gray", f"STORE={store}",
    )  # fmt: skip
    steps: dict[str, tuple[str, ...]] = {
        "convert": convert,
        "again": convert,  # a complete store is compared with the files
        "open": ("-c", _OPEN, str(store)),
        "plan": ("-c", _OPEN + _PLAN, str(store)),
        "read": ("-c", _OPEN + _READ, str(store)),
        "info": ("-m", "preprocess", "info", f"STORE={store}"),
        "verify": ("-m", "preprocess", "verify", f"STORE={store}"),
        "audit": ("-m", "analysis", "audit", f"STORE={store}"),
    }
    for name in args.steps.split(","):
        if name == "convert":
            for path in (store, store.with_name(store.name + ".partial")):
                shutil.rmtree(path, ignore_errors=True)
        measure(name, *steps[name])


if __name__ == "__main__":
    main()
