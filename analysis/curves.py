"""`make curves`: draw losses and mAP per epoch.

In: a run's metrics.jsonl. Out: RUN/curves.png.
"""

import math
from pathlib import Path
from typing import Any

import matplotlib

from analysis.finished_run import load_run, loss_title
from analysis.members import refuse_ensemble
from train.contract.metrics import EpochLine

matplotlib.use("Agg")  # no display is needed

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

plt.rcParams["text.parse_math"] = False  # a `$` in a run's name stays a `$`
# Okabe and Ito's colours, which colour-blind readers can tell apart; dashes differ in grey, too.
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
    loaded = load_run(run)
    refuse_ensemble(loaded, "curves", "its scores are of `make ensemble`, which trains nothing and has no epochs.")
    lines, config = loaded.history, loaded.config
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    _draw(left, lines, "loss", f"Loss ({loss_title(config.loss)}, mean over classes)")
    _draw(right, lines, "map", "mAP (train: taken during training, on augmented chips)")
    chosen_on = loaded.record.split.epoch_chosen_on
    values = [line.mean_ap(chosen_on) for line in lines]
    best = max(range(len(values)), key=lambda index: -1.0 if math.isnan(values[index]) else values[index])
    epoch, test_map = lines[best].epoch, lines[best].mean_ap("test")
    if not math.isnan(test_map):
        right.axvline(epoch, color="#999999", linewidth=1, zorder=0)
        right.plot(epoch, test_map, "o", markersize=11, markerfacecolor="none", color="#333333")
    figure.suptitle(
        f"{run.name}: task {config.task}, {config.arch}, recipe {config.recipe}; "
        f"test mAP {_score(test_map)} at epoch {epoch} (chosen on {chosen_on}), "
        f"{_score(lines[-1].mean_ap('test'))} at the last",
        fontsize=11,
    )
    target = run / "curves.png"
    temporary = run / ".curves.png"
    figure.savefig(temporary, format="png", dpi=130)
    plt.close(figure)
    temporary.replace(target)
    return target


def _score(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.4f}"


def _draw(axes: Axes, lines: tuple[EpochLine, ...], quantity: str, title: str) -> None:
    epochs = [line.epoch for line in lines]
    for part in lines[0].splits:
        # NaN (no class has a positive) leaves a gap.
        values = [line.loss(part) if quantity == "loss" else line.mean_ap(part) for line in lines]
        axes.plot(epochs, values, label=part, markersize=4, linewidth=1.6, **_STYLE[part])
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss" if quantity == "loss" else "mAP")
    axes.set_ylim(bottom=0, top=1.03 if quantity == "map" else None)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(lines) == 1:
        axes.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)  # otherwise the ticks are thousandths of an epoch
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
