"""`make ensemble`: the mean logits of finished runs, or of one run over the symmetries of its chips (TTA=1).

In: folders of runs. Out: a folder with run.json and results.npz, which report, reproduce and predict read like a run's.
It holds no weights: run.json names the runs and the SHA-256 of their weights. Without TTA the saved logits are
averaged, so nothing is predicted. Leaves predicting to `scoring` and the mean to `members`.
"""

import hashlib
import math
import os
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from analysis.finished_run import Run, load_run
from analysis.members import mean_logits, relative_to, weights_sha256
from analysis.run_paths import ensemble_folder, tta_folder
from analysis.scoring import score_test_split
from preprocess.console import UserError, say
from train import run_folder
from train.contract.evaluation import Evaluation, Member
from train.contract.record import evaluation_record, write_record
from train.contract.results import TestScores, write_results
from train.contract.surroundings import Machine, Surroundings
from train.device import AMP_SETTING, amp_name
from train.metrics import class_ap, mean_ap

_SAME = "Runs of an ensemble must have the same store, split, classes and labels."


def ensemble(
    paths: Sequence[Path], *, out: Path | None = None, tta: bool = False, store: str | None = None,
    gpu: str | None = None,
) -> Path:  # fmt: skip
    """Average runs, write the scores, and print a row for each run and for the mean. Returns the folder.

    Args:
        paths: the folders of the runs.
        out: the folder to make; None: beside the run for one run, else the next free runs/ensemble.
        tta: whether each run's logits are means over the symmetries of the chip.
        store, gpu: for TTA: where the store is, and the device; None: as in the runs.

    Raises:
        UserError: a run cannot be read or is not done, runs do not fit each other, or `out` exists.
    """
    folder = out or (tta_folder(paths[0]) if len(paths) == 1 else ensemble_folder(tta=tta))
    if folder.exists():
        raise UserError(f"OUT={folder}: exists already. Choose another name, or remove it.")
    parent = next(path for path in folder.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):  # said before minutes of TTA
        raise UserError(f"OUT={folder}: expected a folder that can be written, found {parent}. Choose another OUT.")
    runs = [load_run(path) for path in paths]
    check_members(runs)
    parts = [_with_tta(folder, run, store, gpu) if tta else _as_saved(folder, run) for run in runs]
    mean = mean_logits([logits for _, logits in parts])
    evaluation = Evaluation(tta=tta, members=tuple(member for member, _ in parts))
    _write(folder, runs, mean, evaluation)
    _print(folder, runs, evaluation, mean)
    return folder


def check_members(runs: Sequence[Run]) -> None:
    """Raise UserError unless the runs are done, different, and were scored on the same chips, classes and labels."""
    first, seen = runs[0], dict[str, Run]()
    for run in runs:
        if run.record.evaluation:
            raise UserError(f"RUNS={run.path}: expected a trained run, found scores of `make ensemble`. Name its runs.")
        if run.record.state != "done":
            raise UserError(f"RUNS={run.path}: expected a run that is done, found state {run.record.state}.")
        for name, value, expected in (
            ("store (fingerprint)", run.made_with.store.fingerprint[:12], first.made_with.store.fingerprint[:12]),
            ("split (sha256)", run.made_with.split.sha256[:12], first.made_with.split.sha256[:12]),
            ("classes", ", ".join(run.classes)[:80], ", ".join(first.classes)[:80]),
        ):
            if value != expected:
                raise UserError(
                    f"RUNS={run.path}: expected {name} {expected} as in {first.path}, found {value}. {_SAME}"
                )
        for name, values, others in (("names", run.names, first.names), ("labels", run.labels, first.labels)):
            if not np.array_equal(values, others):
                raise UserError(f"RUNS={run.path}: {name} of the test chips differ from those of {first.path}. {_SAME}")
        expected = run.made_with.model_sha256
        if (digest := weights_sha256(run)) != expected:
            raise UserError(
                f"{run.path / 'model.safetensors'}: expected the weights that made the saved scores "
                f"({expected[:12]}), found {digest[:12]}. Restore the file from a copy."
            )
        if digest in seen:
            raise UserError(f"RUNS={run.path}: expected different runs, found the weights of {seen[digest].path}.")
        seen[digest] = run


def _as_saved(folder: Path, run: Run) -> tuple[Member, np.ndarray]:
    """A run with its saved logits."""
    made = run.made_with
    member = Member(
        path=relative_to(folder, run.path), model_sha256=made.model_sha256, amp=made.amp, device=made.machine.device,
        test_map=_or_none(run.mean_ap),
    )  # fmt: skip
    return member, run.logits.astype(np.float32)  # as they are stored


def _with_tta(folder: Path, run: Run, store: str | None, gpu: str | None) -> tuple[Member, np.ndarray]:
    """A run with new logits, the means over the symmetries."""
    scored = score_test_split(
        run, store=store, gpu=gpu, tta=True, label=f"{run.name}, TTA", source=f"RUNS={run.path}", same_input=True
    )
    tta_map = mean_ap(class_ap(run.labels, scored.logits))
    member, _ = _as_saved(folder, run)
    device = scored.device
    return replace(member, amp=amp_name(device.amp), device=device.name, tta_map=_or_none(tta_map)), scored.logits


def _write(folder: Path, runs: Sequence[Run], logits: np.ndarray, evaluation: Evaluation) -> None:
    """Make the folder at once: it is written beside its place and renamed."""
    members = evaluation.members
    digest = hashlib.sha256("".join(member.model_sha256 for member in members).encode()).hexdigest()
    machine = run_folder.machine("; ".join(dict.fromkeys(member.device for member in members)))
    machine["threads"] = runs[0].made_with.machine.threads
    record = evaluation_record(
        runs[0].record, evaluation, started=time.strftime("%Y-%m-%dT%H:%M:%S%z"), model_sha256=digest,
        amp=max((member.amp for member in members), key=list(AMP_SETTING).index),  # the one with the fewest bits
        surroundings=Surroundings(
            commit=run_folder.commit(), versions=run_folder.versions(), machine=Machine(**machine)
        ),
    )  # fmt: skip
    scores = TestScores(epoch=0, names=runs[0].names, labels=runs[0].labels, logits=logits)
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a kill
    try:
        partial.mkdir(parents=True)
        write_results(partial, record, scores, (), digest)
        write_record(partial, record)
        partial.rename(folder)
    except OSError as error:
        raise UserError(f"OUT={folder}: the folder cannot be made ({error.strerror}).") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _print(folder: Path, runs: Sequence[Run], evaluation: Evaluation, mean: np.ndarray) -> None:
    """A row for each run, for each with TTA, and for the mean."""
    pairs = list(zip(runs, evaluation.members, strict=True))
    rows = [(str(run.path), member.test_map) for run, member in pairs]
    if evaluation.tta:
        rows += [(f"{run.path}, TTA", member.tta_map) for run, member in pairs]
    if len(runs) > 1:
        name = f"mean of {len(runs)} runs{', TTA' if evaluation.tta else ''}"
        rows.append((name, _or_none(mean_ap(class_ap(runs[0].labels, mean)))))
    width = max(len(name) for name, _ in rows)
    say("test mAP:")
    for name, value in rows:
        say(f"  {name:{width}}  {'none' if value is None else format(value, '.4f')}")
    say(f"{folder}: the scores. Next:")
    for command in ("report", "reproduce"):
        say(f"  make {command} RUN={shlex.quote(str(folder))}")
