"""What the files of a run hold: run.json of a run that begins, and its scores after each epoch.

In: configuration, data, device. Out: a `Record`, and the published files. Leaves to `contract` how those files are
written and checked.
"""

import dataclasses
import json
import time
from pathlib import Path

from preprocess.console import UserError
from preprocess.reading import reading_of
from preprocess.splits import SPLIT_NAMES
from preprocess.zarr_store import write_atomic
from train import run_folder
from train.checkpoint_files import best_weights
from train.config import Config
from train.contract.metrics import write_metrics
from train.contract.record import Chip, InputsRef, Record, SplitRef, StoreRef, new_record
from train.contract.results import TestScores, write_results
from train.contract.surroundings import Machine, Surroundings
from train.device import Device, amp_name
from train.run_state import State
from train.setup import Data, Job, crop_of, pools, stem_of

_NOTE = "A random split of neighbouring chips leaks from train to test; split by scene to avoid it."


def describe(job: Job) -> Record:
    """The record of a run that begins."""
    config, data, split = job.config, job.data, job.data.split
    return new_record(
        started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        config=config,
        surroundings=surroundings(job.device, job.world.size),
        amp=amp_name(job.device.amp),
        store=StoreRef(path=config.store, fingerprint=data.store.fingerprint, chips=data.store.num_chips),
        split=SplitRef(
            rule=split.rule, sha256=split.sha256(), **{name: len(split.indices(name)) for name in SPLIT_NAMES},
            epoch_chosen_on=selection_split(data), note=_NOTE,
        ),
        inputs=network_inputs(config, data),
        classes=data.store.classes,
    )  # fmt: skip


def network_inputs(config: Config, data: Data) -> InputsRef:
    """What the network is fed, as run.json keeps it."""
    layout = data.store.layout
    return InputsRef(
        kind=data.inputs.kind, bands=data.inputs.bands, mean=data.inputs.mean, std=data.inputs.std,
        branches=data.trunk_bands, crop=crop_of(config, data),
        chip=Chip(
            height=layout.height, width=layout.width, dtype=layout.dtype, bands=layout.bands, nodata=layout.nodata,
            reading=reading_of(data.store.source) or None,
        ),
        pool=pools(config, data), stem=stem_of(config, data),
    )  # fmt: skip


def check_inputs(record: Record, config: Config, data: Data, where: str) -> None:
    """UserError if the store, the split or what the network is fed from them is not what run.json says.

    Mean and std are computed again from the store: a run of version 1 has no other proof of them.
    """
    rows: list[tuple[str, object, object]] = [
        ("fingerprint of the store", record.store.fingerprint[:12], data.store.fingerprint[:12]),
        ("split", record.split.sha256[:12], data.split.sha256()[:12]),
        ("classes", list(record.classes), list(data.store.classes)),
    ]
    for what, recorded, computed in rows:
        if recorded != computed:
            groups = "SPLIT=blocked also depends on the groups of `make audit` beside the store; have they changed?"
            advice = groups if (what, config.split) == ("split", "blocked") else "Is STORE the store of this run?"
            raise UserError(f"{where}: expected {what} {recorded}, found {computed}. {advice}")
    for field in dataclasses.fields(InputsRef):
        recorded, computed = (getattr(inputs, field.name) for inputs in (record.inputs, network_inputs(config, data)))
        if recorded is None:
            continue  # crop and chip of an early run
        if isinstance(recorded, Chip):
            # Equal pixels may have been read in another way; early runs do not keep how.
            computed = dataclasses.replace(computed, reading=recorded.reading)
            if not recorded.bands:
                computed = dataclasses.replace(computed, bands=())  # version 1 keeps no bands
        if recorded != computed:
            raise UserError(
                f"{where}: run.json says inputs.{field.name} {_as_json(recorded)}, the store gives "
                f"{_as_json(computed)}. One of them was altered."
            )


def _as_json(value: object) -> str:
    return json.dumps(value, default=dataclasses.asdict)


def surroundings(device: Device, processes: int) -> Surroundings:
    """The code, the packages and the machine that compute this run now."""
    machine = Machine(**run_folder.machine(device.name), processes=processes)
    return Surroundings(commit=run_folder.commit(), versions=run_folder.versions(), machine=machine)


def selection_split(data: Data) -> str:
    """The split on which the best epoch is chosen."""
    return "val" if len(data.split.val) else "test"


def publish(run: Path, state: State, data: Data, record: Record, *, weights: bool) -> None:
    """Write results.npz and metrics.jsonl from the state; with `weights`, model.safetensors too.

    A kill between the two files leaves one of them an epoch ahead. `contract` reads such a run, and a resume mends it.
    """
    if state.best_logits is None:
        return
    if weights:
        write_atomic(run / "model.safetensors", best_weights(run, state))
    test = data.split.test
    scores = TestScores(
        epoch=state.best + 1, names=data.store.names[test], labels=data.store.labels[test], logits=state.best_logits
    )
    write_results(run, record, scores, state.lines, state.best_sha256)
    write_metrics(run, record, state.lines)
