"""run.json: the record of a run. Version 2 holds a digest of each field, and the identity of the run.

In: a run's folder. Out: `Record`, checked. The identity is the SHA-256 of all that decides the result: the run's id,
its settings, store and split, and what its network is fed (bands, mean, std, crop, pooling, chips, classes). It is made
when the run begins and never changes; results.npz, metrics.jsonl and every checkpoint name it. Version 1 (no field
`version`) has neither digests nor an identity.
"""

import dataclasses
import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from preprocess.console import UserError
from preprocess.files import write_atomic
from preprocess.reading import is_reading
from train.config import RUNTIME_SETTINGS, Config
from train.contract.evaluation import Evaluation
from train.contract.fields import (
    Count,
    Positive,
    Rule,
    Sha256,
    bad_field,
    check_seal,
    decode,
    digest,
    matches,
    one_of,
    parse,
    read_bytes,
    sealed,
)
from train.contract.surroundings import Amp, Machine, Resumed, Surroundings

VERSION = 2
STATES = ("training", "stopped", "done")
_Dtype = Annotated[str, matches("u?int(8|16|32|64)|float(16|32|64)", "a dtype of chips, such as uint16")]
_Side = Annotated[int, Rule("a side in pixels, 1 to 65536", lambda value: 1 <= value <= 65536)]
_Std = Annotated[float, Rule("a positive number", lambda value: value > 0)]
_Names = Rule("different names, one or more", lambda value: 0 < len(value) == len(set(value)))
_V2_FIELDS = ("version", "id", "identity", "sha256")
# Not part of a run's identity (version 2): they change how a run executes, not its result. No name may leave the list.
_EXECUTION = {"store", "gpu", "gpu_given", "workers", "cache", "decode", "checkpoint_minutes", "tracker"}
_EXECUTION |= {"rank_timeout_minutes"}


@dataclass(frozen=True, kw_only=True)
class StoreRef:
    """The store on which a run was trained."""

    path: str
    fingerprint: Sha256
    chips: Positive


@dataclass(frozen=True, kw_only=True)
class SplitRef:
    """How the chips were split: the number of chips per split, and the SHA-256 of which chips are in which split."""

    rule: str
    sha256: Sha256
    train: Positive
    val: Count
    test: Positive
    epoch_chosen_on: Annotated[str, one_of("val", "test")]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Chip:
    """The chips of the run's store: size in pixels, dtype, and (since version 2) bands in stored order.

    nodata: the value that marks pixels without a measurement, see `preprocess.nodata`; None if every value counts.
    reading: how the conversion read its files, see `preprocess.reading`; None if it read them as they are, or if an
    earlier version made the run.
    """

    height: _Side
    width: _Side
    dtype: _Dtype
    bands: tuple[str, ...] = ()
    nodata: Annotated[str, matches(r"nan|-?\d+(\.\d+)?(e[-+]\d+)?", "a number or nan")] | None = None
    reading: Annotated[dict[str, str], Rule("what a conversion records", is_reading)] | None = None


@dataclass(frozen=True, kw_only=True)
class InputsRef:
    """What the network is fed: bands in the order of the channels, mean and std in the units of the stored values, and
    (height, width) of the crop.

    `branches` are the bands of each trunk. `crop`, `chip`, `pool` and `stem` are missing in early runs.
    """

    kind: Annotated[str, one_of("raw", "course")]
    bands: Annotated[tuple[str, ...], _Names]
    mean: tuple[float, ...]
    std: tuple[_Std, ...]
    branches: tuple[tuple[str, ...], ...]
    crop: tuple[_Side, _Side] | None = None
    chip: Chip | None = None
    pool: bool = True
    stem: Annotated[str, one_of("imagenet", "small")] = "imagenet"


@dataclass(frozen=True, kw_only=True)
class Record:
    """run.json. `values` are its JSON values; they are written back with changes, so that nothing is lost.

    evaluation: the runs whose mean logits the scores are; settings and inputs are then those of the first. None: the
    run was trained.
    """

    version: int = 1
    id: Annotated[str, matches("[0-9a-f]{32}", "32 hexadecimal digits")] = ""
    identity: Sha256 = ""
    state: Annotated[str, one_of(*STATES)]
    started: str
    config: Config
    commit: str
    versions: dict[str, str]
    machine: Machine
    amp: Amp
    store: StoreRef
    split: SplitRef
    inputs: InputsRef
    classes: Annotated[tuple[str, ...], _Names]
    best_epoch: Count | None = None
    model_sha256: Sha256 | None = None
    resumed: tuple[Resumed, ...] = ()
    evaluation: Evaluation | None = None
    sha256: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict, repr=False, compare=False, metadata={"json": False})

    def with_state(self, state: str, *, best_epoch: int, model_sha256: str | None = None) -> "Record":
        """The record of a run that was stopped or is done. `best_epoch` counts from 1; 0: no epoch has ended yet."""
        weights = {} if model_sha256 is None else {"model_sha256": model_sha256}
        return self._changed({"state": state, "best_epoch": best_epoch, **weights})

    def resumed_at(self, epoch: int, step: int, surroundings: Surroundings) -> "Record":
        """The record of a run that continues in an epoch (counted from 1), with `step` of its steps done."""
        place = {"epoch": epoch, "step": step, "commit": surroundings.commit}
        resumed = [*self.values.get("resumed", []), place]
        return self._changed({"state": "training", **dataclasses.asdict(surroundings), "resumed": resumed})

    def as_version_2(self, inputs: InputsRef) -> "Record":
        """The record of a run of version 1 that is resumed, with an identity."""
        return _identified(self.values | {"inputs": _inputs_as_json(inputs)})

    def _changed(self, changes: dict[str, Any]) -> "Record":
        return _record({**self.values, **changes}, "run.json")


def new_record(
    *, started: str, config: Config, surroundings: Surroundings, amp: str, store: StoreRef, split: SplitRef,
    inputs: InputsRef, classes: tuple[str, ...],
) -> Record:  # fmt: skip
    """The record of a run that begins."""
    values = {
        "state": "training",
        "started": started,
        "config": config.model_dump(),
        **dataclasses.asdict(surroundings),
        "amp": amp,
        "store": dataclasses.asdict(store),
        "split": dataclasses.asdict(split),
        "inputs": _inputs_as_json(inputs),
        "classes": list(classes),
    }
    return _identified(values)


def evaluation_record(
    first: Record, evaluation: Evaluation, *, started: str, surroundings: Surroundings, amp: str, model_sha256: str
) -> Record:  # fmt: skip
    """The record of scores made from runs on one store and split. `first`: the record of the first of them."""
    names = ("config", "store", "split", "inputs", "classes")
    return _identified({
        "state": "done", "started": started, **dataclasses.asdict(surroundings), "amp": amp,
        **{name: first.values[name] for name in names}, "model_sha256": model_sha256,
        "evaluation": dataclasses.asdict(evaluation),
    })  # fmt: skip


def _inputs_as_json(inputs: InputsRef) -> dict[str, Any]:
    """The fields; without nodata and reading those that older code reads too."""
    values = dataclasses.asdict(inputs)
    for name in ("nodata", "reading"):
        if inputs.chip and getattr(inputs.chip, name) is None:
            del values["chip"][name]
    return values


def _identified(values: dict[str, Any]) -> Record:
    values = {"version": VERSION, "id": secrets.token_hex(16), **values}
    return _record(values | {"identity": identity_of(values)}, "run.json")


def identity_of(values: dict[str, Any]) -> str:
    """SHA-256 of the run's id and of all that decides its result."""
    split = {name: value for name, value in values["split"].items() if name != "note"}
    config = {name: value for name, value in values["config"].items() if name not in _EXECUTION}
    return digest([
        values["id"], config, values["amp"], values["store"]["fingerprint"], split, values["inputs"], values["classes"],
        *([values["evaluation"]] if "evaluation" in values else []),
    ])  # fmt: skip


def write_record(run: Path, record: Record) -> None:
    """Write run.json whole or not at all, also if the power fails: a run without it cannot be resumed."""
    write_atomic(run / "run.json", (json.dumps(sealed(record.values), indent=1) + "\n").encode(), durable=True)


def read_record(run: Path) -> Record:
    """Read and check run.json.

    Raises:
        UserError: there is no such run, or a field is missing, wrong or altered; names it.
    """
    path = run / "run.json"
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        raise UserError(f"RUN={run}: expected a run's folder, found no run.json. `ls runs` shows the runs.") from None
    return _record(parse(data, str(path)), str(path), sealed_file=True)


def _record(values: Any, where: str, *, sealed_file: bool = False) -> Record:
    # One field of version 2 is enough to check all of them: a damaged field name must not make this a version 1 file.
    is_version_2 = isinstance(values, dict) and any(name in values for name in _V2_FIELDS)
    if is_version_2:
        version = values.get("version")
        if type(version) is int and version > VERSION:
            raise UserError(f"{where}: version {version}; this code reads versions 1 to {VERSION}. Update it.")
        if sealed_file:
            check_seal(values, where)
    record: Record = decode(Record, values, where)
    if is_version_2 and record.version != VERSION:
        raise bad_field(where, "version", str(VERSION), record.version)
    _check_together(record, where)
    if is_version_2 and record.identity != identity_of(values):
        raise UserError(f"{where}: expected the identity of its own fields, found another. Restore it from a copy.")
    return dataclasses.replace(record, values={name: value for name, value in values.items() if name != "sha256"})


def _check_together(record: Record, where: str) -> None:
    """UserError if fields do not fit each other."""
    config, inputs, split = record.config, record.inputs, record.split
    channels = tuple(band for bands in inputs.branches for band in bands)
    trunks = [len(bands) for bands in config.band_groups]
    rows: list[tuple[str, object, object]] = [
        ("inputs.kind", config.input, inputs.kind),
        ("inputs.branches", list(inputs.bands), list(channels)),
        ("inputs.branches", trunks, [len(bands) for bands in inputs.branches]),
        ("inputs.mean", f"{len(channels)} numbers", f"{len(inputs.mean)} numbers"),
        ("inputs.std", f"{len(channels)} numbers", f"{len(inputs.std)} numbers"),
        ("split.epoch_chosen_on", "val" if split.val else "test", split.epoch_chosen_on),
    ]
    if inputs.kind == "raw":
        rows.append(("inputs.branches", config.band_groups, inputs.branches))
    if inputs.chip:
        sides = inputs.chip.height, inputs.chip.width
        rows += [
            ("inputs.crop", config.crop_of(*sides), inputs.crop),
            ("inputs.pool", config.pools(*sides), inputs.pool),
            ("inputs.stem", config.stem_of(*sides), inputs.stem),
        ]
        if inputs.kind == "raw" and inputs.chip.bands:
            rows.append(("inputs.bands", "bands of inputs.chip", _missing(inputs)))
    for name, expected, value in rows:
        if expected != value:
            raise UserError(f"{where}: expected {name} to be {expected}, found {value}.")
    if split.train + split.val + split.test > record.store.chips:
        raise bad_field(where, "split", f"at most {record.store.chips} chips", split.train + split.val + split.test)
    if (record.best_epoch or 0) > config.epochs:
        raise bad_field(where, "best_epoch", f"at most {config.epochs}", record.best_epoch)
    if record.state == "done" and not ((record.best_epoch or record.evaluation) and record.model_sha256):
        raise UserError(f"{where}: expected best_epoch and model_sha256 of a run that is done, found none.")


def _missing(inputs: InputsRef) -> str:
    assert inputs.chip
    absent = [band for band in inputs.bands if band not in inputs.chip.bands]
    return f"{absent[0]} too" if absent else "bands of inputs.chip"


def check_settings(expected: Config, config: Config, message: str) -> None:
    """UserError if settings differ that change the result. `message` has %s for the name and the two values."""
    for name, value in expected.model_dump().items():
        if name not in RUNTIME_SETTINGS and getattr(config, name) != value:
            raise UserError(message % (name.upper(), value, getattr(config, name)))
