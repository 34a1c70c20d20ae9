"""`make audit`: a store -> one page of what is odd about its labels and pixels, before a model learns it.

In: a store; its CSV, JPEGs and a run where they are at hand. Out: STORE.audit/audit.html with tables as CSV, and
STORE.groups.json, which SPLIT=blocked reads. Findings come first, each with its chips; what was not looked for is said.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import class_metrics, duplicates, plots
from analysis.chip_sections import left_out, shown_side
from analysis.features import Features, read_features
from analysis.figures import Figures
from analysis.finished_run import load_run
from analysis.label_checks import Finding, csv_findings, doubted_labels, exclusive_findings, tags_of
from analysis.page import Cards, Section, Table, Tables, card, render
from analysis.pictures import Room, pictures
from analysis.pixel_checks import jpeg_findings, jpeg_paths, outliers, pixel_findings
from preprocess.console import say
from preprocess.presets import exclusive_classes
from preprocess.splits import SPLIT_NAMES, Split, make_split
from preprocess.zarr_store import Store, open_store

_EXACT, _LEARNT = "Exact duplicates", ("train", "val")
MAX_SHOWN = 12  # chips or pairs of a finding on the page; its table has all


def audit(
    store_path: Path, *, labels: Path | None, jpeg: Path | None, run_path: Path | None, split_rule: str | None,
    exclusive: tuple[str, ...] | None,
) -> list[Finding]:  # fmt: skip
    """Look through a store and write the page; returns the findings. `split_rule` None: the run's, else the course's.

    Raises:
        UserError: the store, or what was given with it, cannot be used.
    """
    store = open_store(store_path)
    run = load_run(run_path) if run_path else None
    about_tags = exclusive_findings(store, exclusive if exclusive is not None else exclusive_classes(store.classes))
    about_tags += [*csv_findings(store, labels), doubted_labels(store, run)]
    jpegs = jpeg_paths(store, jpeg)
    rule, val = (run.config.split, run.config.val) if run and split_rule is None else (split_rule or "course", 0)
    # Whatever can be refused is, before every pixel is read. The groups that "blocked" keeps together come after that.
    split = None if rule == "blocked" else make_split(rule, store, val=val)
    features = read_features(store)
    alike, found_groups = _alike(store, features)
    duplicates.write_groups(store, found_groups)
    split = split or make_split(rule, store, val=val)
    if run and split_rule is None and split.sha256() != run.made_with.split.sha256:
        say(f"SPLIT={split.rule}: the run was trained on another division; groups or chips have changed since.")
    part = _parts(store, split)
    findings = [
        *[finding for pairs in alike for finding in (pairs, _across(pairs, part))],
        *pixel_findings(store, features), outliers(store), jpeg_findings(store, features, jpegs), *about_tags,
    ]  # fmt: skip
    folder = store_path.with_name(store_path.name + ".audit")
    tables, figures = Tables(folder=folder / "tables"), Figures(folder=folder / "figures")
    names = store.names  # a read; the page names some hundred chips
    room = Room(blocks=sum(1 for finding in findings if len(finding.chips)))
    sections = [_summary(findings, tables)]
    sections += [_shown(store, names, part, finding, tables, room) for finding in findings]
    sections = [section for section in sections if section.blocks]
    sections.append(_counts(store, split, figures, tables))
    linked = sum(len(group) for group in found_groups)
    render(
        folder / "audit.html",
        title=f"Audit of {store_path.name}",
        subtitle=f"{store.num_chips:,} chips of {store.layout.height} x {store.layout.width} pixels, bands "
        f"{', '.join(store.layout.bands)}, {len(store.classes)} classes; split {split.rule}",
        facts=[
            ("kinds of findings", f"{sum(1 for f in findings if len(f.chips))} of {len(findings)}"),
            ("chips in groups", f"{linked:,} in {len(found_groups):,}"),
            ("test chips of a group with train chips", f"{_leaking(found_groups, part):,}"),
            ("chips without a tag", f"{int((store.labels.sum(axis=1) == 0).sum()):,}"),
        ],
        sections=sections,
    )
    figures.tidy()
    tables.tidy()
    for finding in findings:
        say(f"{finding.title}: {f'not looked for: {finding.missing}' if finding.missing else len(finding.chips)}")
    kept = f"SPLIT=blocked divides none of {len(found_groups):,} groups of {linked:,} chips"
    say(f"{folder / 'audit.html'}: the audit. {kept}")
    return findings


def _leaking(found_groups: list[list[int]], part: np.ndarray) -> int:
    """Test chips of which a twin or neighbour, directly or through others, is learnt from."""
    return sum(int((part[group] == "test").sum()) for group in found_groups if np.isin(part[group], _LEARNT).any())


def _alike(store: Store, features: Features) -> tuple[list[Finding], list[list[int]]]:
    exact, near = duplicates.exact_duplicates(store), duplicates.near_duplicates(store, features)
    beside, correlation = duplicates.neighbours(features)
    kinds = (
        (_EXACT, "Every pixel is the same.", exact),
        ("Near duplicates", "Perceptual hashes and thumbnails differ by little.", near),
        (
            "Neighbours",
            f"Edges that continue each other (correlation above {correlation:.2f}, more than chance reaches here), so "
            "both are of one scene. Short edges hide many neighbours: none found is not none there.",
            beside,
        ),
    )
    findings = [Finding(title=title, about=about, chips=pairs.chips, said=pairs.how) for title, about, pairs in kinds]
    return findings, duplicates.groups(store.num_chips, exact, near, beside)


def _parts(store: Store, split: Split) -> np.ndarray:
    """(chips,) the name of each chip's part, "" for none."""
    part = np.full(store.num_chips, "", dtype="<U5")
    for name in SPLIT_NAMES:
        part[split.indices(name)] = name
    return part


def _across(pairs: Finding, part: np.ndarray) -> Finding:
    """The pairs of which one is learnt from and the other tested on; of exact duplicates one a test chip."""
    chips, said = pairs.chips, pairs.said
    if pairs.title == _EXACT:
        twins = duplicates.learnt_twins(duplicates.Pairs(chips=chips, how=said), np.isin(part, _LEARNT))
        chips, said = twins.chips, twins.how
    sides = part[chips]
    divided = np.flatnonzero((sides == "test").any(axis=1) & np.isin(sides, _LEARNT).any(axis=1))
    return replace(
        pairs, title=f"{pairs.title}, in train and in test", chips=chips[divided], said=[said[row] for row in divided],
        about="A test chip whose twin or neighbour was learnt from.",
    )  # fmt: skip


def _summary(findings: list[Finding], tables: Tables) -> Section:
    section = Section(id="findings", title="Findings")
    rows = [[finding.title, "not looked for" if finding.missing else f"{len(finding.chips):,}",
             finding.missing or finding.about] for finding in findings]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["finding", "count", "what"])
    tables.add("findings", frame)
    section.blocks.append(Table(columns=list(frame.columns), rows=rows, caption="tables/findings.csv", words=True))
    return section


def _shown(store: Store, names: np.ndarray, part: np.ndarray, finding: Finding, tables: Tables, room: Room) -> Section:
    """A finding's chips; an empty section where nothing was found."""
    name = finding.title.lower().replace(",", "").replace(" ", "_")
    section = Section(id=name, title=f"{finding.title} ({len(finding.chips):,})")
    if not len(finding.chips):
        return section
    frame = pd.DataFrame(
        {
            **{f"image_name{'' if k == 0 else f' {k + 1}'}": names[column] for k, column in enumerate(finding.chips.T)},
            **{f"part{'' if k == 0 else f' {k + 1}'}": part[column] for k, column in enumerate(finding.chips.T)},
            "what": finding.said,
        }
    )
    tables.add(name, frame)
    shown = finding.chips[:MAX_SHOWN]
    found = pictures(store, shown, room)
    chips = iter(found)
    cards = [
        [
            card(str(names[chip]), next(chips), [*([said] if index == 0 and said else []),
                 part[chip] or "in no part", tags_of(store, chip)])
            for index, chip in enumerate(group)
        ]
        for group, said in zip(shown.tolist(), finding.said, strict=False)
    ]  # fmt: skip
    section.note(finding.about)
    rest = len(finding.chips) - len(shown)
    title = f"The first {len(shown)}; {rest:,} more in tables/{name}.csv" if rest else f"tables/{name}.csv"
    side = shown_side(max(store.layout.height, store.layout.width))
    section.blocks.append(Cards(title=title, groups=cards, side=side))
    section.blocks += left_out(found)
    return section


def _counts(store: Store, split: Split, figures: Figures, tables: Tables) -> Section:
    section = Section(id="classes", title="Classes and bands")
    frame = pd.DataFrame({"class": store.classes, "all": store.labels.sum(axis=0, dtype=int)})
    for name in SPLIT_NAMES:
        if len(split.indices(name)):
            frame[name] = store.labels[split.indices(name)].sum(axis=0, dtype=int)
    few = frozenset(np.flatnonzero(frame["test"] < class_metrics.FEW_POSITIVES).tolist())
    section.blocks.append(
        tables.add("classes", frame, muted=few,
                   caption=f"Chips that have each class. Grey: fewer than {class_metrics.FEW_POSITIVES} in test.")
    )  # fmt: skip
    matrix = class_metrics.cooccurrence(store.labels)
    section.plot(
        figures.add("cooccurrence", plots.heat(matrix, store.classes, "Tags that occur together", "share that also has",
                                               "chips with"))
    )  # fmt: skip
    tables.add("cooccurrence", pd.DataFrame(matrix, columns=list(store.classes)).assign(chips_with=store.classes))
    mean, std = store.band_statistics(np.arange(store.num_chips))
    section.blocks.append(
        tables.add(
            "bands",
            pd.DataFrame({"band": store.layout.bands, "mean": mean, "std": std}),
            "All pixels.",
            digits=4 if store.layout.dtype == "float32" else 1,
        )
    )
    return section
