"""`make bench-report`: draw the newest record of each mode.

In: bench/results/*.json. Out: docs/results/bench_*.png. If a record is missing, a line says so and the picture is
skipped.
"""

from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

from bench import record
from bench.commands import BenchReportSettings
from preprocess.console import UserError, say

matplotlib.use("Agg")  # no display is needed

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

# Okabe and Ito's colours, which colour-blind readers can tell apart; hatches and markers differ in grey, too.
_OURS, _BASE, _OTHER = "#0072B2", "#000000", "#E69F00"
_LIMIT_STYLES = {"read": ("#009E73", "--"), "lz4": ("#D55E00", "-."), "memcpy": ("#CC79A7", ":")}
_LIMIT_NAMES = {"read": "page cache read", "lz4": "LZ4 decode", "memcpy": "memory copy"}
_CODECS = {"lz4": (_OURS, "o", "-"), "none": ("#D55E00", "s", "--")}
_PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
DPI = 130


def draw(settings: BenchReportSettings) -> None:
    """Draw the pictures that have records and print their paths."""
    loader = record.newest("peers", settings.results) or record.newest("loader", settings.results)
    scale = record.newest("scale", settings.results)
    if loader is None and scale is None:
        raise UserError(f"{settings.results}: no record of loader, peers or scale. `make bench` makes one.")
    settings.out.mkdir(parents=True, exist_ok=True)
    if loader is None:
        say("no record of MODE=loader or peers: skipping bars and roofline (`make bench MODE=peers` makes one)")
    else:
        _save(bars(loader), settings.out / "bench_loader.png")
        if any("stored_bytes_a_chip" in row for row in loader["rows"]):
            _save(roofline(loader), settings.out / "bench_roofline.png")
        else:
            say("the newest record has no canopy row with sizes in bytes: skipping the roofline")
    if scale is None:
        say("no record of MODE=scale: skipping the cost per number of chips (`make bench MODE=scale` makes one)")
    else:
        _save(cost(scale), settings.out / "bench_scale.png")


def _save(figure: Figure, path: Path) -> None:
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format="png", dpi=DPI)
    plt.close(figure)
    temporary.replace(path)
    say(str(path))


def _machine(result: dict[str, Any]) -> str:
    chips = f"{result['chips']:,} chips of 256 x 256 x 4 uint16, " if "chips" in result else ""
    return f"{chips}{result['cores']} cores ({result['cpu']}), medians of {result['rounds']} rounds"


def bars(result: dict[str, Any]) -> Figure:
    """Chips/s per row, with a whisker from the lowest to the highest round; skipped rows with their reason."""
    rows = sorted((row for row in result["rows"] if "chips_per_s" in row), key=lambda row: row["chips_per_s"])
    skipped = [f"{row['name']} skipped: {row['skipped'][:90]}" for row in result["rows"] if "skipped" in row]
    figure, axes = plt.subplots(figsize=(9.5, 1.6 + 0.36 * len(rows) + 0.2 * len(skipped)), layout="constrained")
    top = max(max(row["samples"]) for row in rows)
    for place, row in enumerate(rows):
        rate, samples = row["chips_per_s"], row["samples"]
        hatch = {"other": "//", "host": ".."}.get(_kind(row))
        axes.barh(
            place, rate, color="white" if hatch else _colour(row), edgecolor=_colour(row), hatch=hatch, height=0.66,
            linewidth=1.2,
        )  # fmt: skip
        axes.plot([min(samples), max(samples)], [place, place], color="#888888", linewidth=2.5, solid_capstyle="butt")
        ratio = "" if row["ratio"] is None else f"  x {row['ratio']:.2f}"
        axes.text(max(rate, max(samples)) + 0.01 * top, place, f"{rate:,.0f}{ratio}", va="center", fontsize=9)
    names = [row["name"] + " (no batches, 1 core)" * (_kind(row) == "host") for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=9)
    axes.set_xlim(0, 1.2 * top)
    axes.set_xlabel("chips/s (grey: lowest to highest round; x: ratio to DataLoader + tifffile)")
    axes.set_title("Store or files to batches of 64: random 224 crop, both flips, float32", fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("\n".join([_machine(result), *skipped]), fontsize=8, x=0.01, ha="left")
    return figure


def _kind(row: dict[str, Any]) -> str:
    if row["name"] == "canopy-device-host":
        return "host"
    if row["name"].startswith("canopy"):
        return "ours"
    return "baseline" if row["name"] == "dataloader-tifffile" else "other"


def _colour(row: dict[str, Any]) -> str:
    return {"ours": _OURS, "host": _OURS, "baseline": _BASE, "other": _OTHER}[_kind(row)]


def roofline(result: dict[str, Any]) -> Figure:
    """Left: our rows and the limits by bytes. Right: all rows and the limit by their own CPU time."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    timed = [row for row in result["rows"] if "chips_per_s" in row]
    _bytes_panel(left, result, [row for row in timed if "stored_bytes_a_chip" in row])
    _cpu_panel(right, result, timed)
    figure.suptitle(f"What limits the loader: {_machine(result)}", fontsize=11, x=0.01, ha="left")
    return figure


def _bytes_panel(axes: Axes, result: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    cores = result["cores"]
    sizes = [value for row in rows for name, value in row.items() if name.endswith("_a_chip")]
    span = [min(sizes) / 2, max(sizes) * 2]
    for name, (colour, line) in _LIMIT_STYLES.items():
        rates = [limit[name] for limit in result["limits"] if limit[name]]
        if rates:
            label = f"{_LIMIT_NAMES[name]}, {cores} x {median(rates) / 1e9:.1f} GB/s"
            axes.plot(span, [cores * median(rates) / size for size in span], line, color=colour, label=label)
    for number, row in enumerate(rows):
        marks = {"stored": ("o", "read"), "raw": ("s", "decoded"), "crop_out": ("^", "copied")}
        sizes_of = {
            "stored": row["stored_bytes_a_chip"],
            "raw": row["raw_bytes_a_chip"] if row["name"].find("none") < 0 else None,
            "crop_out": row["crop_bytes_a_chip"] + row["out_bytes_a_chip"],
        }
        points = [(size, marks[name][0]) for name, size in sizes_of.items() if size]
        rate = row["chips_per_s"]
        axes.plot([size for size, _ in points], [rate] * len(points), color="#999999", linewidth=1, zorder=1)
        for size, mark in points:
            axes.plot(size, rate, mark, color=_OURS, markersize=7)
        note = f"{row['name']}: {row['r_sol']:.2f} of the speed of light"
        axes.annotate(
            note, (max(size for size, _ in points), rate), (8, -3), textcoords="offset points", fontsize=8, bbox=_PAPER
        )
        if number == 0:
            for mark, name in marks.values():
                axes.plot([], [], mark, color=_OURS, label=f"bytes {name}")
    axes.set(xscale="log", yscale="log", xlabel="KiB per chip", ylabel="chips/s")
    axes.set_xlim(span[0], span[1] * 9)  # room for the notes
    axes.set_title("Bytes: each point lies below the line of its kind", fontsize=10, loc="left")
    axes.grid(alpha=0.25, which="both")
    axes.xaxis.set_major_formatter(lambda size, _: f"{size / 1024:,.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks([1024 * 2**power for power in range(6, 14) if span[0] < 1024 * 2**power < span[1] * 3])
    axes.legend(fontsize=8, frameon=False, loc="upper right")


def _cpu_panel(axes: Axes, result: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    spent = [row["cpu_s_per_1000"] for row in rows]
    span = [min(spent) / 1.6, max(spent) * 1.6]
    for cores, line in ((result["cores"], "-"), (1, ":")):
        label = f"{cores} core{'s' * (cores > 1)} busy all the time"
        axes.plot(span, [1000 * cores / value for value in span], line, color="#555555", label=label)
    marks = {"ours": "o", "host": "s", "baseline": "D", "other": "v"}
    highest = float("inf")
    for row in sorted(rows, key=lambda row: -row["chips_per_s"]):
        place = (row["cpu_s_per_1000"], row["chips_per_s"])
        highest = min(place[1], highest / 1.22)  # at least one text line below the previous label
        fill = "white" if _kind(row) == "other" else _colour(row)
        axes.plot(*place, marks[_kind(row)], color=_colour(row), markersize=7, markerfacecolor=fill)
        # Beside the panel, where no line and no mark lies.
        axes.annotate(
            row["name"], place, (1.02, highest), textcoords=("axes fraction", "data"), fontsize=7.5, ha="left",
            va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.7, "shrinkA": 2, "shrinkB": 3,
                        "relpos": (0, 0.5)},
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="CPU seconds per 1,000 chips (all processes)", ylabel="chips/s")
    axes.set_xlim(*span)
    axes.set_ylim(bottom=min(highest, 1000 / span[1]) / 1.3)
    axes.set_title("CPU: below the line, cores are idle", fontsize=10, loc="left")
    axes.grid(alpha=0.25, which="both")
    axes.legend(fontsize=8, frameon=False, loc="lower left")


def cost(result: dict[str, Any]) -> Figure:
    """Rate, memory and time to the first batch against the number of chips."""
    figure, panels = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    labels = {"chips_per_s": "chips/s", "peak_mib": "peak memory, MiB", "first_batch_s": "first batch, s"}
    for axes, (name, label) in zip(panels, labels.items(), strict=True):
        top = 0.0
        for codec, (colour, mark, line) in _CODECS.items():
            rows = [row for row in result["rows"] if f"-{codec}-" in row["name"]]
            values = [row[name] for row in rows]
            top = max([top, *values])
            axes.plot([row["chips"] for row in rows], values, line, marker=mark, color=colour, label=f"CODEC={codec}")
        axes.set(xscale="log", xlabel="chips in the store", ylabel=label)
        axes.set_ylim(0, 1.15 * top)
        axes.grid(alpha=0.25)
    titles = ("Rate", "Memory: anonymous and shared, no mapped files", "Time to the first batch, after imports")
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=9, loc="left")
    panels[0].legend(frameon=False, loc="lower left")
    figure.suptitle(
        f"64 x 64 x 4 uint16 chips, batch 64, {result['cores']} cores ({result['cpu']})", fontsize=11, x=0.01, ha="left"
    )
    return figure
