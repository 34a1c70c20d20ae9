"""A run's folder -> `Run`: scores, labels, names and history, checked against each other before anything is drawn.

In: run.json, metrics.jsonl and results.npz, as files: neither torch nor DALI is loaded. Leaves every number that is
computed from the scores to `tail`, `ranking`, `classes` and `decisions`.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from analysis.classes import class_ap, mean_over_classes
from preprocess.console import UserError
from train.config import config_from

# As the figures name them; a key for every choice of LOSS (train.config).
LOSSES = {"bce": "binary cross-entropy", "soft_margin": "multi-label soft margin", "asymmetric": "asymmetric"}
_KEYS = ("AP", "mAP", "epoch", "labels", "preds", "fnames", "logits", "classes", "depends_on")
# What reports and predictions read of `depends_on`.
_MADE_WITH: dict[str, tuple[str, ...]] = {
    "config": (), "versions": (), "amp": (), "commit": (), "model_sha256": (),
    "machine": ("device", "threads", "system"), "store": ("path", "chips", "fingerprint"),
    "split": ("rule", "sha256", "train", "val", "test", "epoch_chosen_on"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Run:
    """One finished or stopped run.

    names (N,) of the test part's chips; labels (N, classes) uint8; logits (N, classes) float64, what everything is
    ranked by; probabilities (N, classes) float64; ap (classes,) with NaN where a class has no positive; epoch from 1.
    `record` is run.json, `made_with` what the scores depend on, `history` a dictionary an epoch.
    """

    path: Path
    record: dict[str, Any]
    made_with: dict[str, Any]
    history: list[dict[str, Any]]
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
    def config(self) -> dict[str, Any]:
        """The configuration of the scores."""
        config: dict[str, Any] = self.made_with["config"]
        return config

    @property
    def positives(self) -> np.ndarray:
        """(classes,) chips of the test part that have the class."""
        return np.asarray(self.labels.sum(axis=0, dtype=np.int64))


def load_run(path: Path) -> Run:
    """Read a run.

    Raises:
        UserError: a file is missing or damaged, or the files do not belong together; names it.
    """
    record = read_record(path)
    arrays = _read_arrays(path / "results.npz")
    shape = arrays["labels"].shape
    names, classes = arrays["fnames"].astype(str), tuple(arrays["classes"].astype(str).tolist())
    if len(shape) != 2 or (len(names), len(classes)) != shape or len(set(names.tolist())) != len(names):
        raise UserError(
            f"{path / 'results.npz'}: expected labels of (chips, classes) with a name each, found labels {shape}, "
            f"{len(set(names.tolist()))} different names and {len(classes)} classes."
        )
    for key in ("preds", "logits"):
        if arrays[key].shape != shape or not np.isfinite(arrays[key]).all():
            raise UserError(f"{path / 'results.npz'}: expected finite {key} of shape {shape}. Train again.")
    logits = arrays["logits"].astype(np.float64)
    ap = class_ap(arrays["labels"], logits)
    # `preds` may lie as float32.
    for key, expected, tolerance in (
        ("AP", ap, 1e-9),
        ("mAP", mean_over_classes(ap), 1e-9),
        ("preds", expit(logits), 1e-6),
    ):
        if not np.allclose(expected, arrays[key], rtol=0, atol=tolerance, equal_nan=True):
            raise UserError(
                f"{path / 'results.npz'}: the saved {key} is not that of the saved scores; the file was altered."
            )
    return Run(
        path=path, record=record, made_with=_made_with(path / "results.npz", arrays), history=read_history(path),
        classes=classes, names=names, labels=arrays["labels"].astype(np.uint8), logits=logits,
        probabilities=arrays["preds"].astype(np.float64), ap=ap, mean_ap=float(arrays["mAP"]),
        epoch=int(arrays["epoch"]),
    )  # fmt: skip


def read_record(path: Path) -> dict[str, Any]:
    """run.json.

    Raises:
        UserError: no such run.
    """
    try:
        record: dict[str, Any] = json.loads((path / "run.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"RUN={path}: expected a run's folder, found no run.json. `ls runs` shows the runs.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"RUN={path}: run.json cannot be read ({error}).") from error
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise UserError(f"RUN={path}: run.json cannot be read (it holds no configuration).")
    _check_config(path / "run.json", record["config"])
    return record


def _check_config(path: Path, config: dict[str, Any]) -> None:
    try:
        config_from(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _made_with(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the scores depend on, with all that is read from it later."""
    try:
        found: dict[str, Any] = json.loads(str(arrays["depends_on"]))
        absent = [f"{key} {name}".strip() for key, names in _MADE_WITH.items() for name in names or ("",)
                  if key not in found or (name and name not in found[key])]  # fmt: skip
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: expected depends_on to be JSON ({error}). Train again.") from error
    if absent:
        raise UserError(f"{path}: expected depends_on with {', '.join(_MADE_WITH)}; {absent[0]} is not there.")
    _check_config(path, found["config"])
    return found


def read_history(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl.

    Raises:
        UserError: there is none, or a line is not that of an epoch.
    """
    try:
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    except ValueError as error:
        raise UserError(f"{path / 'metrics.jsonl'}: expected a JSON object a line ({error}).") from None
    except FileNotFoundError:
        raise UserError(f"RUN={path}: expected a run with a finished epoch, found no metrics.jsonl.") from None
    except OSError as error:
        raise UserError(f"{path / 'metrics.jsonl'}: cannot be read ({error.strerror}).") from error
    if not lines:
        raise UserError(f"{path / 'metrics.jsonl'}: expected a line an epoch, found none. Train again.")
    if not all(isinstance(line, dict) and "epoch" in line for line in lines):
        raise UserError(f"{path / 'metrics.jsonl'}: expected a JSON object with an epoch a line, found another.")
    return lines


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise UserError(f"{path}: missing. The run ended before its first epoch did.") from None
    except Exception as error:
        # zipfile, numpy and zlib each raise their own kinds for a damaged file.
        raise UserError(f"{path}: cannot be read ({error}).") from error
    if missing := [key for key in _KEYS if key not in arrays]:
        raise UserError(f"{path}: expected the arrays {', '.join(_KEYS)}; {', '.join(missing)} is not there.")
    return arrays
