"""The runs whose mean logits are the scores of a folder that `make ensemble` made.

In: a run, or such a folder. Out: the runs, each proved to be the one of the scores, and means of their logits. Needs no
torch. Leaves predicting to `scoring` and `predict`.
"""

import hashlib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from analysis.finished_run import Run, load_run
from analysis.run_paths import tta_folder
from preprocess.console import UserError
from preprocess.files import open_regular
from train.contract.evaluation import Evaluation
from train.contract.record import read_record


def members_of(run: Run) -> list[Run]:
    """The runs of an ensemble in order, or the run itself.

    Raises:
        UserError: one is missing, damaged, or has other weights; names it.
    """
    evaluation = run.record.evaluation
    if evaluation is None:
        return [run]
    members = []
    for member in evaluation.members:
        path = member_path(run.path, member.path)
        if not (path / "run.json").exists():
            raise UserError(
                f"{path}: missing. {run.path} is made of this run. Put it back, or make the ensemble again."
            )
        loaded = load_run(path)
        digest = weights_sha256(loaded)
        if digest != member.model_sha256:
            raise UserError(
                f"{path / 'model.safetensors'}: expected the weights of {run.path} ({member.model_sha256[:12]}), found "
                f"{digest[:12]}. Restore the file from a copy, or make the ensemble again."
            )
        members.append(loaded)
    return members


def tta_scores(run: Path) -> Path:
    """The folder with the TTA scores of a run or an ensemble: beside it with the name NAME-tta, or itself.

    Raises:
        UserError: there is none, or it is of another run.
    """
    own = read_record(run).evaluation
    if own and own.tta:
        return run
    folder = tta_folder(run)
    if not (folder / "run.json").exists():
        command = "" if own else f" Make them: make ensemble RUNS={shlex.quote(str(run))} TTA=1"
        raise UserError(f"TTA=1: expected the TTA scores of RUN={run} in {folder}, found none.{command}")
    if _paths(folder, read_record(folder).evaluation) != _paths(run, own):
        raise UserError(f"TTA=1: expected the TTA scores of RUN={run} in {folder}, found scores of other runs.")
    return folder


def _paths(folder: Path, evaluation: Evaluation | None) -> list[Path]:
    """The folders of the runs whose scores a folder has."""
    members = evaluation.members if evaluation else ()
    return [member_path(folder, member.path).resolve() for member in members] or [folder.resolve()]


def member_path(folder: Path, member: str) -> Path:
    """Where a member of the ensemble in `folder` is, as short as possible: below the current folder, or absolute."""
    path = Path(os.path.normpath(folder.resolve() / member))
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def relative_to(folder: Path, member: Path) -> str:
    """The path of a run as the ensemble in `folder` keeps it: relative, so that both can be moved together."""
    return os.path.relpath(member.resolve(), folder.resolve())


def weights_sha256(run: Run) -> str:
    """SHA-256 of a run's model.safetensors.

    Raises:
        UserError: it cannot be read.
    """
    path = run.path / "model.safetensors"
    try:
        with open_regular(path) as file:
            return hashlib.sha256(file.read()).hexdigest()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}).") from error


def mean_logits(logits: Sequence[np.ndarray]) -> np.ndarray:
    """(chips, classes) float32: the mean of float32 logits, rounded once.

    Sums in float64 of a few float32 numbers of similar size are exact, so the order of the runs changes nothing.
    """
    if len(logits) == 1:
        return logits[0]
    return np.asarray(np.sum(np.stack(logits), axis=0, dtype=np.float64) / len(logits), np.float32)


def uses_tta(run: Run) -> bool:
    """Whether the saved scores of a folder are means over symmetries."""
    return run.record.evaluation is not None and run.record.evaluation.tta


def refuse_ensemble(run: Run, command: str, reason: str) -> None:
    """UserError if `run` is an ensemble or TTA scores; `command` is what its members are given to instead."""
    if run.record.evaluation:
        first = member_path(run.path, run.record.evaluation.members[0].path)
        raise UserError(f"RUN={run.path}: {reason} Use its members, such as make {command} RUN={first}.")
