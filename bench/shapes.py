"""Mode `shapes`: our loader, the baseline and a memory map on chips of many sizes, numbers of bands, and dtypes.

In: a folder. Out: a record's rows. The rows of one shape take turns; then comes the next shape. Leaves timing to
`measure` and the limit to `limits`.
"""

from pathlib import Path
from statistics import median
from typing import Any

from bench.chips import BANDS, Shape, make_shape
from bench.limits import BareLoader
from bench.loader import bytes_a_chip, check_limits, r_sol, start_row
from bench.measure import Pass, find
from bench.remote_generator import Remote
from bench.rows import BASELINE
from bench.work import BATCH, Work
from pipeline.loader import CROP_SHARE
from preprocess.console import say

ROWS = ("canopy-lz4", "canopy-none", BASELINE, "dataloader-npy-memmap")
TRY_S, PASS_S = 0.4, 1.0
_MOST_BATCH_BYTES = 64 << 20


def _bands(count: int) -> tuple[str, ...]:
    return tuple(f"band_{number}" for number in range(1, count + 1))


# With the number of chips: 256 MiB of pixels, but at most 16,384 chips: the baseline reads 4,000 chips/s.
SHAPES: tuple[tuple[Shape, int], ...] = (
    (Shape(side=32, bands=BANDS[:3], dtype="uint8"), 16384),
    (Shape(side=64, bands=_bands(13)), 2560),
    (Shape(side=120, bands=_bands(12)), 768),
    (Shape(), 512),
    (Shape(dtype="int16"), 512),
    (Shape(dtype="float32"), 256),
    (Shape(side=512, bands=BANDS[:3], dtype="uint8"), 336),
    (Shape(side=1024), 32),
)


def batch_size(shape: Shape) -> int:
    """64 chips, or as many as fit into 64 MiB of float32 crops."""
    crop_bytes = 4 * len(shape.bands) * round(shape.side * CROP_SHARE) ** 2
    return next(size for size in (BATCH, 32, 16, 8, 4, 2, 1) if size * crop_bytes <= _MOST_BATCH_BYTES or size == 1)


def run(folder: Path, rounds: int) -> dict[str, Any]:
    """The record's rows.

    Raises:
        UserError: a row gives a wrong batch, or is faster than its limit.
    """
    rows: list[dict[str, Any]] = []
    for shape, count in SHAPES:
        name = str(shape).replace(" x ", "x").replace(" ", "-")
        work = make_shape(folder / name, count, shape, batch_size(shape))
        rows += _time(shape, work, rounds)
    check_limits(rows)
    return {"rows": rows}


def _time(shape: Shape, work: Work, rounds: int) -> list[dict[str, Any]]:
    """The rows of one shape. `ratio_to_best_peer`: median of each round's ratio to the fastest row of a library."""
    remotes: dict[str, Remote] = {}
    rates: dict[str, list[float]] = {name: [] for name in ROWS}
    light: dict[str, list[float]] = {name: [] for name in ROWS}
    bare: dict[str, BareLoader] = {}
    try:
        for name in ROWS:
            label = f"{shape}, {name}"
            remote = remotes[name] = start_row(label, "bench.measure:serve_quickly", name, work, TRY_S, PASS_S)
            say(f"{label}: batch checked; fastest with workers {remote.first}")
            codec = find(name).codec
            if codec is not None:
                bare[name] = BareLoader(work, codec, work.bands, remote.first.workers)
        for number in range(rounds):
            for name, remote in remotes.items():
                if name in bare:
                    light[name].append(bare[name].rate(number))
                one: Pass = remote.ask(number)
                rates[name].append(one.chips_per_s)
    finally:
        for remote in remotes.values():
            remote.close()
    peers = [name for name in ROWS if name not in bare]
    best = [max(rates[name][number] for name in peers) for number in range(rounds)]
    return [
        {
            "name": f"{shape}, {name}",
            "shape": str(shape),
            "loader": name,
            "chips": work.store().num_chips,
            "batch": work.batch,
            "workers": str(remotes[name].first),
            "chips_per_s": median(rates[name]),
            "ratio_to_best_peer": median(rate / peer for rate, peer in zip(rates[name], best, strict=True)),
            "r_sol": r_sol(rates[name], light[name]),
            "samples": rates[name],
            "limit_samples": light[name],
            **bytes_a_chip(find(name), work),
        }
        for name in ROWS
    ]


def table(result: dict[str, Any]) -> str:
    """A record's rows as the Markdown table of docs/results.md: one line per shape."""
    lines = [
        "| chips | batch | canopy, LZ4 | x peer | r_sol | canopy, none | x peer | r_sol | tifffile | npy |",
        "|" + "---|" * 10,
    ]
    for shape in dict.fromkeys(row["shape"] for row in result["rows"]):
        rows = {row["loader"]: row for row in result["rows"] if row["shape"] == shape}
        cells = [shape, str(next(iter(rows.values()))["batch"])]
        for name in ROWS[:2]:
            row = rows[name]
            cells += [f"{row['chips_per_s']:,.0f}", f"{row['ratio_to_best_peer']:.1f}", f"{row['r_sol']:.2f}"]
        cells += [f"{rows[name]['chips_per_s']:,.0f}" for name in ROWS[2:]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
