"""The first sections of a report: curves an epoch, and Task 2 with its chips.

In: a run and what was computed from it. Out: `page.Section`s; figures and tables are written on the way. Leaves
classes, decisions and comparison to `verdicts`, putting the page together to `report`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import plots, tail
from analysis.figures import Figures
from analysis.finished_run import Run
from analysis.page import Cards, Note, Section, Tables, card
from analysis.pictures import Chip, Room, pictures
from analysis.ranking import Ranking
from analysis.slugs import listed
from preprocess.zarr_store import Store

SMALLEST_SIDE = 96  # pixels of the page: smaller chips are shown at the next whole multiple of their own


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Where figures and tables go."""

    figures: Figures
    tables: Tables


def shown_side(side: int) -> int:
    """Pixels of the page for a chip of `side` pixels: a whole multiple, so that every pixel stays square."""
    return side * max(1, -(-SMALLEST_SIDE // side))


def curves(run: Run, kept: Kept) -> Section:
    """Losses, mAP and class AP an epoch; learning rate; speed."""
    section = Section(id="curves", title="Curves")
    for name, figure in (
        ("loss", plots.curve(run, "loss")),
        ("map", plots.curve(run, "map")),
        ("learning_rate", plots.learning_rate(run)),
        ("speed", plots.speed(run)),
        ("class_ap_epochs", plots.class_ap_curves(run)),
    ):
        section.plot(kept.figures.add(name, figure))
    section.note(
        "Train scores are those made while learning, on augmented chips; test scores are made after the epoch. "
        "A class without a positive in a part has no AP there and leaves a gap."
    )
    history = pd.json_normalize([line.values() for line in run.history])
    kept.tables.add("epochs", history)
    columns = [c for c in history.columns if "." not in c and "_ap" not in c]
    section.blocks.append(
        kept.tables.add("epochs_short", history[columns], "Each epoch; all classes: tables/epochs.csv.")
    )
    return section


def task_2(run: Run, ranking: Ranking, store: Store | str, kept: Kept) -> Section:
    """Tail accuracy, and the best and worst chips of a class. `store` is a reason where there are no pictures."""
    section = Section(id="task-2", title="Tail accuracy, best and worst chips")
    own = tail.tail_accuracy(run.labels, run.probabilities, tail.own_thresholds(run.probabilities))
    common = tail.tail_accuracy(run.labels, run.probabilities, tail.common_thresholds(run.probabilities))
    shares = tail.tail_accuracy(run.labels, run.probabilities, tail.quantile_thresholds(run.probabilities))
    section.note(
        "Of the chips that a class is given with more than a threshold, the share that has it. An empty tail has no "
        "value: it is left out of the mean, and the lower panel shows how many classes count."
    )
    section.plot(kept.figures.add("tail_accuracy", plots.tail(common, own, run.classes)))
    section.plot(kept.figures.add("tail_shares", plots.tail_quantiles(shares)))
    kept.tables.add("tail_each_class", _tail_frame(own, run.classes))
    kept.tables.add(
        "tail_shares", _tail_frame(shares, run.classes).assign(share=np.repeat(tail.TAIL_SHARES, len(run.classes)))
    )
    mean = pd.DataFrame({"threshold": common.thresholds[:, 0], "mean tail accuracy": common.mean,
                         "classes that count": common.num_classes})  # fmt: skip
    each = pd.DataFrame(common.accuracy, columns=list(run.classes))
    kept.tables.add("tail_common_each_class", pd.concat([mean, each], axis=1))
    section.blocks.append(kept.tables.add("tail_common", mean, "On thresholds that all classes share."))
    name, ap, room = run.classes[ranking.class_index], run.ap[ranking.class_index], Room(blocks=2)
    section.note(
        f"Chips of {name} (AP {'none' if np.isnan(ap) else f'{ap:.4f}'}), by score; equal scores in the order of their "
        "names. Colour is red, green, blue as stored, stretched from the 1st to the 99th percentile of the chips shown."
    )
    if isinstance(store, str):
        section.note(f"No pictures: {store}", "warn")
    for title, rows in (("highest", ranking.best), ("lowest", ranking.worst)):
        shown, side = _chips(run, rows, store, room)
        cards = [
            [card(str(run.names[row]), chip, _said(run, row, ranking))] for row, chip in zip(rows, shown, strict=True)
        ]
        section.blocks.append(Cards(title=f"The {len(rows)} {title} scores of {name}", groups=cards, side=side))
        if not isinstance(store, str):
            section.blocks += left_out(shown)
        kept.tables.add(f"{title}_{name}", _ranking_frame(run, rows, ranking))
    return section


def _tail_frame(found: tail.Tail, names: tuple[str, ...]) -> pd.DataFrame:
    """A row a threshold and class."""
    return pd.DataFrame(
        {
            "class": list(names) * len(found.thresholds),
            "threshold": found.thresholds.ravel(),
            "chips in the tail": found.count.ravel(),
            "tail accuracy": found.accuracy.ravel(),
        }
    )


def left_out(shown: Sequence[Chip | None]) -> list[Note]:
    """A line about chips whose pictures had no room on the page, or none."""
    count = sum(chip is None for chip in shown)
    return (
        [Note(text=f"{count} of these are not shown: their pictures would make the page too large.")] if count else []
    )


def _chips(run: Run, rows: np.ndarray, store: Store | str, room: Room) -> tuple[list[Chip | None], int]:
    if isinstance(store, str):
        return [None] * len(rows), 0
    chip_of = {str(name): index for index, name in enumerate(store.names)}
    chips = np.array([chip_of[str(run.names[row])] for row in rows])
    return pictures(store, chips[:, None], room), shown_side(max(store.layout.height, store.layout.width))


def _tags(run: Run, row: int) -> str:
    return listed(np.array(run.classes)[run.labels[row] == 1].tolist())


def _said(run: Run, row: int, ranking: Ranking) -> list[str]:
    index = ranking.class_index
    has = "has it" if run.labels[row, index] else "has it not"
    return [f"{run.probabilities[row, index]:.6f}, {has}", _tags(run, row)]


def _ranking_frame(run: Run, rows: np.ndarray, ranking: Ranking) -> pd.DataFrame:
    index = ranking.class_index
    return pd.DataFrame(
        {
            "image_name": run.names[rows],
            "probability": run.probabilities[rows, index],
            "logit": run.logits[rows, index],
            "has the class": run.labels[rows, index],
            "tags": [_tags(run, row) for row in rows],
        }
    )
