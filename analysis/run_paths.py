"""Folders of runs and of ensembles, by their names alone. Imports nothing heavy."""

import os
from pathlib import Path

from preprocess.console import UserError


def check_run(word: str, run: Path) -> None:
    """UserError if a folder is no run's."""
    if not (run / "run.json").exists():
        raise UserError(f"{word}={run}: expected a run's folder, found no run.json. `ls runs` shows the runs.")


def tta_folder(run: Path) -> Path:
    """Where the TTA scores of a run are, without OUT: runs/task1 -> runs/task1-tta."""
    path = Path(os.path.normpath(run))
    if path.name in ("", ".."):
        path = path.resolve()
    return path.with_name(f"{path.name}-tta")


def ensemble_folder(*, tta: bool) -> Path:
    """The next free of runs/ensemble, runs/ensemble-2 and so on; with `tta` of runs/ensemble-tta, ..."""
    name = "ensemble-tta" if tta else "ensemble"
    path, number = Path("runs") / name, 1
    while path.exists():
        number += 1
        path = path.with_name(f"{name}-{number}")
    return path
