"""The picture of a learning-rate range test: loss over learning rate, and the marks of the suggestion.

In: the CSV that `train LR=find` wrote. Out: a PNG beside it.
"""

import io
from pathlib import Path

from matplotlib.ticker import FuncFormatter, NullFormatter

from analysis import figures
from preprocess.files import write_atomic
from train.lr_curve import read_curve, suggest


def draw_lr_curve(path: Path) -> Path:
    """Draw PATH.csv as PATH.png, and return its path."""
    curve = read_curve(path)
    suggestion = suggest(curve)
    figure, axes = figures.new(
        f"LR=find: suggested LR={suggestion.lr:g}", "learning rate", "loss of the step", width=7.0, height=4.8
    )  # fmt: skip
    axes.plot(curve.rates, curve.losses, ".", color=figures.FAINT, markersize=4, label="loss of each step")
    axes.plot(curve.rates, curve.smoothed, color=figures.BLUE, label="mean of neighbouring steps")
    for at, style, colour, label in (
        (suggestion.steepest, ":", figures.INK, "falls fastest"),
        (suggestion.lr, "-", figures.ORANGE, "suggested: the geometric mean of the other two"),
        (suggestion.lowest, "--", figures.INK, "lowest"),
    ):
        axes.axvline(at, linestyle=style, color=colour, linewidth=1.4, label=f"{at:.1e}: {label}")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))  # no $: see `figures`
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(bottom=0, top=1.3 * max(curve.smoothed[: len(curve.smoothed) // 2]))
    figure.legend(fontsize=8.5, loc="outside lower center", ncols=2)
    target, png = path.with_suffix(".png"), io.BytesIO()
    figure.savefig(png, format="png", dpi=figures.PNG_DPI, facecolor="white")
    write_atomic(target, png.getvalue())
    return target
