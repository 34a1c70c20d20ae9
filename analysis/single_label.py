"""Accuracy and the confusion matrix of a run whose chips have exactly one class each, such as EuroSAT.

In: labels and scores of one split. Out: a `SingleLabel`, and the section that shows it. The predicted class is the one
with the highest score; no threshold is needed. Definitions are scikit-learn's.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from analysis import plots
from analysis.bootstrap import NUM_RESAMPLES, bootstrap_share, interval
from analysis.chip_sections import Artifacts
from analysis.finished_run import Run
from analysis.page import Section
from analysis.shown_classes import MAX_CELLS, WIDE_CELLS, most_frequent

_MAX_CONFUSED = 10  # pairs of classes listed on the page


@dataclass(frozen=True, kw_only=True)
class SingleLabel:
    """`confusion` (classes, classes): number of chips with the row's class that are predicted as the column's.

    `interval`: 95 % bootstrap interval of the accuracy.
    """

    accuracy: float
    interval: tuple[float, float]
    balanced_accuracy: float
    confusion: np.ndarray


def has_one_class(labels: np.ndarray) -> bool:
    """Whether every chip of (N, classes) labels has exactly one class, and there are at least two classes."""
    return labels.shape[1] > 1 and bool((labels.sum(axis=1) == 1).all())


def single_label(labels: np.ndarray, logits: np.ndarray, num_resamples: int = NUM_RESAMPLES) -> SingleLabel:
    """Compare the class with the highest score (the first of equal ones) with the class of each chip.

    Args:
        labels: (N, classes) 0/1, one 1 per row.
        logits: (N, classes).
        num_resamples: of the chips, for the interval.
    """
    truth, predicted = labels.argmax(axis=1), logits.argmax(axis=1)
    confusion = confusion_matrix(truth, predicted, labels=np.arange(labels.shape[1]))
    right = truth == predicted
    low, high = interval(bootstrap_share(right, num_resamples=num_resamples))
    present = confusion.sum(axis=1) > 0
    recall = confusion.diagonal()[present] / confusion.sum(axis=1)[present]
    return SingleLabel(
        accuracy=float(right.mean()), interval=(float(low), float(high)), balanced_accuracy=float(recall.mean()),
        confusion=confusion,
    )  # fmt: skip


def one_class_section(run: Run, result: SingleLabel, artifacts: Artifacts) -> Section:
    """Accuracy, the confusion matrix, and precision, recall and F1 of each class."""
    section = Section(id="accuracy", title="Accuracy")
    low, high = result.interval
    section.note(
        f"Every test chip has exactly one class. Predicted is the class with the highest score. Accuracy "
        f"{result.accuracy:.4f} (95 % interval {low:.4f} to {high:.4f}); mean over classes (balanced accuracy) "
        f"{result.balanced_accuracy:.4f}."
    )
    totals = result.confusion.sum(axis=1, keepdims=True)
    shares = np.divide(result.confusion, totals, out=np.full(totals.shape[:1] * 2, np.nan), where=totals > 0)
    choice = most_frequent(run.positives, MAX_CELLS)
    titles = "Confusion matrix", "predicted class", "class of the chip"
    section.plot(
        artifacts.figures.add("confusion", plots.heat(shares, run.classes, *titles, choice.classes)),
        "Each cell: of the chips with the row's class, the share that is predicted as the column's class.",
        choice.note, wide=len(choice.classes) > WIDE_CELLS,
    )  # fmt: skip
    section.blocks.append(artifacts.tables.add("most_confused", _most_confused(result.confusion, run.classes),
                                               "The most frequent errors.", show=_MAX_CONFUSED))  # fmt: skip
    truth, predicted = run.labels.argmax(axis=1), run.logits.argmax(axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(
        truth, predicted, labels=np.arange(len(run.classes)), zero_division=np.nan
    )
    frame = pd.DataFrame(
        {"class": run.classes, "chips": support, "predicted": result.confusion.sum(axis=0), "precision": precision,
         "recall": recall, "F1": f1}
    )  # fmt: skip
    section.blocks.append(artifacts.tables.add("accuracy", frame, "Precision, recall and F1 of the predicted class."))
    counts = pd.DataFrame(result.confusion, columns=list(run.classes))
    counts.insert(0, "chips with", run.classes, allow_duplicates=True)
    artifacts.tables.add("confusion", counts)
    return section


def _most_confused(confusion: np.ndarray, classes: tuple[str, ...]) -> pd.DataFrame:
    """(class, predicted as, chips) of every kind of error, the most frequent first."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[: np.count_nonzero(wrong)]
    rows, columns = np.unravel_index(order, wrong.shape)
    return pd.DataFrame(
        {
            "class": [classes[row] for row in rows],
            "predicted as": [classes[column] for column in columns],
            "chips": wrong[rows, columns],
        }
    )
