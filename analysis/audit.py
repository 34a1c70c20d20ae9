"""`make audit`: check the data before training: duplicates, leaks between splits, bad labels, odd pixels.

In: a store; optionally its CSV, JPEGs and a run. Out: STORE.audit/audit.html with tables as CSV, and STORE.groups.json,
which SPLIT=blocked reads. Leaves the part of the page about the findings to `finding_sections`.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import class_metrics, duplicates, plots
from analysis.feature_runs import useful_jobs
from analysis.features import Features, read_features
from analysis.figures import Figures
from analysis.finding_actions import action, most_urgent_first
from analysis.finding_sections import finding_section, summary
from analysis.findings import Check, Finding
from analysis.finished_run import load_run
from analysis.label_checks import (
    absent_classes,
    csv_findings,
    doubted_labels,
    exclusive_findings,
    unjudged_classes,
    untagged,
)
from analysis.page import Section, Tables, render
from analysis.pictures import ImageBudget
from analysis.pixel_checks import jpeg_findings, jpeg_paths, nodata_findings, outliers, pixel_findings
from analysis.shown_classes import MAX_CELLS, WIDE_CELLS, most_frequent
from preprocess.addresses import Location, absolute
from preprocess.console import say
from preprocess.engine import open_engine
from preprocess.presets import exclusive_classes
from preprocess.split_rules import BLOCK_KM
from preprocess.splits import SPLIT_NAMES, Split, make_split
from preprocess.zarr_store import Store, open_store

_MODULES = ("analysis.feature_runs",)  # what worker processes import before their first task
_TRAINED = ("train", "val")


def audit(
    store_path: Location, *, labels: Location | None, jpeg: Path | None, run_path: Path | None, split_rule: str | None,
    exclusive: tuple[str, ...] | None, block_km: float = BLOCK_KM, jobs: int = 1, cluster: str | None = None,
) -> list[Finding]:  # fmt: skip
    """Check a store and write the page; returns the findings. `split_rule` None: the split of the run, else "course".
    `jobs`, `cluster`: the processes of this machine or the Dask workers that read the pixels.

    Raises:
        UserError: the store, the CSV, the JPEGs or the run cannot be used.
    """
    store = open_store(store_path)
    run = load_run(run_path) if run_path else None
    label_findings = exclusive_findings(store, exclusive if exclusive is not None else exclusive_classes(store.classes))
    label_findings += [*csv_findings(store, labels), doubted_labels(store, run)]
    jpegs = jpeg_paths(store, jpeg)
    rule, val = (run.config.split, run.config.val) if run and split_rule is None else (split_rule or "course", 0)
    # Bad input is refused before any pixel is read. "blocked" needs the groups, which are known only after that.
    split = None if rule == "blocked" else make_split(rule, store, val=val)
    with open_engine(cluster, jobs=useful_jobs(store, jobs), modules=_MODULES) as engine:
        features = read_features(store, engine, absolute(store_path) if cluster else store_path)
    similar, chip_groups = _similar(store, features)
    duplicates.write_groups(store, chip_groups)
    block_km = run.config.block_km if run and split_rule is None else block_km
    split = split or make_split(rule, store, val=val, block_km=block_km)
    if split.note:
        say(split.note)
    if run and split_rule is None and split.sha256() != run.made_with.split.sha256:
        say(f"SPLIT={split.rule}: the run was trained on another split; groups or chips have changed since.")
    split_names = _split_names(store, split)
    findings = most_urgent_first([
        *[finding for pairs in similar for finding in (pairs, _across(pairs, split_names))],
        *nodata_findings(store), *pixel_findings(store, features), outliers(store),
        jpeg_findings(store, features, jpegs), *label_findings, untagged(store),
        absent_classes(store, split), unjudged_classes(store, split),
    ])  # fmt: skip
    actions = [action(finding, findings, store, run) if finding.count else "" for finding in findings]
    # Beside a store on disk; of a store in object storage in the current folder.
    folder = (store_path if isinstance(store_path, Path) else Path(store_path.name)).with_name(
        store_path.name + ".audit"
    )
    tables, figures = Tables(folder=folder / "tables"), Figures(folder=folder / "figures")
    names = store.name_texts  # read once: the page names some hundred chips
    budget = ImageBudget(blocks=sum(1 for finding in findings if len(finding.chips)))
    sections = [summary(findings, actions, tables)]
    sections += [
        finding_section(store, names, split_names, finding, text, tables, budget)
        for finding, text in zip(findings, actions, strict=True) if finding.count
    ]  # fmt: skip
    sections.append(_counts(store, split, figures, tables))
    linked = sum(len(group) for group in chip_groups)
    render(
        folder / "audit.html",
        title=f"Audit of {store_path.name}",
        subtitle=f"{store.num_chips:,} chips of {store.layout.height} x {store.layout.width} pixels, bands "
        f"{', '.join(store.layout.bands)}, {len(store.classes)} classes; split {split.rule}"
        f"{'' if store.layout.nodata is None else '; images show nodata in magenta'}",
        facts=[
            (
                "checks that found something",
                f"{sum(1 for f in findings if f.count)} of {sum(1 for f in findings if not f.missing)}",
            ),
            ("checks that were not made", f"{sum(1 for f in findings if f.missing)}"),
            (
                "chips with a duplicate or neighbour",
                f"{linked:,} in {len(chip_groups):,} groups" if chip_groups else "0",
            ),
            ("test chips in a group with train or val chips", f"{_leaking(chip_groups, split_names):,}"),
            ("chips without a tag", f"{int((store.labels.sum(axis=1) == 0).sum()):,}"),
        ],
        sections=sections,
    )
    figures.tidy()
    tables.tidy()
    for finding in findings:
        found = f"{finding.count}" if finding.count else "none"
        say(f"{finding.title}: {f'not looked for: {finding.missing}' if finding.missing else found}")
    blocked = f" SPLIT=blocked keeps each of the {len(chip_groups):,} groups ({linked:,} chips) in one split."
    say(f"{folder / 'audit.html'}: the audit.{blocked if chip_groups else ''}")
    return findings


def _leaking(chip_groups: list[list[int]], split_names: np.ndarray) -> int:
    """Number of test chips in a group with a training chip."""
    return sum(
        int((split_names[group] == "test").sum())
        for group in chip_groups
        if np.isin(split_names[group], _TRAINED).any()
    )


def _similar(store: Store, features: Features) -> tuple[list[Finding], list[list[int]]]:
    exact, near = duplicates.exact_duplicates(store), duplicates.near_duplicates(store, features)
    adjacent, correlation = duplicates.neighbours(features)
    kinds = (
        (Check.EXACT_DUPLICATES, "Both chips have the same pixel values.", exact),
        (Check.NEAR_DUPLICATES, "Perceptual hashes and thumbnails are almost equal.", near),
        (
            Check.NEIGHBOURS,
            f"The edge of one chip continues the edge of the other (correlation above {correlation:.2f}, which is "
            "higher than chance reaches in this store), so both come from one scene. In small chips many neighbours "
            "cannot be detected, so there may be more.",
            adjacent,
        ),
    )
    findings = [
        Finding(check=check, about=about, chips=pairs.chips, reasons=pairs.how) for check, about, pairs in kinds
    ]
    return findings, duplicates.groups(store.num_chips, exact, near, adjacent)


def _split_names(store: Store, split: Split) -> np.ndarray:
    """(chips,) "train", "val" or "test" per chip, "" for a chip in no split."""
    split_names = np.full(store.num_chips, "", dtype="<U5")
    for name in SPLIT_NAMES:
        split_names[split.indices(name)] = name
    return split_names


def _across(pairs: Finding, split_names: np.ndarray) -> Finding:
    """The pairs of a training chip and a test chip; of exact duplicates one pair per test chip."""
    chips, reasons = pairs.chips, pairs.reasons
    if pairs.check is Check.EXACT_DUPLICATES:
        twins = duplicates.trained_twins(duplicates.Pairs(chips=chips, how=reasons), np.isin(split_names, _TRAINED))
        chips, reasons = twins.chips, twins.how
    sides = split_names[chips]
    leaks = np.flatnonzero((sides == "test").any(axis=1) & np.isin(sides, _TRAINED).any(axis=1))
    return replace(
        pairs, is_leak=True, chips=chips[leaks],
        reasons=[reasons[row] for row in leaks],
        about="One chip is in test, its duplicate or neighbour in train or val. Test scores are therefore optimistic.",
    )  # fmt: skip


def _counts(store: Store, split: Split, figures: Figures, tables: Tables) -> Section:
    section = Section(id="classes", title="Classes and bands")
    frame = pd.DataFrame({"class": store.classes, "all": store.labels.sum(axis=0, dtype=int)})
    for name in SPLIT_NAMES:
        if len(split.indices(name)):
            frame[name] = store.labels[split.indices(name)].sum(axis=0, dtype=int)
    few = frozenset(np.flatnonzero(frame["test"] < class_metrics.FEW_POSITIVES).tolist())
    section.blocks.append(
        tables.add("classes", frame, muted=few,
                   caption=f"Number of chips per class. Grey: fewer than {class_metrics.FEW_POSITIVES} in test.")
    )  # fmt: skip
    matrix = class_metrics.cooccurrence(store.labels)
    choice = most_frequent(store.labels.sum(axis=0), MAX_CELLS)
    section.plot(
        figures.add("cooccurrence", plots.heat(matrix, store.classes, "Tags that occur together", "share that also has",
                                               "chips with",
                                               class_metrics.similar_first(matrix, choice.classes))),
        "Rows are ordered by which classes occur together.", choice.note, wide=len(choice.classes) > WIDE_CELLS,
    )  # fmt: skip
    tables.add("cooccurrence", pd.DataFrame(matrix, columns=list(store.classes)).assign(chips_with=store.classes))
    mean, std = store.band_statistics(np.arange(store.num_chips))
    bands = pd.DataFrame({"band": store.layout.bands, "mean": mean, "std": std})
    if store.layout.nodata is not None:
        bands["nodata, %"] = 100 - 100 * store.valid_count.mean(axis=0) / (store.layout.height * store.layout.width)
    section.blocks.append(
        tables.add(
            "bands",
            bands,
            "Over all pixels." if store.layout.nodata is None else "Over all pixels that are not nodata.",
            digits=4 if store.layout.dtype == "float32" else 1,
        )
    )
    return section
