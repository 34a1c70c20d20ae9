"""What to do about a finding of an audit, and in which order findings are shown.

In: the findings. Out: sentences, and the findings with the most urgent first. Imports nothing heavy.
"""

import shlex

from analysis.findings import PAIRS, Check, Finding
from analysis.finished_run import Run
from analysis.run_sections import train_command
from preprocess.zarr_store import Store

_LABELS = "Correct the tags of these chips in the labels file, then convert again with make zarr."
_REMOVE = "remove its row from the labels file and convert again."
_PIXELS = (
    "Look at them: dark water and thick clouds can be like this. To leave some out, remove their rows from the labels "
    "file and convert again."
)
_ACTIONS = {
    Check.ABSENT_CLASSES: "Choose another split, such as SPLIT=0.67,0.33@1 (another seed), or label more chips of the "
    "class.",
    Check.UNJUDGED_CLASSES: "Judge a model by the other classes. Label more chips, or choose a split with more test "
    "chips.",
    Check.OTHER_JPEG: "Compare both files; one of them belongs to another chip.",
    Check.CHANGED_TAGS: "Convert again with make zarr: the store then has the tags of the file.",
    Check.CONTRADICTORY_TAGS: _LABELS,
    Check.NO_EXCLUSIVE_TAG: _LABELS,
    Check.REPEATED_TAGS: "Nothing to do: the store and the training do not change if a tag is repeated.",
    Check.NO_TAG: "A chip without a tag counts as a negative of every class. If nobody has labelled the chip, "
    + _REMOVE,
    Check.ONLY_NODATA: _PIXELS,
    Check.DOUBTED_LABELS: "Look at the first of them and correct only tags that you see to be wrong. Where the AP is "
    "low, the model is wrong more often than the tag. All are test chips: if their tags are changed to what the model "
    "says, its scores rise and the model is no better.",
    Check.CONSTANT: _PIXELS,
    Check.PARTLY_EMPTY: _PIXELS,
    Check.PARTLY_NODATA: _PIXELS,
    Check.OUTLIERS: _PIXELS,
    Check.SATURATED: "Clouds and bright roofs are often saturated: nothing to do. If another chip is, " + _REMOVE,
}


def most_urgent_first(findings: list[Finding]) -> list[Finding]:
    """Leaks first, then in the order of `Check`. Findings of equal urgency keep their order."""
    checks = [*Check]
    return sorted(findings, key=lambda finding: (not finding.is_leak, checks.index(finding.check)))


def blocked_command(store: Store, run: Run | None) -> str:
    """The command that trains with SPLIT=blocked: the run's, if there is one."""
    if run is None:
        return f"make train TASK=1 STORE={shlex.quote(str(store.path))} SPLIT=blocked"
    return train_command(run.config.model_copy(update={"store": str(store.path), "split": "blocked", "val": 0.0}))


def action(finding: Finding, findings: list[Finding], store: Store, run: Run | None) -> str:
    """What to do about a finding that is not empty. `findings`: all of them."""
    if finding.is_leak:
        return f"Keep them in one split: {blocked_command(store, run)}"
    if finding.check in PAIRS:
        leaks = [one for one in findings if one.is_leak and one.check is finding.check and one.count]
        return (
            f'See "{leaks[0].title}".' if leaks
            else "Nothing to do with this split: of no pair is one chip in test and the other in train or val."
        )  # fmt: skip
    if finding.check is Check.UNJUDGED_CLASSES and finding.count == len(store.classes):
        return "This split can judge no class: choose one whose test chips both have and lack each class."
    return _ACTIONS[finding.check]
