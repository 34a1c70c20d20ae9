"""The first sections of a report: curves per epoch, and Task 2 (tail accuracy) with its chips.

In: a run and its metrics. Out: `page.Section`s; figures and tables are written on the way. Leaves classes, decisions
and comparison to `score_sections`, the page to `report`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import plots, tail
from analysis.class_metrics import FEW_POSITIVES
from analysis.figures import FEW_PANELS, Figures
from analysis.finished_run import Run
from analysis.page import Cards, Note, Section, Tables, card
from analysis.pictures import ChipImages, ImageBudget, pictures, shown_bands
from analysis.ranking import Ranking
from analysis.shown_classes import MAX_PANELS, by_ap
from analysis.slugs import listed
from preprocess.zarr_store import Store

SMALLEST_SIDE = 96  # pixels on the page: a smaller chip is enlarged by the smallest whole factor that reaches this


@dataclass(frozen=True, kw_only=True)
class Artifacts:
    """Writers of the page's figures and tables."""

    figures: Figures
    tables: Tables


def shown_side(side: int) -> int:
    """Side on the page, in pixels, of a chip of `side` pixels: a whole multiple, so that every pixel stays square."""
    return side * max(1, -(-SMALLEST_SIDE // side))


def curves(run: Run, artifacts: Artifacts) -> Section:
    """Losses, mAP and AP of each class per epoch; learning rate; speed."""
    section = Section(id="curves", title="Curves")
    for name, figure in (
        ("loss", plots.curve(run, "loss")),
        ("map", plots.curve(run, "map")),
        ("learning_rate", plots.learning_rate(run)),
        ("speed", plots.speed(run)),
    ):
        section.plot(artifacts.figures.add(name, figure))
    choice = by_ap(run.ap, run.positives, MAX_PANELS)
    section.plot(artifacts.figures.add("class_ap_epochs", plots.class_ap_curves(run, choice.classes)), choice.note,
                 wide=len(choice.classes) > FEW_PANELS)  # fmt: skip
    section.note(
        "Train scores are taken during training, on augmented chips; test scores are taken after the epoch. "
        "A class without a positive in a split has no AP there and leaves a gap."
    )
    history = pd.json_normalize([line.values() for line in run.history])
    artifacts.tables.add("epochs", history)
    columns = [c for c in history.columns if "." not in c and "_ap" not in c]
    scores = ["epoch", *(f"{split}_{of}" for of in ("map", "loss") for split in ("test", "val", "train"))]
    columns = [*(c for c in scores if c in columns), *(c for c in columns if c not in scores)]  # for a narrow screen
    section.blocks.append(
        artifacts.tables.add("epochs_short", history[columns], "All epochs. AP of each class: tables/epochs.csv.")
    )
    return section


def task_2(run: Run, ranking: Ranking, store: Store | str, artifacts: Artifacts) -> Section:
    """Tail accuracy, and the best and worst chips of a class. `store` is a reason if no images can be shown."""
    section = Section(id="task-2", title="Tail accuracy, best and worst chips")
    per_class = tail.tail_accuracy(run.labels, run.probabilities, tail.own_thresholds(run.probabilities))
    common = tail.tail_accuracy(run.labels, run.probabilities, tail.common_thresholds(run.probabilities))
    shares = tail.tail_accuracy(run.labels, run.probabilities, tail.quantile_thresholds(run.probabilities))
    section.note(
        "Tail accuracy: precision among the chips scored above the threshold. Where no chip is above it, a class has "
        "no value and does not count in the mean; the lower panel shows how many classes count."
    )
    section.plot(artifacts.figures.add("tail_accuracy", plots.tail(common, per_class, run.classes)))
    section.plot(artifacts.figures.add("tail_shares", plots.tail_quantiles(shares)))
    artifacts.tables.add("tail_each_class", _tail_frame(per_class, run.classes))
    artifacts.tables.add(
        "tail_shares", _tail_frame(shares, run.classes).assign(share=np.repeat(tail.TAIL_SHARES, len(run.classes)))
    )
    mean = pd.DataFrame({"threshold": common.thresholds[:, 0], "mean tail accuracy": common.mean,
                         "classes that count": common.num_classes})  # fmt: skip
    each = pd.DataFrame(common.accuracy, columns=list(run.classes))
    artifacts.tables.add("tail_common_each_class", pd.concat([mean, each], axis=1))
    section.blocks.append(
        artifacts.tables.add("tail_common", mean, "Values at thresholds common to all classes:", show=0)
    )
    name, ap, budget = run.classes[ranking.class_index], run.ap[ranking.class_index], ImageBudget(blocks=2)
    section.note(
        f"All test chips, ordered by their score for {name} (AP {'none' if np.isnan(ap) else f'{ap:.4f}'}); equal "
        "scores are ordered by name."
    )
    if ranking.is_luck:
        positives = int(run.positives[ranking.class_index])
        section.note(
            f"{positives:,} test chips have {name}, {len(run.labels) - positives:,} lack it, so high or low scores can "
            f"be luck. It is shown because CLASS names it, or because no class has {FEW_POSITIVES} chips with it and "
            f"{FEW_POSITIVES} without it.", "warn",
        )  # fmt: skip
    if isinstance(store, str):
        section.note(f"No images: {store}", "warn")
    else:
        section.note(images_note(store, run.config.band_choice.rgb))
    for title, rows in (("highest", ranking.best), ("lowest", ranking.worst)):
        shown, side = chip_images(run, rows, store, budget)
        cards = [
            [card(str(run.names[row]), chip, _card_lines(run, row, ranking))]
            for row, chip in zip(rows, shown, strict=True)
        ]
        section.blocks.append(Cards(title=f"The {len(rows)} {title} scores of {name}", groups=cards, side=side))
        if not isinstance(store, str):
            section.blocks += left_out(shown)
        artifacts.tables.add(f"{title}_{name}", _ranking_frame(run, rows, ranking))
    return section


def images_note(store: Store, rgb: tuple[str, ...] = (), *, in_pairs: bool = False) -> str:
    """What the images of a page show; chips in pairs have no second image."""
    shown = shown_bands(store.layout.bands, rgb)
    grey = f"; the grey image beside it: {shown.nir}" if shown.nir and not in_pairs else ""
    nodata = "" if store.layout.nodata is None else " Nodata is magenta."
    return (
        f"{shown.words}{grey}. Each band is stretched from the 1st to the 99th percentile of the chips of one "
        f"group, so a chip can look different in another group.{nodata}"
    )


def _tail_frame(values: tail.Tail, names: tuple[str, ...]) -> pd.DataFrame:
    """One row per threshold and class."""
    return pd.DataFrame(
        {
            "class": list(names) * len(values.thresholds),
            "threshold": values.thresholds.ravel(),
            "chips in the tail": values.count.ravel(),
            "tail accuracy": values.accuracy.ravel(),
        }
    )


def left_out(shown: Sequence[ChipImages | None]) -> list[Note]:
    """A note about chips whose images exceed the page's size limit; empty if there are none."""
    count = sum(chip is None for chip in shown)
    return [Note(text=f"{count} of these are not shown: their images would make the page too large.")] if count else []


def chip_images(
    run: Run, rows: np.ndarray, store: Store | str, budget: ImageBudget
) -> tuple[list[ChipImages | None], int]:
    """Images of test chips, and their side on the page. `store` is a reason if there can be none."""
    if isinstance(store, str):
        return [None] * len(rows), 0
    wanted = {str(name): -1 for name in run.names[rows]}  # a chip can be in several rows
    for chip, name in enumerate(store.names.tolist()):
        if name in wanted:
            wanted[name] = chip
    chips = np.array([wanted[str(name)] for name in run.names[rows]], np.int64)
    return pictures(store, chips[:, None], budget, run.config.band_choice.rgb), shown_side(
        max(store.layout.height, store.layout.width)
    )


def tags_of_row(run: Run, row: int) -> str:
    """The tags of a test chip in one line."""
    return listed(np.array(run.classes)[run.labels[row] == 1].tolist())


def _card_lines(run: Run, row: int, ranking: Ranking) -> list[str]:
    index = ranking.class_index
    label = "labelled" if run.labels[row, index] else "not labelled"
    return [f"probability {run.probabilities[row, index]:.6f}, {label}", f"tags: {tags_of_row(run, row)}"]


def _ranking_frame(run: Run, rows: np.ndarray, ranking: Ranking) -> pd.DataFrame:
    index = ranking.class_index
    return pd.DataFrame(
        {
            "image_name": run.names[rows],
            "probability": run.probabilities[rows, index],
            "logit": run.logits[rows, index],
            "label": run.labels[rows, index],
            "tags": [tags_of_row(run, row) for row in rows],
        }
    )
