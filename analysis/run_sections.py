"""Sections of a report about the run: what to do, the last result of `make reproduce`, and provenance.

In: a run. Out: `page.Section`s, and the `make train` command of a configuration.
"""

import shlex
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import class_metrics
from analysis.advice import advice
from analysis.baselines import baselines
from analysis.chip_sections import Artifacts
from analysis.finished_run import Run
from analysis.members import member_path
from analysis.page import Lines, Section, Table
from analysis.tables import read_table
from preprocess.console import UserError
from preprocess.setting_specs import specs
from preprocess.zarr_store import Store
from train.config import Config, make_config, without_effect
from train.contract.evaluation import Evaluation
from train.contract.verdict import read_verdict, read_verdict_table


def train_command(config: Config) -> str:
    """The `make train` command of a configuration, without default, recipe and ineffective settings."""
    values = config.model_dump()
    unused = without_effect(config, values)
    defaults = make_config(config.recipe, task=config.task, store="").model_dump()
    words = [f"TASK={config.task}", *([f"RECIPE={config.recipe}"] if config.recipe != "default" else [])]
    for name, spec in specs(Config).items():
        value = values[name]
        is_set = (value != defaults[name] and name not in unused) or (name == "gpu" and config.gpu_given)
        if is_set and not spec.hidden:
            text = str(int(value) if isinstance(value, bool) else value)
            words.append(f"{spec.word}={shlex.quote(text)}")
    return " ".join(["make train", *words])


def audit_folder(store: Store | str) -> Path | None:
    """Where an audit of the store would be; None if that is not known. `store` is a reason if it cannot be opened."""
    place = None if isinstance(store, str) else store.path
    return place.with_name(f"{place.name}.audit") if isinstance(place, Path) else None


def summary(run: Run, store: Store | str, artifacts: Artifacts, interval: tuple[np.ndarray, np.ndarray]) -> Section:
    """What is worst and what to do about it, and the scores beside those of guesses."""
    section = Section(id="summary", title="What to do")
    texts = advice(run, class_metrics.calibrations(run.labels, run.probabilities), audit_folder(store), interval)
    if texts:
        section.blocks.append(Lines(texts=texts))
    else:
        section.note(
            "Nothing was found. The checks look at frequent, weak and rare classes, leaks, fit and probabilities."
        )
    frame = baselines(run.labels, run.logits, run.mean_ap)
    section.blocks.append(
        artifacts.tables.add(
            "baselines",
            frame,
            "On the test split. This run: a class is predicted if its probability is above 0.5. "
            "Majority: each class is predicted for all chips if most chips have it. Chance: each class is predicted at "
            "random, as often as it occurs.",
        )
    )
    return section


def how_averaged(evaluation: Evaluation) -> str:
    """How `make ensemble` made scores, in words."""
    count = len(evaluation.members)
    views = "8 symmetries of a square (4 of a rectangle)"
    if count == 1:
        return f"mean logits over the {views}"
    return f"mean logits of {count} runs" + (f", each over the {views}" if evaluation.tta else "")


def members(run: Run, artifacts: Artifacts) -> Section:
    """The runs of an ensemble, in place of learning curves."""
    evaluation = run.record.evaluation
    assert evaluation is not None
    section = Section(id="members", title="Runs of the mean")
    section.note(
        f"These scores are the {how_averaged(evaluation)}. Nothing was trained for them, so there are no learning "
        "curves; the reports of the runs have theirs."
    )
    rows = [(str(member_path(run.path, member.path)), member) for member in evaluation.members]
    frame = pd.DataFrame(
        {
            "run": [path for path, _ in rows],
            "test_map": [member.test_map for _, member in rows],
            **({"test_map_tta": [member.tta_map for _, member in rows]} if evaluation.tta else {}),
            "weights_sha256": [member.model_sha256[:12] for _, member in rows],
            "amp": [member.amp for _, member in rows],
            "device": [member.device for _, member in rows],
        }
    )
    section.blocks.append(artifacts.tables.add("members", frame, f"Each run alone; the mean has {run.mean_ap:.4f}."))
    return section


def made_by(run: Run) -> str:
    """The command that made the scores."""
    if run.record.evaluation is None:
        return train_command(run.config)
    runs = ",".join(str(member_path(run.path, member.path)) for member in run.record.evaluation.members)
    tta = " TTA=1" if run.record.evaluation.tta else ""
    return f"make ensemble RUNS={shlex.quote(runs)}{tta} OUT={shlex.quote(str(run.path))}"


def reproduction(run: Run, artifacts: Artifacts) -> Section:
    """The last result of `make reproduce`, with its table per class.

    Raises:
        UserError: a file of the result is damaged.
    """
    section = Section(id="reproduction", title="Reproduction")
    table = run.path / "reproduce.csv"
    if not (run.path / "reproduce.json").exists():
        section.note("Not tried yet. This command loads the model in a new process and predicts the test split again:")
        section.note(f"make reproduce RUN={shlex.quote(str(run.path))}", "code")
        return section
    verdict = read_verdict(run.path)
    if verdict.model_sha256 != run.made_with.model_sha256:
        section.note("This result belongs to earlier weights of the run. Run `make reproduce` again.", "warn")
    section.note(verdict.text, "text" if verdict.reproduced else "warn")
    if verdict.table is None:
        section.note(
            "An earlier version of canopy wrote this result without a digest. Run `make reproduce` again to write it "
            "with one.",
            "warn",
        )
    if (data := read_verdict_table(run.path, verdict)) is not None:
        try:
            frame = read_table(data, words=("class",))
        except ValueError as error:
            again = f"Run `make reproduce RUN={shlex.quote(str(run.path))}` again."
            raise UserError(f"{table}: damaged ({error}). {again}") from error
        section.blocks.append(
            artifacts.tables.add("reproduction", frame, "Saved AP and AP of the repetition.", digits=8)
        )
    return section


def provenance(run: Run) -> Section:
    """Configuration, code, versions, data and machine of the scores, and the commands that reproduce them."""
    section = Section(id="provenance", title="Provenance")
    made, record = run.made_with, run.record
    section.note(
        f"At the commit below, the first command makes {'these scores' if run.record.evaluation else 'the run'} again. "
        "The second predicts the test split of the saved run again and compares."
    )
    again = f"make reproduce RUN={shlex.quote(str(run.path))}    # predicts again and compares"
    section.note(f"{made_by(run)}\n{again}", "code")
    if made.commit.endswith("+changes"):
        section.note(
            "The code had uncommitted changes when the run was made, so the commit alone does not reproduce it.",
            "warn",
        )
    split, store = made.split, made.store
    sizes = ", ".join(f"{count:,} {name}" for name in ("train", "val", "test") if (count := getattr(split, name)))
    rows = [
        ["run", f"{run.path} ({record.state}, started {record.started})"],
        ["commit", made.commit],
        ["store", f"{store.path}: {store.chips:,} chips, fingerprint {store.fingerprint}"],
        ["split", f"{split.rule}: {sizes}; sha256 {split.sha256}"],
        ["split that chose the epoch", split.epoch_chosen_on],
        ["weights, sha256", made.model_sha256],
        ["machine", f"{made.machine.device}; {made.machine.threads} threads; {made.machine.system}"],
        ["number format", f"AMP {made.amp}"],
        ["versions", ", ".join(f"{name} {version}" for name, version in made.versions.items())],
    ]
    section.blocks.append(
        Table(columns=["fact", "value"], rows=[[str(cell) for cell in row] for row in rows], words=True)
    )
    values = run.config.model_dump()
    settings = [[spec.word, _as_typed(values[name])] for name, spec in specs(Config).items() if not spec.hidden]
    title = "All settings of the first run" if run.record.evaluation else "All settings"
    section.blocks.append(Table(columns=["setting", "value"], rows=settings, words=True, folded=title))
    return section


def _as_typed(value: object) -> str:
    """A setting as a user writes it."""
    if value is None:
        return "not set"
    return str(int(value) if isinstance(value, bool) else value)
