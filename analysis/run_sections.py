"""The sections of a report about a run itself: what `make reproduce` found, and what the scores were made with."""

import shlex

from analysis.chip_sections import Kept
from analysis.finished_run import Run
from analysis.page import Section, Table
from analysis.tables import read_table
from preprocess.console import UserError
from train.config import Config, make_config, without_effect
from train.contract.verdict import read_verdict, read_verdict_table
from train.flags import FLAGS

_VARIABLES = ("task", "store", "recipe", "deterministic", "shuffle_labels", *(name for _, name, _, _ in FLAGS))


def train_command(config: Config) -> str:
    """The `make train` that a configuration is of, without what the recipe or the default says or has no effect."""
    values = config.model_dump()
    unused = without_effect(config, values)
    known = make_config(config.recipe, task=config.task, store="").model_dump()
    parts, others = [f"TASK={config.task}"], []
    for key, value in values.items():
        if key == "gpu_given":
            continue
        if (value != known[key] and key not in unused) or (key == "gpu" and config.gpu_given):
            text = str(int(value) if isinstance(value, bool) else value)
            if key in _VARIABLES:
                parts.append(f"{key.upper()}={shlex.quote(text)}")
            else:
                others.append(f"{key}={text}")
    if config.recipe != "default":
        parts.append(f"RECIPE={config.recipe}")
    if others:
        parts.append(f"SET={shlex.quote(' '.join(others))}")
    return " ".join(["make train", *parts])


def reproduction(run: Run, kept: Kept) -> Section:
    """What `make reproduce` found last, with its table a class.

    Raises:
        UserError: its files are damaged.
    """
    section = Section(id="reproduction", title="Reproduction")
    verdict, table = run.path / "reproduce.json", run.path / "reproduce.csv"
    if not verdict.exists():
        section.note("Not tried yet. The model is loaded in a new process and the test split predicted again by:")
        section.note(f"make reproduce RUN={shlex.quote(str(run.path))}", "code")
        return section
    found = read_verdict(run.path)
    if found.model_sha256 != run.made_with.model_sha256:
        section.note("What follows was found with earlier weights of this run: reproduce it again.", "warn")
    section.note(found.text, "text" if found.reproduced else "warn")
    if found.table is None:
        section.note("An earlier version wrote this without a digest; `make reproduce` writes one that has it.", "warn")
    if (data := read_verdict_table(run.path, found)) is not None:
        try:
            frame = read_table(data, words=("class",))
        except ValueError as error:
            again = f"Run `make reproduce RUN={shlex.quote(str(run.path))}` again."
            raise UserError(f"{table}: damaged ({error}). {again}") from error
        section.blocks.append(kept.tables.add("reproduction", frame, "AP saved and AP again.", digits=8))
    return section


def provenance(run: Run) -> Section:
    """Configuration, code, versions, data and machine of the scores, and how to get the same."""
    section = Section(id="provenance", title="Provenance")
    made, record = run.made_with, run.record
    section.note("To get the same, at the commit below:")
    again = f"make reproduce RUN={shlex.quote(str(run.path))}    # predicts again and compares"
    section.note(f"{train_command(run.config)}\n{again}", "code")
    if made.commit.endswith("+changes"):
        section.note(
            "The code differed from its commit when this was trained: the commit alone does not say all.", "warn"
        )
    split, store = made.split, made.store
    parts = ", ".join(f"{count:,} {part}" for part in ("train", "val", "test") if (count := getattr(split, part)))
    rows = [
        ["run", f"{run.path} ({record.state}, started {record.started})"],
        ["commit", made.commit],
        ["store", f"{store.path}: {store.chips:,} chips, fingerprint {store.fingerprint}"],
        ["split", f"{split.rule}: {parts}; sha256 {split.sha256}"],
        ["epoch chosen on", split.epoch_chosen_on],
        ["weights, sha256", made.model_sha256],
        ["machine", f"{made.machine.device}; {made.machine.threads} threads; {made.machine.system}"],
        ["number format", f"AMP {made.amp}"],
        ["versions", ", ".join(f"{name} {version}" for name, version in made.versions.items())],
    ]
    section.blocks.append(
        Table(columns=["what", "value"], rows=[[str(cell) for cell in row] for row in rows], words=True)
    )
    settings = [[name, str(value)] for name, value in run.config.model_dump().items()]
    section.blocks.append(
        Table(columns=["setting", "value"], rows=settings, caption="The whole configuration.", words=True)
    )
    return section
