"""What to do about a finding of an audit, and in which order findings are shown.

In: the findings. Out: sentences, and the findings with the most urgent first. Imports nothing heavy.
"""

import shlex

from analysis.finished_run import Run
from analysis.label_checks import Finding
from analysis.run_sections import train_command
from preprocess.zarr_store import Store

ACROSS = ", in train and in test"  # ends the title of the pairs across the split
_LABELS = "Correct the tags of these chips in the labels file, then convert again with make zarr."
_REMOVE = "remove its row from the labels file and convert again."
_PIXELS = "To leave some of these chips out, remove their rows from the labels file and convert again."
# By the first words of the title. The most urgent first.
_ACTIONS = {
    "Classes absent from a split": "Choose another split, such as SPLIT=0.67,0.33@1 (another seed), or label more "
    "chips of the class.",
    "Classes with too few test chips": "Judge a model by the other classes. Label more chips, or choose a split with "
    "more test chips.",
    "Different from the JPEG": "Compare both files; one of them belongs to another chip.",
    "Tags differ from the CSV": "Convert again with make zarr: the store then has the tags of the file.",
    "Contradictory tags": _LABELS,
    "None of the exclusive tags": _LABELS,
    "Repeated tags": _LABELS,
    "No tag": "A chip without a tag counts as a negative of every class. If nobody has labelled the chip, " + _REMOVE,
    "Only nodata": _PIXELS,
    "Labels that the model doubts": "Look at the first of them and correct only tags that you see to be wrong. Where "
    "the AP is low, the model is wrong more often than the tag. All are test chips: if "
    "their tags are changed to what the model says, its scores rise and the model is no better.",
    "Constant": _PIXELS,
    "Partly empty": _PIXELS,
    "Partly nodata": _PIXELS,
    "Outliers": _PIXELS,
    "Saturated": "Clouds and bright roofs are often saturated: nothing to do. If another chip is, " + _REMOVE,
}


def most_urgent_first(findings: list[Finding]) -> list[Finding]:
    """Leaks first, then the order of the actions, then pairs within a split. Findings of equal urgency keep their
    order."""
    titles = [*_ACTIONS]

    def urgency(finding: Finding) -> int:
        if finding.title.endswith(ACROSS):
            return -1
        return next((at for at, title in enumerate(titles) if finding.title.startswith(title)), len(titles))

    return sorted(findings, key=urgency)


def blocked_command(store: Store, run: Run | None) -> str:
    """The command that trains with SPLIT=blocked: the run's, if there is one."""
    if run is None:
        return f"make train TASK=1 STORE={shlex.quote(str(store.path))} SPLIT=blocked"
    return train_command(run.config.model_copy(update={"store": str(store.path), "split": "blocked", "val": 0.0}))


def action(finding: Finding, findings: list[Finding], store: Store, run: Run | None) -> str:
    """What to do about a finding that is not empty. `findings`: all of them."""
    if finding.title.endswith(ACROSS):
        return f"Keep them in one split: {blocked_command(store, run)}"
    across = next((one for one in findings if one.title == finding.title + ACROSS), None)
    if across:
        return (
            f'See "{across.title}".' if across.count
            else "Nothing to do with this split: of no pair is one chip in test and the other in train or val."
        )  # fmt: skip
    if finding.title.startswith("Classes with too few") and finding.count == len(store.classes):
        return "This split can judge no class: choose one whose test chips both have and lack each class."
    return next(text for title, text in _ACTIONS.items() if finding.title.startswith(title))
