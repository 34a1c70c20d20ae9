"""The chips on which a model is most wrong: false positives and false negatives by score, over all and per class.

In: a run, and its store for the images. Out: a `page.Section`, and tables with more chips than the page shows. Leaves
the order of one class's chips to `ranking`, images to `pictures`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis.chip_sections import Artifacts, chip_images, left_out, tags_of_row
from analysis.class_metrics import FEW_POSITIVES
from analysis.finished_run import Run
from analysis.page import Cards, Section, card
from analysis.pictures import ChipImages, ImageBudget
from analysis.ranking import lowest
from preprocess.zarr_store import Store

if TYPE_CHECKING:  # it needs torch
    from analysis.grad_cam import CamMaker

SHOWN, IN_TABLE = 10, 50  # pairs of chip and class over all, on the page and in the table
SHOWN_OF_CLASS, TABLE_OF_CLASS = 5, 20
BYTES = 2_000_000  # of images; see `pictures.PAGE_BYTES`
CAM_BYTES = 2_000_000  # of the images of CAM=1
MAX_CLASSES = 8  # with pictures: those with the lowest AP
KINDS = (("false positives", 0), ("false negatives", 1))
_SCORES = ("highest", "lowest")  # by label


def worst_of_class(run: Run, index: int, label: int, count: int) -> np.ndarray:
    """Rows of the chips with this label of a class whose logits are most wrong: the highest of label 0, the lowest of
    label 1. Equal logits are ordered by the chip's name."""
    rows = np.flatnonzero(run.labels[:, index] == label)
    values = run.logits[rows, index] * (1 if label else -1)
    return np.asarray(rows[lowest(values, run.names[rows], count)])


def worst_pairs(run: Run, label: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(chips, classes) with this label whose logits are most wrong over all classes, worst first."""
    each = [worst_of_class(run, index, label, count) for index in range(len(run.classes))]
    rows, classes = np.concatenate(each), np.repeat(np.arange(len(each)), [len(found) for found in each])
    values = run.logits[rows, classes] * (1 if label else -1)
    order = np.lexsort((classes, run.names[rows], values))[:count]
    return rows[order], classes[order]


def shown_classes(run: Run) -> np.ndarray:
    """The classes with pictures: the lowest AP first, among those that enough chips have and lack; if there are none,
    among those that enough chips lack; else all."""
    known = np.flatnonzero(~np.isnan(run.ap))
    lacked = known[len(run.labels) - run.positives[known] >= FEW_POSITIVES]
    enough = lacked[run.positives[lacked] >= FEW_POSITIVES]
    candidates = next((some for some in (enough, lacked) if len(some)), known)
    return np.asarray(candidates[np.argsort(run.ap[candidates], kind="stable")][:MAX_CLASSES])


def top_losses(run: Run, store: Store | str, artifacts: Artifacts, cam: "CamMaker | None" = None) -> Section:
    """The section. `store` is a reason if no images can be shown; `cam` makes an image of where the network looks."""
    section = Section(id="top-losses", title="Top losses")
    maps = Maps(maker=cam)
    section.note(
        "The chips on which the model is most wrong. False positives: highest scores without the label. False "
        "negatives: lowest scores with the label. Look for wrong labels, clouds and damaged chips among them."
    )
    if cam:
        section.note(
            "The last images of a chip (CAM=1) are Grad-CAM: the chip in grey, and in colours where the network looks "
            "for the class, from dark to bright. Each has its own scale. In a chip that stays grey, nothing raises the "
            f"score. {cam.words}."
        )
    chosen = shown_classes(run)
    budget = ImageBudget(blocks=2 + 2 * len(chosen), left=BYTES)
    every = {kind: worst_pairs(run, label, IN_TABLE) for kind, label in KINDS}
    for kind, (rows, classes) in every.items():
        _cards(section, run, store, budget, maps, f"{kind.capitalize()}, all classes", rows[:SHOWN], classes[:SHOWN])
    section.blocks.append(
        artifacts.tables.add(
            "top_losses", pd.concat([_frame(run, kind, *pairs) for kind, pairs in every.items()]), show=0,
            caption=f"The {IN_TABLE} worst pairs of chip and class of each kind:",
        )
    )  # fmt: skip
    frames = []
    for index in range(len(run.classes)):
        for kind, label in KINDS:
            rows = worst_of_class(run, index, label, TABLE_OF_CLASS)
            frames.append(_frame(run, kind, rows, np.full(len(rows), index)))
    table = artifacts.tables.add(
        "top_losses_each_class", pd.concat(frames), show=0, caption=f"The worst {TABLE_OF_CLASS} of every class:"
    )
    for index in chosen.tolist():
        for kind, label in KINDS:
            rows = worst_of_class(run, index, label, SHOWN_OF_CLASS)
            title = f"{run.classes[index]} (AP {run.ap[index]:.4f}): {kind}, {_SCORES[label]} scores"
            _cards(section, run, store, budget, maps, title, rows, np.full(len(rows), index))
    if len(chosen) < len(run.classes):
        which = "class" if len(chosen) == 1 else f"{len(chosen)} classes"
        section.note(f"Pictures: the {which} with the lowest AP" + (
            f" among those with {FEW_POSITIVES} positives or more."
            if len(chosen) and run.positives[chosen].min() >= FEW_POSITIVES else "."
        ))  # fmt: skip
    section.blocks.append(table)
    return section


@dataclass(kw_only=True)
class Maps:
    """Images of where the network looks, up to CAM_BYTES of text."""

    maker: "CamMaker | None"
    left: int = CAM_BYTES

    def images(self, shown: list[ChipImages | None], classes: np.ndarray) -> list[tuple[tuple[str, str], ...]]:
        """(data URI, words) of the chips that are shown."""
        more: list[tuple[tuple[str, str], ...]] = [()] * len(shown)
        rows = [row for row, chip in enumerate(shown) if chip]
        if not self.maker or not rows or self.left <= 0:
            return more
        chips = np.array([chip.index for chip in shown if chip], np.int64)
        for row, images in zip(rows, self.maker.images(chips, classes[rows]), strict=True):
            self.left -= sum(len(image.uri) for image in images)
            if self.left > 0:
                more[row] = tuple((image.uri, image.words) for image in images)
        return more


def _cards(
    section: Section, run: Run, store: Store | str, budget: ImageBudget, maps: Maps, title: str, rows: np.ndarray,
    classes: np.ndarray,
) -> None:  # fmt: skip
    images, side = chip_images(run, rows, store, budget)
    more = maps.images(images, classes)
    cards = [
        [card(str(run.names[row]), image, [_line(run, row, index), f"tags: {tags_of_row(run, row)}"], further)]
        for row, index, image, further in zip(rows.tolist(), classes.tolist(), images, more, strict=True)
    ]
    if cards:
        section.blocks.append(Cards(title=title, groups=cards, side=side))
    if not isinstance(store, str):
        section.blocks += left_out(images)
    if maps.maker and any(images) and not all(more):
        section.note("Some Grad-CAM images are left out: they would make the page too large.")


def _line(run: Run, row: int, index: int) -> str:
    label = "labelled" if run.labels[row, index] else "not labelled"
    return f"{run.classes[index]}: probability {run.probabilities[row, index]:.4f}, {label}"


def _frame(run: Run, kind: str, rows: np.ndarray, classes: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "kind": kind, "class": np.array(run.classes)[classes], "image_name": run.names[rows],
            "probability": run.probabilities[rows, classes], "logit": run.logits[rows, classes],
            "label": run.labels[rows, classes], "tags": [tags_of_row(run, row) for row in rows.tolist()],
        }
    )  # fmt: skip
