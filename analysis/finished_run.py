"""Read a run's folder: scores, labels, names and history, checked against each other.

In: run.json, metrics.jsonl and results.npz, through `train.contract`, without torch or DALI. Out: `Run`. Leaves metrics
to `class_metrics`, `tail`, `ranking` and `f2_thresholds`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from preprocess.console import UserError, say
from train.config import Config
from train.contract.metrics import EpochLine, read_metrics
from train.contract.record import Record, read_record
from train.contract.results import MadeWith, Results, read_results
from train.metrics import class_ap, mean_ap, probabilities

_LOSS_TITLES = {"bce": "binary cross-entropy", "soft_margin": "multi-label soft margin"}


def loss_title(name: str) -> str:
    """A choice of LOSS in words, for figures; its own name where no other is known."""
    return _LOSS_TITLES.get(name, name.replace("_", " "))


@dataclass(frozen=True, kw_only=True)
class Run:
    """One finished or stopped run.

    names (N,) of the test split's chips; labels (N, classes) uint8; logits (N, classes) float64, by which chips are
    ranked; probabilities (N, classes) float64; ap (classes,), NaN where a class has no positive; epoch from 1. `record`
    is run.json, `made_with` the inputs of the scores, `history` one entry per epoch. An evaluation (`make ensemble`)
    has epoch 0 and no history.
    """

    path: Path
    record: Record
    made_with: MadeWith
    history: tuple[EpochLine, ...]
    classes: tuple[str, ...]
    names: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray
    ap: np.ndarray
    mean_ap: float
    epoch: int

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def config(self) -> Config:
        """The configuration with which the scores were made."""
        return self.made_with.config

    @property
    def positives(self) -> np.ndarray:
        """(classes,) number of test chips with the class."""
        return np.asarray(self.labels.sum(axis=0, dtype=np.int64))


def load_run(path: str | Path) -> Run:
    """Read a run's folder. Prints a line if a kill left one file an epoch behind the other.

    Raises:
        UserError: a file is missing or damaged, or files belong to different runs; names the file.
    """
    path = Path(path)
    record = read_record(path)
    history = read_metrics(path, record)
    results = read_results(path, record, history)
    if len(history) != len(results.train_losses):
        say(
            f"{path}: metrics.jsonl holds {len(history)} epochs, results.npz {len(results.train_losses)}: the run was "
            f"killed in between. `make train RESUME={path}` repairs it."
        )
    check_scores(path / "results.npz", results)
    return Run(
        path=path, record=record, made_with=results.made_with, history=history, classes=results.classes,
        names=results.names, labels=results.labels, logits=results.logits.astype(np.float64),
        probabilities=results.probabilities, ap=results.ap, mean_ap=results.mean_ap, epoch=results.epoch,
    )  # fmt: skip


def check_scores(path: Path, results: Results) -> None:
    """Raise UserError if AP, mAP or probabilities do not follow from logits and labels."""
    logits = results.logits.astype(np.float64)
    ap = class_ap(results.labels, logits)
    last = results.test_ap[results.epoch - 1] if results.epoch else ap
    # `preds` may be stored as float32.
    for key, expected, found, tolerance in (
        ("AP", ap, results.ap, 1e-9),
        ("mAP", mean_ap(ap), results.mean_ap, 1e-9),
        ("preds", probabilities(logits), results.probabilities, 1e-6),
        ("testperfs", ap, last, 1e-9),
    ):
        if not np.allclose(expected, found, rtol=0, atol=tolerance, equal_nan=True):
            raise UserError(f"{path}: the saved {key} does not follow from the saved scores; the file was altered.")
