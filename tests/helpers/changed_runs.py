"""Runs in memory with made-up numbers."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from analysis.finished_run import Run


def changed(run: Run, **fields: Any) -> Any:
    """A run with other numbers; AP and probabilities follow from labels and logits."""
    made = SimpleNamespace(**{**vars(run), **fields})
    made.positives = made.labels.sum(axis=0)
    made.probabilities = 1 / (1 + np.exp(-made.logits))
    made.config, made.path, made.name = run.config, run.path, run.name
    return made


def epochs(run: Run, *scores: tuple[float, float]) -> tuple[Any, ...]:
    """History of an epoch per (train mAP, test mAP)."""
    return tuple(
        replace(
            run.history[0], epoch=number, train_map=train, test_map=test, train_ap=dict.fromkeys(run.classes, train),
            test_ap=dict.fromkeys(run.classes, test),
        )
        for number, (train, test) in enumerate(scores, 1)
    )  # fmt: skip


def made(run: Run, count: int = 400, skill: float = 4.0, history: tuple[Any, ...] | None = None) -> Any:
    """A run without any weakness: three frequent classes, calibrated probabilities, train near test."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, skill, (count, 3))
    labels = (rng.random((count, 3)) < 1 / (1 + np.exp(-logits))).astype(np.uint8)
    ap = np.array([average_precision_score(labels[:, c], logits[:, c]) for c in range(3)])
    history = history or epochs(run, (0.92, 0.9), (0.92, 0.9))
    names = np.array([f"t_{row}" for row in range(count)])
    return changed(
        run, labels=labels, logits=logits, ap=ap, mean_ap=float(ap.mean()), history=history, epoch=len(history),
        names=names,
    )  # fmt: skip
