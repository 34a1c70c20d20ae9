"""Sections of a report about scores: classes, decisions, and the comparison with other runs.

In: a run and its metrics. Out: `page.Section`s; figures and tables are written on the way.
"""

import numpy as np
import pandas as pd

from analysis import bootstrap, class_metrics, f2_thresholds, plots
from analysis.chip_sections import Artifacts
from analysis.comparison import Difference
from analysis.figure_names import are_cut, shown
from analysis.figures import FEW_PANELS
from analysis.finished_run import Run
from analysis.page import Section
from analysis.shown_classes import MAX_CELLS, MAX_PANELS, MAX_ROWS, WIDE_CELLS, by_ap, most_frequent


def each_class(run: Run, resampled_ap: np.ndarray, artifacts: Artifacts) -> Section:
    """AP with intervals and chance, precision and recall, calibration, co-occurrence."""
    section = Section(id="classes", title="Classes")
    low, high = bootstrap.interval(resampled_ap)
    calibrations = class_metrics.calibrations(run.labels, run.probabilities)
    few = frozenset(np.flatnonzero(run.positives < class_metrics.FEW_POSITIVES).tolist())
    chance = run.positives / len(run.labels)
    section.note(
        f"Intervals: 95 %, from the 2.5th to the 97.5th percentile of {len(resampled_ap):,} bootstrap resamples (seed "
        f"{bootstrap.SEED}) of the test chips. Chance is the AP that random scores reach: the share of chips with "
        "the class."
    )
    if few:
        section.note(
            f"Grey: fewer than {class_metrics.FEW_POSITIVES} positives, so these scores are very uncertain: "
            f"{_some([run.classes[index] for index in sorted(few)])}.",
            "warn",
        )
    if are_cut(run.classes):
        section.note("Figures shorten or number long names. The tables have them in full and in the same order.")
    bars, small = (by_ap(run.ap, run.positives, limit) for limit in (MAX_ROWS, MAX_PANELS))
    many = len(small.classes) > FEW_PANELS
    section.plot(
        artifacts.figures.add("class_ap", plots.ap_bars(run, low, high, bars.classes)), bars.note, _all(bars.note)
    )
    section.plot(
        artifacts.figures.add("precision_recall", plots.precision_recall(run, small.classes)),
        "The number above each panel is the AP. The dashed line is chance.", small.note, wide=many,
    )  # fmt: skip
    section.plot(
        artifacts.figures.add("calibration", plots.reliability(run, calibrations, small.classes)),
        "The number above each panel is the Brier score. The diagonal is perfect calibration; larger points stand for "
        "more chips.", small.note, _all(small.note, "calibration"), wide=many,
    )  # fmt: skip
    _add_matrix(section, artifacts, "cooccurrence", run, class_metrics.cooccurrence(run.labels),
                ("Tags that occur together", "share that also has", "chips with"))  # fmt: skip
    frame = pd.DataFrame(
        {
            "class": run.classes, "AP": run.ap, "low": low, "high": high, "chance": chance, "positives": run.positives,
            "Brier": [one.brier for one in calibrations],
            "Brier of a constant": [one.reference for one in calibrations],
        }
    )  # fmt: skip
    section.blocks.append(
        artifacts.tables.add("classes", frame, "AP with its 95 % interval, chance, Brier score.", muted=few)
    )
    bins = np.arange(class_metrics.NUM_BINS) / class_metrics.NUM_BINS
    artifacts.tables.add(
        "calibration",
        pd.concat(
            [
                pd.DataFrame({"class": name, "bin from": bins, "chips": one.count, "forecast": one.forecast,
                              "share": one.share})
                for name, one in zip(run.classes, calibrations, strict=True)
            ]
        ),
    )  # fmt: skip
    return section


def _some(names: list[str], most: int = 20) -> str:
    """Names in one line; of very many only the first."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _all(note: str, table: str = "classes") -> str:
    """Where the classes are that a figure leaves out; "" if it leaves out none."""
    return f"All: tables/{table}.csv." if note else ""


def _add_matrix(
    section: Section, artifacts: Artifacts, name: str, run: Run, values: np.ndarray, titles: tuple[str, str, str],
    caption: str = "",
) -> None:  # fmt: skip
    """A figure of a (classes, classes) matrix; all of it as a table."""
    choice = most_frequent(run.positives, MAX_CELLS)
    order = class_metrics.similar_first(class_metrics.cooccurrence(run.labels), choice.classes)
    section.plot(
        artifacts.figures.add(name, plots.heat(values, run.classes, *titles, order)),
        caption, "Rows are ordered by which classes occur together.", choice.note, _all(choice.note, name),
        wide=len(choice.classes) > WIDE_CELLS,
    )  # fmt: skip
    artifacts.tables.add(name, pd.DataFrame(values, columns=list(run.classes)).assign(chips_with=run.classes))


def decided(run: Run, artifacts: Artifacts) -> Section:
    """Thresholds for F2, tuned on one half of the test split and reported on the other."""
    section = Section(id="decisions", title="Decisions")
    tuning, reporting = f2_thresholds.halves(len(run.labels))
    thresholds = f2_thresholds.tune(run.labels[tuning], run.logits[tuning])
    truth, before = run.labels[reporting], run.logits[reporting] > 0
    after = run.logits[reporting] > thresholds.values
    section.note(
        f"Thresholds for F2 were tuned on {len(tuning):,} of the test chips (the mean of the thresholds of "
        f"{f2_thresholds.NUM_FOLDS} folds, seed {f2_thresholds.SEED}). All scores here are from the other "
        f'{len(reporting):,}, except "F2 on held-out folds", so they differ from those of the whole test split under '
        '"What to do". The row "F2 samples" is Kaggle\'s metric. "macro" is the mean over classes with a positive.'
    )
    kinds = f2_thresholds.scores(truth, before), f2_thresholds.scores(truth, after)
    section.blocks.append(
        artifacts.tables.add(
            "f_scores",
            pd.DataFrame({"score": list(kinds[0]), "all thresholds 0.5": list(kinds[0].values()),
                          "tuned thresholds": list(kinds[1].values())}),
            "Before and after tuning.",
        )
    )  # fmt: skip
    each = pd.DataFrame(
        {
            "class": run.classes,
            "threshold": 1 / (1 + np.exp(-thresholds.values)),
            "F2 tuned": [f2_thresholds.f_beta(truth[:, c], after[:, c]) for c in range(len(run.classes))],
            "F2 at 0.5": [f2_thresholds.f_beta(truth[:, c], before[:, c]) for c in range(len(run.classes))],
            "F2 on held-out folds": thresholds.held_out_f2,
            "positives tuned on": run.labels[tuning].sum(axis=0, dtype=int),
            "positives reported on": truth.sum(axis=0, dtype=int),
        }
    )
    without = truth.sum(axis=0) == 0
    each.loc[without, ["F2 at 0.5", "F2 tuned"]] = np.nan
    small = by_ap(run.ap, run.positives, MAX_PANELS)
    section.plot(
        artifacts.figures.add("scores", plots.score_histograms(run, thresholds.values, small.classes)),
        "Dashed blue: chips with the class. Orange: chips without it. Each curve sums to 1. The dotted line and the "
        "number above each panel are the threshold.", small.note,
        wide=len(small.classes) > FEW_PANELS,
    )  # fmt: skip
    choice = by_ap(run.ap, run.positives, MAX_ROWS)
    section.plot(
        artifacts.figures.add(
            "f2",
            plots.grouped_bars(
                run.classes, [("threshold 0.5", each["F2 at 0.5"].to_numpy()), ("tuned", each["F2 tuned"].to_numpy())],
                "F2 of each class, before and after tuning", "F2 (0 to 1)", which=choice.classes,
            ),
        ),
        choice.note, _all(choice.note, "thresholds"),
    )  # fmt: skip
    _add_matrix(
        section, artifacts, "false_alarms", run, class_metrics.false_alarms(truth, after),
        ("False positives by true class (diagonal: false negatives)", "predicted as (but not labelled)", "chips with"),
        "Thresholds are the tuned ones. Each cell: of the chips that have the row's class and not the column's class, "
        "the share for which the column's class is predicted. Diagonal: of the chips with the class, the share for "
        "which it is not predicted. White: there are no such chips.",
    )  # fmt: skip
    muted = frozenset(np.flatnonzero(~thresholds.tuned).tolist())
    section.blocks.append(
        artifacts.tables.add("thresholds", each, muted=muted,
                        caption=f"Grey: fewer than {f2_thresholds.NUM_FOLDS} positives to tune on; threshold 0.5."
                        if muted else "")
    )  # fmt: skip
    return section


def compared(run: Run, differences: list[Difference], artifacts: Artifacts) -> Section:
    """AP of several runs side by side, and the intervals of their differences."""
    section = Section(id="comparison", title="Comparison")
    for entry in differences:
        low, high = entry.mean_ap_interval
        better = _titled(entry.other) if low > 0 else _titled(run)
        verdict = "no clear difference" if low <= 0 <= high else f"{better} is better"
        names = f"{_titled(entry.other)} compared with {_titled(run)}"
        section.note(f"{names}: mAP {entry.mean_ap:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}: {verdict}.")
    section.note(
        "Paired bootstrap: each resample draws the same test chips for both runs. The interval covers the choice of "
        "chips, not training again with another seed."
    )
    runs = [run, *(entry.other for entry in differences)]
    chance, choice = run.positives / len(run.labels), by_ap(run.ap, run.positives, MAX_ROWS)
    short = {"mAP": "mAP"} | dict(zip(run.classes, shown(run.classes), strict=True))
    section.plot(
        artifacts.figures.add(
            "comparison",
            plots.grouped_bars(run.classes, [(other.name, other.ap) for other in runs], "AP of each class, by run",
                               "AP (0 to 1)", chance, choice.classes),
        ),
        choice.note, _all(choice.note, "comparison"),
    )  # fmt: skip
    for entry in differences:
        rows = [("mAP", entry.mean_ap, *entry.mean_ap_interval)]
        rows += [(name, float(entry.ap[c]), float(entry.ap_low[c]), float(entry.ap_high[c]))
                 for c, name in enumerate(run.classes) if not np.isnan(entry.ap[c])]  # fmt: skip
        name, largest = f"difference_{entry.other.name}", sorted(rows[1:], key=lambda row: -abs(row[1]))[: MAX_ROWS - 1]
        points = [(short[row[0]], *row[1:]) for row in rows if row is rows[0] or row in largest]
        rest = "" if len(points) == len(rows) else f"The {MAX_ROWS - 1} classes with the largest differences."
        figure = plots.differences(points, f"{entry.other.name} - {run.name}")
        section.plot(artifacts.figures.add(name, figure), "Filled: the interval excludes 0.", rest, _all(rest, name))
        artifacts.tables.add(name, pd.DataFrame(rows, columns=["class", "difference", "low", "high"]))
    of_mean = float(class_metrics.mean_over_classes(np.where(chance > 0, chance, np.nan)))
    # Columns by position: a run may have the name of another column.
    columns = [[*run.classes, "mAP"], [*chance, of_mean], *([*other.ap, other.mean_ap] for other in runs)]
    frame = pd.DataFrame(dict(enumerate(columns)))
    frame.columns = pd.Index(["class", "chance", *(other.name for other in runs)])
    section.blocks.append(artifacts.tables.add("comparison", frame, "Chance, and AP by run."))
    return section


def _titled(run: Run) -> str:
    return f"{run.name} (task {run.config.task})"
