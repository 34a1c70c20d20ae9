"""Short runs on a store with the folder of their test chips, and the scores in a CSV."""

import csv
import shutil
from pathlib import Path

from tiny import tiny_networks

from analysis.finished_run import Run, load_run
from helpers.commands import train


def train_once(folder: Path, chips: Path, *words: str, task: int) -> Run:
    """Train one epoch on FOLDER/chips.zarr as FOLDER/run, and copy the files of the test split to FOLDER/new."""
    with tiny_networks():
        ended = train(folder / "chips.zarr", folder / "run", "EPOCHS=1", *words, task=task)
    assert ended.returncode == 0, ended.stderr
    run = load_run(folder / "run")
    (folder / "new").mkdir()
    for name in run.names:
        path = next(path for path in (chips / name, *chips.glob(f"{name}.*")) if path.exists())
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, folder / "new" / path.name)
    return run


def scores_of(path: Path) -> dict[str, list[float]]:
    """The rows of predictions.csv."""
    with open(path, newline="") as file:
        _, *rows = csv.reader(file)
    return {name: [float(score) for score in scores] for name, *scores in rows}


def saved_scores(run: Run) -> dict[str, list[float]]:
    """What `scores_of` must give for the run's test split."""
    return dict(zip(run.names.tolist(), run.probabilities.tolist(), strict=True))
