"""Checks of labels: contradictory, missing and repeated tags, and labels that a model doubts.

In: a store's labels; optionally its CSV and a run's scores. Out: `Finding`s. The store keeps a repeated tag once, so
repetitions can only be found in the CSV.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores

from analysis.bootstrap import bootstrap_ap, interval
from analysis.class_metrics import FEW_POSITIVES
from analysis.findings import Check, Finding
from analysis.finished_run import Run
from analysis.slugs import listed
from preprocess.addresses import Location
from preprocess.console import UserError
from preprocess.image_names import stem
from preprocess.label_files import number_of
from preprocess.label_settings import LabelSettings
from preprocess.labels import LabelTable, chips_of_rows, read_labels, read_tags, settings_of
from preprocess.packed_texts import PackedTexts, positions
from preprocess.splits import SPLIT_NAMES, Split
from preprocess.tag_rows import TagRow
from preprocess.zarr_store import Store

MIN_EXAMPLES = 10  # of each kind; with fewer, cleanlab's estimate of a class's noise is meaningless


def absent_classes(store: Store, split: Split) -> Finding:
    """Classes that a split of the data has no chip of, although it is not empty."""
    rows = []
    total = store.labels.sum(axis=0, dtype=int)
    for name in SPLIT_NAMES:
        chips = split.indices(name)
        present = store.labels[chips].any(axis=0)
        rows += [(store.classes[c], name, total[c]) for c in np.flatnonzero(~present).tolist() if len(chips)]
    return Finding(
        check=Check.ABSENT_CLASSES,
        about="A class that no train chip has cannot be learnt. A class that no val or test chip has gets no AP there.",
        table=pd.DataFrame(rows, columns=["class", "split", "chips of the store with the class"]),
    )


def unjudged_classes(store: Store, split: Split) -> Finding:
    """Classes that too few test chips have, or too few lack. Classes that no test chip has are absent instead."""
    chips = split.indices("test")
    positives = store.labels[chips].sum(axis=0, dtype=int)
    rows = []
    for c, count in enumerate(positives.tolist()):
        if 0 < count < FEW_POSITIVES or len(chips) - count < FEW_POSITIVES <= count:
            rows.append((store.classes[c], count, len(chips) - count))
    return Finding(
        check=Check.UNJUDGED_CLASSES,
        about=f"Fewer than {FEW_POSITIVES} test chips have the class, or fewer than {FEW_POSITIVES} lack it, so its AP "
        "is very uncertain. If nearly all have it, any scores give it a high AP.",
        table=pd.DataFrame(rows, columns=["class", "test chips with it", "test chips without it"]),
    )


def untagged(store: Store) -> Finding:
    """Chips without a tag."""
    chips = np.flatnonzero(~store.labels.any(axis=1)).tolist()
    return Finding.of_chips(Check.NO_TAG, "The labels file has no tag for the chip.", [(chip, "") for chip in chips])


def exclusive_findings(store: Store, exclusive: tuple[str, ...]) -> list[Finding]:
    """Chips with several, and chips with none, of a set of classes that exclude each other.

    Raises:
        UserError: the store does not have one of the classes.
    """
    checks = (Check.CONTRADICTORY_TAGS, Check.NO_EXCLUSIVE_TAG)
    if not exclusive:
        needs = "needs EXCLUSIVE=a,b,c, classes that exclude each other."
        return [Finding.not_made(check, needs) for check in checks]
    for name in exclusive:
        if name not in store.classes:
            raise UserError(f"EXCLUSIVE={','.join(exclusive)}: expected classes of the store, found {name!r}.")
    columns = [store.classes.index(name) for name in exclusive]
    count = store.labels[:, columns].sum(axis=1)
    about = f"A chip should have exactly one of {', '.join(exclusive)}."
    return [
        Finding.of_chips(check, about, [(chip, tags_of(store, chip)) for chip in np.flatnonzero(rows).tolist()])
        for check, rows in zip(checks, (count > 1, count == 0), strict=True)
    ]


def tags_of(store: Store, chip: int) -> str:
    """The chip's tags in class order."""
    return listed(np.array(store.classes)[store.labels[chip] == 1].tolist())


def csv_findings(store: Store, path: Location | None) -> list[Finding]:
    """Rows that repeat a tag, and chips whose tags in the CSV differ from the store.

    Raises:
        UserError: the CSV cannot be read, or lacks chips of the store.
    """
    if path is None:
        checks = (Check.REPEATED_TAGS, Check.CHANGED_TAGS)
        return [Finding.not_made(check, "needs LABELS=file.csv.") for check in checks]
    settings = settings_of(store)
    if settings.format == "folders" and isinstance(path, Path) and not path.is_dir():
        raise UserError(f"LABELS={path}: expected the folder of class folders that the store was made from.")
    table = read_labels(path, store.classes, settings)
    names = store.name_texts
    rows = positions(names, PackedTexts.of(table.names), lambda name: stem(name.strip()))
    if len(absent := np.flatnonzero(rows < 0)):
        raise UserError(
            f"LABELS={path}: expected a row for every chip of the store, found none for {len(absent)} "
            f"(for example {stem(names[int(absent[0])].strip())})."
        )
    chip_of = np.full(len(table.names), -1)
    chip_of[rows] = np.arange(len(rows))
    repeated = []
    for row, same in _rows_with_repeated_tags(path, table, settings):
        tags = [tag for each in same for tag in each.tags]
        twice = sorted({tag for tag in tags if tags.count(tag) > 1})
        if chip_of[row] >= 0:
            line = next(each.line for each in same[::-1] if set(twice) & set(each.tags))
            repeated.append((int(chip_of[row]), f"{number_of(path, line)}: {listed(twice)} repeated"))
    differ = np.flatnonzero((table.labels[rows] != store.labels).any(axis=1))
    return [
        Finding.of_chips(Check.REPEATED_TAGS, "A repeated tag counts once.", sorted(repeated)),
        Finding.of_chips(
            Check.CHANGED_TAGS, "The CSV has changed since the conversion.", [(chip, "") for chip in differ.tolist()]
        ),
    ]


def _rows_with_repeated_tags(
    path: Location, table: LabelTable, settings: LabelSettings
) -> Iterator[tuple[int, list[TagRow]]]:
    """(row of the table, its rows in the file, several in the long format) of each chip with a tag more than once."""
    rows = read_tags(path, settings, table.classes)
    _, chip_of_row = chips_of_rows(path, rows, settings)
    lengths = np.array([len(tags) for tags in rows.tags])[rows.kinds]
    more = np.bincount(chip_of_row, lengths) > table.labels.sum(axis=1)
    order = np.argsort(chip_of_row, kind="stable")
    ends = np.cumsum(np.bincount(chip_of_row))
    for chip in np.flatnonzero(more).tolist():
        yield chip, [rows[row] for row in order[ends[chip - 1] if chip else 0 : ends[chip]].tolist()]


def doubted_labels(store: Store, run: Run | None) -> Finding:
    """Labels that cleanlab (confident learning, both prunings) considers wrong, the most doubtful first.

    Only test labels are checked: the model was not trained on them.

    Raises:
        UserError: the run has other chips or classes.
    """
    if run is None:
        return Finding.not_made(Check.DOUBTED_LABELS, "needs the scores of a run: RUN=runs/NAME, after a training.")
    chips = positions(run.names.tolist(), store.name_texts)
    if run.classes != store.classes or (chips < 0).any():
        raise UserError(f"RUN={run.path}: expected a run on {store.path}, found other chips or classes.")
    rows: list[tuple[float, int, str]] = []
    chance = run.positives / len(run.labels)
    low, _ = interval(bootstrap_ap(run.labels, run.logits))
    by_chance = []
    for index, name in enumerate(run.classes):
        truth = run.labels[:, index].astype(np.int64)
        if min(truth.sum(), (1 - truth).sum()) < MIN_EXAMPLES:
            continue
        if low[index] <= chance[index]:
            by_chance.append(name)
            continue
        scores = np.stack([1 - run.probabilities[:, index], run.probabilities[:, index]], axis=1)
        doubted = find_label_issues(truth, scores, filter_by="both", n_jobs=1)
        quality = get_label_quality_scores(truth, scores)
        for row in np.flatnonzero(doubted).tolist():
            tagged = "tagged" if truth[row] else "not tagged"
            reason = f"{name} (AP {run.ap[index]:.2f}): {tagged}, probability {scores[row, 1]:.4f}"
            rows.append((float(quality[row]), int(chips[row]), reason))
    about = (
        f"The library cleanlab doubts these tags, by the scores of {run.name} on its {len(run.names):,} test chips. "
        f"Classes with fewer than {MIN_EXAMPLES} positives or fewer than {MIN_EXAMPLES} negatives are skipped."
        + (f" So are classes that the run scores no better than chance: {', '.join(by_chance)}." if by_chance else "")
    )
    return Finding.of_chips(Check.DOUBTED_LABELS, about, [(chip, reason) for _, chip, reason in sorted(rows)])
