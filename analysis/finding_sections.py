"""Write the findings of an audit on its page: problems that were found, checks without a finding, checks not made.

In: findings. Out: `page.Section`s, and their tables. Each finding ends with what to do about it.
"""

import numpy as np
import pandas as pd

from analysis.chip_sections import images_note, left_out, shown_side
from analysis.findings import Finding
from analysis.label_checks import tags_of
from analysis.page import Cards, Section, Table, Tables, card
from analysis.pictures import ImageBudget, pictures
from preprocess.packed_texts import PackedTexts
from preprocess.zarr_store import Store

MAX_SHOWN = 12  # chips or pairs per finding on the page; the table has all of them


def summary(findings: list[Finding], actions: list[str], tables: Tables) -> Section:
    """Three lists: found, looked for and not found, not looked for. The CSV has all in one. `actions`: what to do about
    each finding."""
    section = Section(id="findings", title="Findings")
    rows = [
        [finding.title, "not looked for" if finding.missing else f"{finding.count:,}", finding.missing or finding.about]
        for finding in findings
    ]
    table = tables.add("findings", pd.DataFrame(rows, columns=["finding", "count", "meaning"]))
    found = [[*row, text] for row, text, finding in zip(rows, actions, findings, strict=True) if finding.count]
    if found:
        columns = [*table.columns, "what to do"]
        section.blocks.append(Table(columns=columns, rows=found, caption="All checks:", words=True, csv=table.csv))
    none = [finding.title for finding in findings if not finding.count and not finding.missing]
    section.note(f"Found none: {'; '.join(none) or '-'}.")
    missing = [[finding.title, finding.missing] for finding in findings if finding.missing]
    if missing:
        section.note("Not looked for:")
        section.blocks.append(Table(columns=["check", "what it needs"], rows=missing, words=True))
    return section


def finding_section(
    store: Store, names: PackedTexts, split_names: np.ndarray, finding: Finding, action: str, tables: Tables,
    budget: ImageBudget,
) -> Section:  # fmt: skip
    """The chips or rows of a finding that has some, and what to do about them."""
    name = finding.title.lower().replace(",", "").replace(" ", "_")
    section = Section(id=name, title=f"{finding.title} ({finding.count:,})")
    section.note(finding.about)
    section.note(action)
    if finding.table is not None:
        section.blocks.append(tables.add(name, finding.table, "All of them:"))
        return section
    frame = pd.DataFrame(
        {
            **{
                f"image_name{'' if k == 0 else f' {k + 1}'}": list(names.at(column))
                for k, column in enumerate(finding.chips.T)
            },
            **{
                f"split{'' if k == 0 else f' {k + 1}'}": split_names[column] for k, column in enumerate(finding.chips.T)
            },
            "reason": finding.reasons,
        }
    )
    table = tables.add(name, frame, "All of them:", show=0)
    shown = finding.chips[:MAX_SHOWN]
    images = pictures(store, shown, budget)
    remaining = iter(images)
    cards = [
        [
            card(
                names[chip], next(remaining),
                [*([f"found: {reason}"] if index == 0 and reason else []),
                 f"split: {split_names[chip] or 'none'}", f"tags: {tags_of(store, chip) or 'none'}"],
            )
            for index, chip in enumerate(group)
        ]
        for group, reason in zip(shown.tolist(), finding.reasons, strict=False)
    ]  # fmt: skip
    rest = len(finding.chips) - len(shown)
    title = f"The first {len(shown)}; {rest:,} more in the table" if rest else f"All {len(shown)}"
    side = shown_side(max(store.layout.height, store.layout.width))
    if any(images):
        section.note(images_note(store, in_pairs=shown.shape[1] > 1))
    section.blocks.append(Cards(title=title, groups=cards, side=side))
    section.blocks += [*left_out(images), table]
    return section
