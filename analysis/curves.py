"""metrics.jsonl -> one PNG: losses and mAP an epoch."""

from pathlib import Path
from typing import Any

import matplotlib

from analysis.results import LOSSES, read_history, read_record

matplotlib.use("Agg")  # no screen is needed, and none is looked for

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

plt.rcParams["text.parse_math"] = False  # a `$` in a run's name is a `$`
# Okabe and Ito's colours, told apart by colour-blind eyes; the dashes tell them apart in grey.
_STYLE: dict[str, Any] = {
    "train": {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    "val": {"color": "#009E73", "linestyle": ":", "marker": "s"},
    "test": {"color": "#D55E00", "linestyle": "--", "marker": "^"},
}


def draw_curves(run: Path) -> Path:
    """Draw `run/curves.png` and return its path.

    Raises:
        UserError: the run has no finished epoch.
    """
    lines = read_history(run)
    record = read_record(run)
    config = record["config"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    _draw(left, lines, "loss", f"Loss ({LOSSES[config['loss']]}, mean over classes)")
    _draw(right, lines, "map", "mAP (train: scored while learning, on augmented chips)")
    chosen_on = record["split"]["epoch_chosen_on"]
    values = [line[f"{chosen_on}_map"] for line in lines]
    best = max(range(len(values)), key=lambda index: -1.0 if values[index] is None else values[index])
    test_map = lines[best]["test_map"]
    if test_map is not None:
        right.axvline(lines[best]["epoch"], color="#999999", linewidth=1, zorder=0)
        right.plot(lines[best]["epoch"], test_map, "o", markersize=11, markerfacecolor="none", color="#333333")
    figure.suptitle(
        f"{run.name}: task {config['task']}, {config['arch']}, recipe {config['recipe']}; "
        f"test mAP {'none' if test_map is None else format(test_map, '.4f')} at epoch {lines[best]['epoch']} "
        f"(chosen on {chosen_on})",
        fontsize=11,
    )
    target = run / "curves.png"
    beside = run / ".curves.png"
    figure.savefig(beside, format="png", dpi=130)
    plt.close(figure)
    beside.replace(target)
    return target


def _draw(axes: Axes, lines: list[dict[str, Any]], what: str, title: str) -> None:
    epochs = [line["epoch"] for line in lines]
    for part, style in _STYLE.items():
        key = f"{part}_{what}"
        if key in lines[0]:
            # None (no class has a positive) leaves a gap.
            values = [float("nan") if line[key] is None else line[key] for line in lines]
            axes.plot(epochs, values, label=part, markersize=4, linewidth=1.6, **style)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss" if what == "loss" else "mAP")
    axes.set_ylim(bottom=0, top=1.03 if what == "map" else None)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(lines) == 1:
        axes.set_xlim(lines[0]["epoch"] - 0.5, lines[0]["epoch"] + 0.5)  # else its ticks are thousandths of an epoch
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
