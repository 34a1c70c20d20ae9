"""Write the findings of an audit on its page: problems that were found, checks without a finding, checks not made.

In: findings. Out: `page.Section`s, and their tables. Each finding ends with what to do about it.
"""

import shlex

import numpy as np
import pandas as pd

from analysis.chip_sections import left_out, shown_side
from analysis.label_checks import Finding, tags_of
from analysis.page import Cards, Section, Table, Tables, card
from analysis.pictures import ImageBudget, pictures
from preprocess.packed_texts import PackedTexts
from preprocess.zarr_store import Store

MAX_SHOWN = 12  # chips or pairs per finding on the page; the table has all of them
_BLOCKED = "Keep them in one split: make train TASK=1 STORE={store} SPLIT=blocked"
_LABELS = "Correct the tags of these chips in the labels file, then convert again with make zarr."
_REMOVE = "remove its row from the labels file and convert again."
_PIXELS = "To leave some of these chips out, remove their rows from the labels file and convert again."
# What to do about a finding, by the first words of its title. The address of the CSV follows.
_ACTIONS = {
    "Exact duplicates": _BLOCKED,
    "Near duplicates": _BLOCKED,
    "Neighbours": _BLOCKED,
    "Contradictory tags": _LABELS,
    "None of the exclusive tags": _LABELS,
    "Repeated tags": _LABELS,
    "Tags differ from the CSV": "Convert again with make zarr: the store then has the tags of the file.",
    "Labels that the model doubts": _LABELS,
    "Different from the JPEG": "Compare both files; one of them belongs to another chip.",
    "Classes absent from a split": "Choose another split, such as SPLIT=0.8,0.2@1 (another seed), or label more chips "
    "of the class.",
    "Classes that test chips cannot judge": "Judge a model by the other classes. Label more chips, or choose a split "
    "with more test chips.",
    "No tag": "A chip without a tag is a negative of every class. If nobody looked at a chip, " + _REMOVE,
    "Saturated": "Clouds and bright roofs are often saturated: nothing to do. If another chip is, " + _REMOVE,
}


def _action(finding: Finding, store: Store) -> str:
    text = next((text for title, text in _ACTIONS.items() if finding.title.startswith(title)), _PIXELS)
    return text.format(store=shlex.quote(str(store.path)))


def _caption(finding: Finding, store: Store) -> str:
    return f"{_action(finding, store)} All of them:"


def summary(findings: list[Finding], store: Store, tables: Tables) -> Section:
    """Three lists: found, looked for and not found, not looked for. The CSV has all in one."""
    section = Section(id="findings", title="Findings")
    rows = [
        [finding.title, "not looked for" if finding.missing else f"{finding.count:,}", finding.missing or finding.about]
        for finding in findings
    ]
    table = tables.add("findings", pd.DataFrame(rows, columns=["finding", "count", "meaning"]))
    found = [[*row, _action(finding, store)] for row, finding in zip(rows, findings, strict=True) if finding.count]
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
    store: Store, names: PackedTexts, split_names: np.ndarray, finding: Finding, tables: Tables, budget: ImageBudget
) -> Section:  # fmt: skip
    """The chips or rows of a finding that has some, and what to do about them."""
    name = finding.title.lower().replace(",", "").replace(" ", "_")
    section = Section(id=name, title=f"{finding.title} ({finding.count:,})")
    section.note(finding.about)
    if finding.table is not None:
        section.blocks.append(tables.add(name, finding.table, _caption(finding, store)))
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
    table = tables.add(name, frame, _caption(finding, store), show=0)
    shown = finding.chips[:MAX_SHOWN]
    images = pictures(store, shown, budget)
    remaining = iter(images)
    cards = [
        [card(names[chip], next(remaining), [*([reason] if index == 0 and reason else []),
                 split_names[chip] or "in no split", tags_of(store, chip)])
            for index, chip in enumerate(group)
        ]
        for group, reason in zip(shown.tolist(), finding.reasons, strict=False)
    ]  # fmt: skip
    rest = len(finding.chips) - len(shown)
    title = f"The first {len(shown)}; {rest:,} more in the table" if rest else f"All {len(shown)}"
    side = shown_side(max(store.layout.height, store.layout.width))
    section.blocks.append(Cards(title=title, groups=cards, side=side))
    section.blocks += [*left_out(images), table]
    return section
