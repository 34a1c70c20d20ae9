"""Folders of runs with made-up scores."""

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from preprocess.splits import make_split
from preprocess.zarr_store import Store
from train.config import make_config
from train.contract.metrics import EpochLine, split_fields, write_metrics
from train.contract.record import (
    Chip,
    InputsRef,
    SplitRef,
    StoreRef,
    new_record,
    write_record,
)
from train.contract.results import TestScores, write_results
from train.contract.surroundings import Machine, Surroundings


def write_run(
    path: Path, store: Store, *, seed: int = 0, skill: float = 2.0, without: int = 1, rule: str = "course"
) -> Path:
    """Write the folder of a run with made-up scores of the test split of SPLIT=course. The last `without` classes have
    no positives there. `rule` is the split rule in the run's record."""
    split = make_split("course", store)
    labels, names = store.labels[split.test].copy(), store.names[split.test]
    labels[:, labels.shape[1] - without :] = 0
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=labels.shape) + skill * labels).astype(np.float32)
    logits[:5] = np.round(logits[:5])
    present = [c for c in range(labels.shape[1]) if labels[:, c].any()]
    ap = np.full(labels.shape[1], np.nan)
    ap[present] = [average_precision_score(labels[:, c], logits[:, c].astype(float)) for c in present]
    config = make_config("default", task=1, store=str(store.path), epochs=2)
    layout = store.layout
    bands = ("red", "green", "blue")
    record = new_record(
        started="today", config=config, amp="off", classes=store.classes,
        surroundings=Surroundings(
            commit="abc+changes", versions={"torch": "2"}, machine=Machine(device="CPU", threads=2, system="Linux")
        ),
        store=StoreRef(path=str(store.path), fingerprint=store.fingerprint, chips=store.num_chips),
        split=SplitRef(rule=rule, sha256=split.sha256(), train=1, val=0, test=len(names), epoch_chosen_on="test"),
        inputs=InputsRef(
            kind="raw", bands=bands, mean=(0.0,) * 3, std=(1.0,) * 3, branches=(bands,),
            crop=config.crop_of(layout.height, layout.width),
            chip=Chip(height=layout.height, width=layout.width, dtype=layout.dtype),
        ),
    ).with_state("done", best_epoch=2, model_sha256="f" * 64)  # fmt: skip
    scores: dict[str, Any] = {}
    for name, loss in (("train", 0.5), ("test", 0.6)):
        by_class = dict(zip(store.classes, ap.tolist(), strict=True))
        scores |= split_fields(name, loss=loss, mean_ap=float(np.nanmean(ap)) if present else np.nan, ap=by_class)
    lines = [
        EpochLine(
            epoch=number, lr=0.1, chips_per_s=100.0, wait_share=0.1, train_s=1.0, seconds={"wait": 0.1, "step": 0.9},
            first_wait_s=0.1, **scores,
        )
        for number in (1, 2)
    ]  # fmt: skip
    path.mkdir(parents=True)
    write_record(path, record)
    test_scores = TestScores(epoch=2, names=names, labels=labels, logits=logits)
    write_results(path, record, test_scores, lines, "f" * 64)
    write_metrics(path, record, lines)
    return path
