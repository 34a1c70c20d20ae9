"""Folders of runs with made-up scores."""

from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score

from preprocess.splits import make_split
from preprocess.zarr_store import Store
from train.config import make_config
from train.contract.metrics import write_metrics
from train.contract.record import new_record, write_record
from train.contract.results import write_results


def write_run(
    path: Path, store: Store, *, seed: int = 0, skill: float = 2.0, without: int = 1, rule: str = "course"
) -> Path:
    """A run's folder with made-up scores of the course split's test split; the last class has no positive there, or
    the last `without`. `rule` is what the run says of its split."""
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
    bands = ["red", "green", "blue"]
    record = new_record(
        {
            "state": "done", "started": "today", "config": vars(config), "versions": {"torch": "2"}, "amp": "off",
            "commit": "abc+changes", "machine": {"device": "CPU", "threads": 2, "system": "Linux"},
            "store": {"path": str(store.path), "fingerprint": store.fingerprint, "chips": store.num_chips},
            "split": {"rule": rule, "sha256": split.sha256(), "train": 1, "val": 0, "test": len(names),
                      "epoch_chosen_on": "test"},
            "inputs": {"kind": "raw", "bands": bands, "mean": [0.0] * 3, "std": [1.0] * 3, "branches": [bands],
                       "crop": list(config.crop_of(layout.height, layout.width)), "pool": True,
                       "chip": {"height": layout.height, "width": layout.width, "dtype": layout.dtype}},
            "classes": list(store.classes), "best_epoch": 2, "model_sha256": "f" * 64,
        }
    )  # fmt: skip
    mean_ap = float(np.nanmean(ap)) if present else None
    by_name = {name: None if np.isnan(v) else v for name, v in zip(store.classes, ap.tolist(), strict=True)}
    line = {"lr": 0.1, "train_loss": 0.5, "test_loss": 0.6, "train_map": mean_ap, "test_map": mean_ap,
            "train_ap": by_name, "test_ap": by_name, "chips_per_s": 100.0, "wait_share": 0.1, "train_s": 1.0,
            "seconds": {"wait": 0.1, "step": 0.9}, "first_wait_s": 0.1}  # fmt: skip
    lines = [{"epoch": number, **line} for number in (1, 2)]
    path.mkdir(parents=True)
    write_record(path, record)
    arrays = {
        "epoch": np.array(2), "AP": ap, "mAP": np.array(np.nan if mean_ap is None else mean_ap), "labels": labels,
        "fnames": names, "logits": logits, "preds": 1 / (1 + np.exp(-logits.astype(float))),
        "classes": np.array(store.classes), "trainlosses": np.full(2, 0.5), "testlosses": np.full(2, 0.6),
        "testperfs": np.stack([ap, ap]),
    }  # fmt: skip
    write_results(path, record, arrays, lines, "f" * 64)
    write_metrics(path, record, lines)
    return path
