"""The figures of a report.

In: computed arrays, and the numbers of the classes to show. Out: matplotlib figures. Leaves the look to `figures`, the
text of names to `figure_names`, the choice of classes to `shown_classes`.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter
from sklearn.metrics import precision_recall_curve

from analysis.class_metrics import FEW_POSITIVES, Calibration
from analysis.figure_names import chosen, cut, panel_titles, text_width
from analysis.figures import BLUE, FAINT, GREEN, INK, ORANGE, RUN_STYLES, new, panels, with_names
from analysis.finished_run import Run, loss_title
from analysis.tail import TAIL_SHARES, Tail

SPLIT_STYLE: dict[str, dict[str, Any]] = {
    "train": {"color": BLUE, "linestyle": "-", "marker": "o"},
    "val": {"color": GREEN, "linestyle": ":", "marker": "s"},
    "test": {"color": ORANGE, "linestyle": "--", "marker": "^"},
}
# Ticks of a small panel; "1.0" would touch the "0.0" of the next one.
_SHARES: dict[str, Any] = {f"{axis}{kind}": values for axis in "xy"
                           for kind, values in (("ticks", (0, 0.5, 1)), ("ticklabels", ("0", "0.5", "1")))}  # fmt: skip
_PR_POINTS = 300  # per curve, in an image 130 pixels wide


def _epochs(run: Run, axes: Axes) -> list[int]:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    epochs = [line.epoch for line in run.history]
    if len(epochs) == 1:
        axes.set_xlim(epochs[0] - 0.5, epochs[0] + 0.5)  # otherwise the ticks are thousandths of an epoch
    return epochs


def curve(run: Run, quantity: str) -> Figure:
    """ "loss" or "map" of every split per epoch; the chosen epoch is marked."""
    kind = loss_title(run.config.loss)
    title, unit = (f"Loss ({kind})", "nats, mean over classes") if quantity == "loss" else ("mAP", "mAP (0 to 1)")
    figure, axes = new(f"{title} after each epoch", "epoch", unit)
    epochs = _epochs(run, axes)
    for part in run.history[0].splits:
        # NaN (no class has a positive) leaves a gap.
        values = [line.loss(part) if quantity == "loss" else line.mean_ap(part) for line in run.history]
        axes.plot(epochs, values, label=part, markersize=4, linewidth=1.6, **SPLIT_STYLE[part])
    axes.axvline(run.epoch, color=FAINT, linewidth=1, zorder=0, label=f"chosen: epoch {run.epoch}")
    axes.set_ylim(bottom=0, top=1.02 if quantity == "map" else None)
    axes.legend(fontsize=9)
    return figure


def class_ap_curves(run: Run, which: np.ndarray) -> Figure:
    """AP of these classes after each epoch, train and test."""
    titles = panel_titles(run.classes, which)
    figure, grid = panels(titles, "AP of each class after each epoch", "epoch", "AP (0 to 1)")
    for index, axes in zip(which, grid, strict=True):
        epochs = _epochs(run, axes)
        for part in ("train", "test"):
            values = [line.ap(part, run.classes[index]) for line in run.history]
            axes.plot(epochs, values, label=part, markersize=2.5, linewidth=1.2, **SPLIT_STYLE[part])
        margin = 0.05 * (epochs[-1] - epochs[0]) or 0.5
        axes.set(ylim=(0, 1.02), yticks=(0, 0.5, 1), xlim=(epochs[0] - margin, epochs[-1] + margin))
    figure.axes[0].legend(fontsize=7, loc="lower right")
    return figure


def learning_rate(run: Run) -> Figure:
    """Learning rate of each epoch's last step."""
    schedule = run.config.schedule
    figure, axes = new(f"Learning rate at the end of each epoch ({schedule})", "epoch", "learning rate", height=2.6)
    axes.plot(_epochs(run, axes), [line.lr for line in run.history], "o-", color=BLUE, markersize=4, linewidth=1.6)
    axes.set_ylim(bottom=0)
    return figure


def speed(run: Run) -> Figure:
    """Chips/s during training, and the share of that time spent waiting for data."""
    figure, axes = new("Training speed", "epoch", "chips/s", height=2.6)
    epochs = _epochs(run, axes)
    axes.plot(
        epochs, [line.chips_per_s for line in run.history], "o-", color=BLUE, markersize=4, label="chips/s (left)"
    )
    axes.set_ylim(0, 1.1 * max(line.chips_per_s for line in run.history) or 1)
    right = axes.twinx()
    right.plot(
        epochs, [line.wait_share for line in run.history], "^--", color=ORANGE, markersize=4, label="data wait (right)"
    )
    right.set(ylabel="time waiting for data", ylim=(0, 1))
    right.yaxis.set_major_formatter(PercentFormatter(1))
    right.grid(visible=False)
    right.spines["right"].set_visible(True)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure


def tail(common: Tail, per_class: Tail, classes: tuple[str, ...]) -> Figure:
    """Mean tail accuracy over classes at common thresholds, and below it the number of classes that count."""
    figure = Figure(figsize=(5.2, 4.6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot(per_class.thresholds, per_class.accuracy, color=FAINT, linewidth=0.8, alpha=0.7)
    upper.plot([], [], color=FAINT, linewidth=0.8, label="each class, up to its highest score")
    upper.plot(common.thresholds[:, 0], common.mean, "o-", color=BLUE, markersize=4, label="mean over classes")
    upper.set(title="Tail accuracy", ylabel="precision", ylim=(0, 1.03))
    upper.legend(fontsize=9, loc="lower left")
    step = common.thresholds[1, 0] - common.thresholds[0, 0]
    lower.bar(common.thresholds[:, 0], common.num_classes, width=0.6 * step or 0.01, color=BLUE)
    lower.set(xlabel="probability threshold (strictly above)", ylabel="classes", ylim=(0, len(classes) * 1.1))
    lower.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    return figure


def tail_quantiles(tails: Tail) -> Figure:
    """Precision among the highest-scored share of chips, for which every class has a value."""
    figure, axes = new("Precision among the highest-scored chips", "highest-scored share of the chips",
                       "precision")  # fmt: skip
    shares = np.array(TAIL_SHARES)
    axes.plot(shares, tails.accuracy, color=FAINT, linewidth=0.8, alpha=0.7)
    axes.plot([], [], color=FAINT, linewidth=0.8, label="each class")
    axes.plot(shares, tails.mean, "o-", color=BLUE, markersize=4, label="mean over classes")
    axes.set(xscale="log", ylim=(0, 1.03))
    axes.invert_xaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.xaxis.set_minor_formatter(NullFormatter())  # a logarithmic axis labels minor ticks with mathtext
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure


def ap_bars(run: Run, low: np.ndarray, high: np.ndarray, which: np.ndarray) -> Figure:
    """AP of these classes with its interval and chance level; classes with few positives are grey."""
    figure, axes = with_names("AP of each class with 95 % interval, and chance", "AP (0 to 1)", "class (positives)",
                       height=0.27 * len(which) + 1.3)  # fmt: skip
    rows, positives, ap, low, high = np.arange(len(which)), run.positives[which], run.ap[which], low[which], high[which]
    colours = [FAINT if count < FEW_POSITIVES else BLUE for count in positives]
    axes.barh(rows, np.nan_to_num(ap), color=colours, height=0.62)
    known = ~np.isnan(ap)
    axes.hlines(rows[known], low[known], high[known], color=INK, linewidth=1.3)
    axes.plot(positives / len(run.labels), rows, "D", color=ORANGE, markersize=4, linestyle="none", label="chance",
              clip_on=False, zorder=3)  # fmt: skip
    if known.any():
        axes.axvline(run.mean_ap, color=INK, linestyle=":", linewidth=1.2, label=f"mAP {run.mean_ap:.4f}")
    names = chosen(run.classes, which)
    axes.set_yticks(rows, [f"{name} ({count})" for name, count in zip(names, positives, strict=True)])
    axes.set(xlim=(0, 1.02), ylim=(len(rows) - 0.4, -0.6))
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return figure


def precision_recall(run: Run, which: np.ndarray) -> Figure:
    """Precision over recall of these classes; chance is dashed."""
    notes = [f"{run.ap[index]:.3f}" if run.positives[index] else "" for index in which]
    titles = panel_titles(run.classes, which, notes)
    figure, grid = panels(titles, "Precision and recall of each class", "recall (0 to 1)", "precision (0 to 1)")
    for index, axes in zip(which, grid, strict=True):
        truth = run.labels[:, index]
        axes.set(xlim=(0, 1), ylim=(0, 1.03), **_SHARES)
        axes.axhline(truth.mean(), color=ORANGE, linestyle="--", linewidth=1)
        if not truth.any():
            axes.text(0.5, 0.5, "no positive", ha="center", fontsize=8)
            continue
        precision, recall, _ = precision_recall_curve(truth, run.logits[:, index])
        # In order of rising recall. At each positive the step has the precision that AP counts for it.
        precision, recall = precision[::-1], recall[::-1]
        points = np.unique(np.searchsorted(recall, np.linspace(0, 1, _PR_POINTS)))
        colour = FAINT if truth.sum() < FEW_POSITIVES else BLUE
        axes.step(recall[points], precision[points], where="pre", color=colour, linewidth=1.2)
    return figure


def reliability(run: Run, calibrations: list[Calibration], which: np.ndarray) -> Figure:
    """Predicted probability and observed share, one point per bin; its size shows the number of chips."""
    titles = panel_titles(run.classes, which, [f"{calibrations[index].brier:.3f}" for index in which])
    figure, grid = panels(titles, "Calibration of each class (Brier score)", "predicted probability",
                          "share with the class")  # fmt: skip
    for index, axes in zip(which, grid, strict=True):
        calibration = calibrations[index]
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
        colour = FAINT if run.positives[index] < FEW_POSITIVES else BLUE
        sizes = 4 + 8 * np.log10(np.maximum(calibration.count, 1))
        axes.plot(calibration.forecast, calibration.share, color=colour, linewidth=1)
        axes.scatter(calibration.forecast, calibration.share, s=sizes, color=colour)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), **_SHARES)
    return figure


def score_histograms(run: Run, thresholds: np.ndarray, which: np.ndarray) -> Figure:
    """Chips per probability, with and without each of these classes; `thresholds` (classes,) are logits."""
    titles = panel_titles(run.classes, which, [f"{1 / (1 + np.exp(-thresholds[index])):.2f}" for index in which])
    figure, grid = panels(titles, "Scores of each class (threshold tuned for F2)", "probability (0 to 1)",
                          "share of the chips")  # fmt: skip
    edges = np.linspace(0, 1, 21)
    for index, axes in zip(which, grid, strict=True):
        for label, colour, style in ((0, ORANGE, "-"), (1, BLUE, "--")):
            values = run.probabilities[run.labels[:, index] == label, index]
            shares = np.histogram(values, edges)[0] / max(1, len(values))
            axes.stairs(shares, edges, color=colour, linestyle=style, linewidth=1.3)
        axes.axvline(1 / (1 + np.exp(-thresholds[index])), color=INK, linestyle=":", linewidth=1.2)
        axes.set(xlim=(0, 1), ylim=(0, 1.03), **_SHARES)
    return figure


def heat(
    values: np.ndarray, classes: tuple[str, ...], title: str, xlabel: str, ylabel: str,
    which: np.ndarray | None = None,
) -> Figure:  # fmt: skip
    """A (classes, classes) matrix of shares, of these classes; NaN is left blank. Lighter is more, in grey, too."""
    names = chosen(classes, which)
    if which is not None:
        values = values[np.ix_(which, which)]
    names_in = 0.075 * max(map(text_width, names))
    side = max(3.4, max(1.2, 0.24 * len(names)) + max(1.6, names_in + 0.3))
    figure, axes = with_names(title, xlabel, ylabel, height=side + 0.5, width=max(5.2, side))
    mesh = axes.pcolormesh(np.ma.masked_invalid(values), cmap="cividis", vmin=0, vmax=1, edgecolors="face")
    ticks = np.arange(len(names)) + 0.5
    axes.set_xticks(ticks, names, rotation=90, fontsize=9)
    axes.set_yticks(ticks, names, fontsize=9)
    axes.grid(visible=False)
    axes.invert_yaxis()
    figure.colorbar(mesh, ax=axes, label="share (0 to 1)", shrink=0.7)
    return figure


def grouped_bars(
    classes: tuple[str, ...], values: list[tuple[str, np.ndarray]], title: str, xlabel: str,
    chance: np.ndarray | None = None, which: np.ndarray | None = None,
) -> Figure:  # fmt: skip
    """Horizontal bars side by side: `values` are (name, (classes,)) in order; `chance` (classes,) is marked."""
    names = chosen(classes, which)
    shown = slice(None) if which is None else which
    figure, axes = with_names(title, xlabel, "class", height=(0.13 * len(values) + 0.14) * len(names) + 1.4)
    rows, step = np.arange(len(names)), 0.8 / len(values)
    keys: list[tuple[Any, str]] = []  # passed to the legend: matplotlib skips labels that begin with "_"
    for index, (name, row) in enumerate(values):
        style = RUN_STYLES[index % len(RUN_STYLES)]
        bars = axes.barh(
            rows + (index - (len(values) - 1) / 2) * step, np.nan_to_num(row[shown]), height=step * 0.9,
            color=style["color"], hatch=style["hatch"], edgecolor="white", linewidth=0,
        )  # fmt: skip
        keys.append((bars, name))
    if chance is not None:
        (marks,) = axes.plot(chance[shown], rows, "D", color=INK, markersize=3.5, linestyle="none")
        keys.append((marks, "chance"))
    axes.set_yticks(rows, names)
    axes.set(xlim=(0, 1.02), ylim=(len(names) - 0.4, -0.6))
    axes.grid(axis="y", visible=False)
    figure.legend(*zip(*keys, strict=True), loc="outside lower center", ncols=min(3, len(keys)), fontsize=9)
    return figure


def differences(rows: list[tuple[str, float, float, float]], title: str) -> Figure:
    """Points with intervals around 0: `rows` are (name as ticks show it, difference, low, high)."""
    figure, axes = with_names(title, "difference of AP (other - this run)", "class", height=0.27 * len(rows) + 1.2)
    positions = np.arange(len(rows))
    axes.axvline(0, color=INK, linewidth=1)
    for position, (_, value, low, high) in zip(positions, rows, strict=True):
        clear = low > 0 or high < 0
        axes.hlines(position, low, high, color=BLUE if clear else FAINT, linewidth=2)
        axes.plot(value, position, "o", color=BLUE, markersize=5,
                  markerfacecolor=BLUE if clear else "none")  # fmt: skip
    axes.set_yticks(positions, [cut(name) for name, *_ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    return figure
