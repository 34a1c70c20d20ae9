"""results.npz: the scores of the best epoch, the losses of all epochs, and `depends_on`: how the scores were made.

In: a file. Out: `Results`, checked. The directory of the zip file and the header of each array are compared with the
size of the file before memory is allocated. Since version 2, `depends_on` holds the run's identity, the digest of each
line of metrics.jsonl and a digest of each array, so that scores of another run or another epoch are noticed.
"""

import dataclasses
import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from preprocess.console import UserError
from preprocess.files import open_regular, write_atomic
from train.config import Config
from train.contract.fields import Sha256, bad_field, check_seal, decode, parse, sealed
from train.contract.metrics import EpochLine, digests
from train.contract.record import Record, SplitRef, StoreRef, check_settings
from train.contract.surroundings import Amp, Machine
from train.metrics import class_ap, mean_ap, probabilities

_COPIED = ("config", "versions", "machine", "amp", "store", "split", "commit")  # of run.json
# Of each array: the kinds of dtype that it may have (numpy's letters), and the number of dimensions.
_ARRAYS: dict[str, tuple[str, int]] = {
    "epoch": ("iu", 0), "AP": ("f", 1), "mAP": ("f", 0), "labels": ("bu", 2), "preds": ("f", 2), "fnames": ("U", 1),
    "trainlosses": ("f", 1), "testlosses": ("f", 1), "testperfs": ("f", 2), "logits": ("f", 2), "classes": ("U", 1),
    "depends_on": ("U", 0),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MadeWith:
    """How the scores were made: fields of run.json at that time, the SHA-256 of the weights, and digests.

    `lines` are the digests of metrics.jsonl, `arrays` those of the other arrays, `sha256` those of these fields.
    """

    config: Config
    versions: dict[str, str]
    machine: Machine
    amp: Amp
    store: StoreRef
    split: SplitRef
    commit: str
    model_sha256: Sha256
    identity: Sha256 = ""
    lines: tuple[Sha256, ...] = ()
    arrays: dict[str, Sha256] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TestScores:
    """Logits (N, classes) of the test split after the best epoch, its labels, and its chips' names. `epoch` counts from
    1; 0: the scores of an evaluation."""

    epoch: int
    names: np.ndarray
    labels: np.ndarray
    logits: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Results:
    """Scores of the test split (N chips, C classes) after the best epoch, and the losses of E epochs.

    labels (N, C) uint8; logits (N, C) float32 and their probabilities (N, C) float64; names (N,) of the chips; ap (C,),
    NaN for a class without positive chips; train_losses and test_losses (E,); test_ap (E, C); epoch counts from 1. An
    evaluation has E = 0 and epoch 0.
    """

    epoch: int
    ap: np.ndarray
    mean_ap: float
    labels: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray
    names: np.ndarray
    classes: tuple[str, ...]
    train_losses: np.ndarray
    test_losses: np.ndarray
    test_ap: np.ndarray
    made_with: MadeWith


def write_results(run: Path, record: Record, scores: TestScores, lines: Sequence[EpochLine], model_sha256: str) -> None:
    """Write results.npz atomically: the arrays of `_ARRAYS`, and `depends_on` with fields of run.json."""
    test_ap = np.array([[line.ap("test", name) for name in record.classes] for line in lines])
    test_ap = test_ap.reshape(len(lines), len(record.classes))
    best_ap = test_ap[scores.epoch - 1] if lines else class_ap(scores.labels, scores.logits)
    arrays = {
        "epoch": np.array(scores.epoch),
        "AP": best_ap,
        "mAP": np.array(mean_ap(best_ap)),
        "labels": scores.labels,
        "preds": probabilities(scores.logits),
        "fnames": scores.names,
        "trainlosses": np.array([line.loss("train") for line in lines]),
        "testlosses": np.array([line.loss("test") for line in lines]),
        "testperfs": test_ap,
        "logits": scores.logits,
        "classes": np.array(record.classes),
    }
    made = {name: record.values[name] for name in _COPIED} | {
        "model_sha256": model_sha256,
        "identity": record.identity,
        "lines": digests(record.identity, [line.values() for line in lines]),
        "arrays": {name: array_digest(array) for name, array in arrays.items()},
    }
    data = io.BytesIO()
    np.savez(data, allow_pickle=False, **arrays, depends_on=np.array(json.dumps(sealed(made))))
    write_atomic(run / "results.npz", data.getvalue())


def read_results(run: Path, record: Record, history: Sequence[EpochLine] | None) -> Results:
    """The scores of a run whose run.json is `record`. With `history` (metrics.jsonl), the two files are compared.

    Raises:
        UserError: the file is missing, damaged, altered, or another run's; names what is wrong.
    """
    path = run / "results.npz"
    arrays = _read_arrays(path)
    results = _checked(arrays, record, str(path))
    if history is not None:
        _check_history(results, record, history, str(path))
    return results


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            size = path.stat().st_size
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if len(members) != len(archive.infolist()):
                raise ValueError("an array occurs twice")
            if absent := [name for name in _ARRAYS if name not in members]:
                raise UserError(f"{path}: expected the arrays {', '.join(_ARRAYS)}; {', '.join(absent)} is not there.")
            if extra := sorted(members.keys() - _ARRAYS.keys()):
                raise UserError(f"{path}: expected no array {extra[0][:80]!r}, found one.")
            for name, info in members.items():
                if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                    raise ValueError(f"{name} is compressed")
                if info.file_size > size:
                    raise ValueError(f"{name} claims {info.file_size:,} bytes of a file of {size:,}")
            return {name: _array(archive.read(info), name) for name, info in members.items()}
    except FileNotFoundError:
        raise UserError(f"{path}: missing. The run ended before its first epoch did.") from None
    except UserError:
        raise
    except Exception as error:
        # zipfile, numpy, zlib and the system raise many types for a damaged file.
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(f"{path}: cannot be read ({reason}).") from error


def _array(data: bytes, name: str) -> np.ndarray:
    """The array of an .npy file. ValueError: its header does not fit its bytes, or it has the wrong dtype or shape."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, fortran, dtype = reader(file)
    kinds, ndim = _ARRAYS[name]
    if dtype.kind not in kinds or len(shape) != ndim or min(shape, default=0) < 0:
        raise ValueError(f"{name} is {dtype} with {len(shape)} dimensions")
    count = 1
    for side in shape:
        count *= side
    if count * dtype.itemsize != len(data) - file.tell():
        raise ValueError(f"{name} claims {shape} {dtype} in {len(data) - file.tell():,} bytes")
    if not dtype.itemsize:
        raise ValueError(f"{name} holds empty texts")
    if dtype.kind == "U":
        codes = np.frombuffer(data, f"{dtype.byteorder}u4", offset=file.tell())
        if codes.max(initial=0) > 0x10FFFF:  # numpy would raise SystemError
            raise ValueError(f"{name} holds a code that is no character")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if fortran else "C")


def array_digest(array: np.ndarray) -> str:
    """SHA-256 of an array's dtype, shape and values."""
    head = f"{array.dtype.str} {array.shape} ".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()


def _checked(arrays: dict[str, np.ndarray], record: Record, where: str) -> Results:
    shape = arrays["labels"].shape
    classes = shape[1]
    names, class_names = arrays["fnames"].astype(str), tuple(arrays["classes"].tolist())
    num_different = len(set(names.tolist()))
    if (len(names), len(class_names)) != shape or num_different != len(names):
        raise UserError(
            f"{where}: expected labels of (chips, classes) and a name for each, found labels {shape}, {num_different} "
            f"different names and {len(class_names)} classes."
        )
    for key in ("preds", "logits"):
        if arrays[key].shape != shape or not np.isfinite(arrays[key]).all():
            raise UserError(f"{where}: expected finite {key} of shape {shape}. Train again.")
    epochs, epoch = len(arrays["trainlosses"]), int(arrays["epoch"])
    for key, expected in (("AP", (classes,)), ("testlosses", (epochs,)), ("testperfs", (epochs, classes))):
        if arrays[key].shape != expected:
            raise UserError(f"{where}: expected {key} of shape {expected}, found {arrays[key].shape}.")
    first, last = (0, 0) if record.evaluation else (1, epochs)
    if not first <= epoch <= last:
        raise bad_field(where, "epoch", f"{first} to {last}", epoch)
    if arrays["labels"].max(initial=0) > 1:
        raise bad_field(where, "labels", "0 or 1", int(arrays["labels"].max()))
    made = _made_with(arrays, where)
    _check_record(made, arrays, record, where)
    return Results(
        epoch=epoch, ap=arrays["AP"], mean_ap=float(arrays["mAP"]), labels=arrays["labels"].astype(np.uint8),
        logits=arrays["logits"], probabilities=arrays["preds"].astype(np.float64), names=names, classes=class_names,
        train_losses=arrays["trainlosses"], test_losses=arrays["testlosses"], test_ap=arrays["testperfs"],
        made_with=made,
    )  # fmt: skip


def _made_with(arrays: dict[str, np.ndarray], where: str) -> MadeWith:
    at = f"{where} depends_on"
    values = parse(str(arrays["depends_on"]), at)
    is_version_2 = isinstance(values, dict) and any(
        name in values for name in ("identity", "lines", "arrays", "sha256")
    )
    if is_version_2:
        check_seal(values, at)
    made: MadeWith = decode(MadeWith, values, at)
    if is_version_2:
        actual = {name: array_digest(array) for name, array in arrays.items() if name != "depends_on"}
        if altered := [name for name in actual if actual[name] != made.arrays.get(name)]:
            raise UserError(f"{where}: {', '.join(altered)} changed since the run wrote it. Restore it from a copy.")
    return made


def _check_record(made: MadeWith, arrays: dict[str, np.ndarray], record: Record, where: str) -> None:
    """UserError if run.json and the scores are not of the same run."""
    remedy = "Restore the file of the two that changed."
    check_settings(made.config, record.config, f"{where}: made with %s=%s, and run.json says %s. {remedy}")
    rows: list[tuple[str, object, object]] = [
        ("identity", record.identity, made.identity),
        ("store.fingerprint", record.store.fingerprint, made.store.fingerprint),
        ("store.chips", record.store.chips, made.store.chips),
        ("split", dataclasses.asdict(record.split), dataclasses.asdict(made.split)),
        ("amp", record.amp, made.amp),
        ("classes", list(record.classes), arrays["classes"].tolist()),
        ("chips of the test split", record.split.test, len(arrays["fnames"])),
    ]
    if record.state == "done":
        rows.append(("model_sha256", record.model_sha256, made.model_sha256))
        rows.append(("epoch", record.best_epoch or 0, int(arrays["epoch"])))
        rows.append(("epochs", 0 if record.evaluation else record.config.epochs, len(arrays["trainlosses"])))
    if record.version > 1 and not made.identity:
        raise UserError(
            f"{where}: of version 1, run.json of version {record.version}. A resume was interrupted: repeat it."
        )
    for name, expected, value in rows:
        if expected != value:
            details = "" if isinstance(expected, dict) else f" {str(expected)[:60]}, found {str(value)[:60]}"
            raise UserError(f"{where}: expected {name} as in run.json{details}: they are not of one run. {remedy}")


def _check_history(results: Results, record: Record, history: Sequence[EpochLine], where: str) -> None:
    """UserError if the two files differ in an epoch that both hold.

    After a kill between writing them, one of them holds one epoch more. Such a run can be resumed.
    """
    num_common = min(len(history), len(results.train_losses))
    for index, line in enumerate(history[:num_common]):
        ap = [line.ap("test", name) for name in record.classes]
        same = (
            results.train_losses[index] == line.train_loss
            and results.test_losses[index] == line.test_loss
            and np.array_equal(results.test_ap[index], ap, equal_nan=True)
            and (record.version == 1 or line.digest == results.made_with.lines[index])
        )
        if not same:
            raise UserError(
                f"{where} and metrics.jsonl: epoch {index + 1} differs between them: one was altered or is another "
                "run's. Restore it from a copy."
            )
    if record.state == "done" and len(history) != len(results.train_losses):
        raise UserError(
            f"{where} and metrics.jsonl: {len(results.train_losses)} and {len(history)} epochs of a run that is done. "
            "Restore the shorter from a copy."
        )
