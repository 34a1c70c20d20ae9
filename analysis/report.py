"""`make report`: write one HTML page about a run, with figures as PNG and tables as CSV, into RUN/report/.

In: run folders and, for the images, the store; the tables of its audit, if there is one. Needs neither a GPU nor torch.
Leaves the numbers to `tail`, `ranking`, `class_metrics`, `f2_thresholds`, `single_label` and `comparison`, the sections
to `chip_sections`, `top_losses`, `score_sections` and `run_sections`.
"""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analysis import bootstrap, class_metrics, comparison
from analysis.chip_sections import Artifacts, curves, task_2
from analysis.compare import how_scored
from analysis.figure_fonts import without_glyph
from analysis.figures import Figures
from analysis.finished_run import Run, load_run
from analysis.page import Note, Section, Tables, render
from analysis.ranking import rank
from analysis.run_sections import audit_folder, how_averaged, members, provenance, reproduction, summary
from analysis.score_sections import compared, decided, each_class
from analysis.single_label import has_one_class, one_class_section, single_label
from analysis.top_losses import top_losses
from preprocess.console import Progress, UserError, say
from preprocess.zarr_store import Store, open_store

if TYPE_CHECKING:  # it needs torch
    from analysis.grad_cam import CamMaker


def report(
    run_path: Path, *, compare: tuple[Path, ...], class_name: str | None, store_path: str | None, cam: bool = False
) -> Path:
    """Make the report and return its path. `cam`: show where the network looks in the top losses; needs torch.

    Raises:
        UserError: a run cannot be read, runs cannot be compared, or the class does not exist.
    """
    run = load_run(run_path)
    others = [load_run(path) for path in compare]
    names = [run.name, *(other.name for other in others)]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"COMPARE: expected runs with different names, found {', '.join(repeated)} more than once.")
    for other in others:
        comparison.check_comparable(run, other)
    ranking = rank(run, class_name)
    store = _store(run, store_path)
    cam_maker = _cam_maker(run, store) if cam else None
    folder = run_path / "report"
    artifacts = Artifacts(figures=Figures(folder=folder / "figures"), tables=Tables(folder=folder / "tables"))
    resampled = bootstrap.bootstrap_ap(run.labels, run.logits)
    differences = [comparison.difference(run, other, resampled) for other in others]
    single = single_label(run.labels, run.logits) if has_one_class(run.labels) else None
    makers: list[Callable[[], Section]] = [
        lambda: summary(run, store, artifacts, bootstrap.interval(resampled)),
        lambda: members(run, artifacts) if run.record.evaluation else curves(run, artifacts),
        lambda: task_2(run, ranking, store, artifacts),
        lambda: top_losses(run, store, artifacts, cam_maker),
        *([lambda: one_class_section(run, single, artifacts)] if single else []),
        lambda: each_class(run, resampled, artifacts),
        lambda: decided(run, artifacts),
        *([lambda: compared(run, differences, artifacts)] if others else []),
        lambda: reproduction(run, artifacts),
        lambda: provenance(run),
    ]
    sections = []
    with Progress("report", total=len(makers), unit="sections") as progress:
        for make in makers:
            sections.append(make())
            progress.update(1, sections[-1].title)
    _warn(run, sections[0], audit_folder(store))
    _say_missing_glyphs(run, folder)
    low, high = (float(bound) for bound in bootstrap.interval(class_metrics.mean_over_classes(resampled)))
    best = run.classes[ranking.class_index]
    split, chance = run.made_with.split, run.positives / len(run.labels)
    render(
        folder / "report.html",
        title=f"{run.name}: {_network(run)}",
        subtitle=f"{len(run.names):,} test chips, {len(run.classes)} classes; {_origin(run)}",
        facts=[
            ("test mAP", _number(run.mean_ap)),
            ("95 % interval", f"{_number(low)} to {_number(high)}" if low <= high else "none"),
            *([("accuracy", f"{single.accuracy:.4f}")] if single else []),
            ("mAP by chance", _number(float(class_metrics.mean_over_classes(np.where(chance > 0, chance, np.nan))))),
            ("classes with positives", f"{int((run.positives > 0).sum())} of {len(run.classes)}"),
            (
                f"{'chosen' if class_name else 'shown' if ranking.is_luck else 'best'} class",
                f"{best} {_number(run.ap[ranking.class_index])} (chance {chance[ranking.class_index]:.4f})",
            ),
            ("split", Path(split.rule).name),
        ],
        sections=sections,
    )
    artifacts.figures.tidy()
    artifacts.tables.tidy()
    say(f"{folder / 'report.html'}: the report ({len(artifacts.figures.names)} figures; tables in {folder / 'tables'})")
    return folder / "report.html"


def _network(run: Run) -> str:
    return how_scored(run) if run.record.evaluation else f"task {run.config.task}, {run.config.arch}"


def _origin(run: Run) -> str:
    if run.record.evaluation:
        return how_averaged(run.record.evaluation)
    epoch = f"epoch {run.epoch} of {len(run.history)}, chosen on {run.made_with.split.epoch_chosen_on}"
    return f"recipe {run.config.recipe}; {epoch}"


def _number(value: float) -> str:
    return "none" if np.isnan(value) else f"{value:.4f}"


def _cam_maker(run: Run, store: Store | str) -> "CamMaker":
    from analysis.grad_cam import CamMaker

    return CamMaker(run, store)


def _store(run: Run, store_path: str | None) -> Store | str:
    """The run's store, or the reason why it cannot be opened. A store given by the user must be the right one."""
    path = store_path or run.config.store
    expected = run.made_with.store.fingerprint
    try:
        store = open_store(path)
        if store.fingerprint != expected:
            raise UserError(
                f"{path}: expected the store with fingerprint {expected[:12]}, found {store.fingerprint[:12]}."
            )
    except UserError as error:
        if store_path is not None:
            raise
        say(f"no images in the report: {error} If the store has moved, give STORE=....")
        return str(error)
    return store


def _say_missing_glyphs(run: Run, folder: Path) -> None:
    if missing := sorted(without_glyph("".join(run.classes))):
        more = f" and {len(missing) - 5} other characters" if len(missing) > 5 else ""
        say(
            f"{folder / 'figures'}: no installed font has {' '.join(missing[:5])}{more} of the classes' names. The PNG "
            "files show boxes and the numbers of the classes; the page shows the names. Install a font that has them, "
            "such as Noto Sans CJK, and make the report again."
        )


def _neighbours(audit: Path | None) -> str:
    """What the audit found, if there is one."""
    table = audit / "tables/findings.csv" if audit else None
    if table is None or not table.is_file():
        return "`make audit` looks for neighbours; SPLIT=blocked keeps those that it finds in one split."
    with open(table, newline="", encoding="utf-8") as file:
        found = {row.get("finding"): row.get("count") for row in csv.DictReader(file)}
    if found.get("Neighbours", "0") == "0":
        return "The audit found no neighbours; in chips of few pixels it cannot detect many."
    return f"The audit found {found['Neighbours']} pairs of neighbours; SPLIT=blocked keeps them in one split."


def _warn(run: Run, section: Section, audit: Path | None) -> None:
    """Add warnings to the first section that a reader needs before trusting the scores. `audit`: the folder of an audit
    of the store."""
    warnings = []
    if run.made_with.split.epoch_chosen_on == "test":
        last = f" (mAP {_number(run.history[-1].mean_ap('test'))} at the last epoch)" if run.history else ""
        effect = f", so test scores are optimistic{last}"
        if run.epoch == len(run.history):
            effect = ". It is the last one, so the choice raised no score this time"
        warnings.append(
            f"The epoch was chosen on the test split{effect}. VAL=0.1 selects the epoch on held-out training data."
        )
    rule = run.made_with.split.rule.partition(" + val ")[0]
    if rule == "blocked":
        warnings.append(
            "The split keeps the duplicates and neighbours found by `make audit` together, and with coordinates the "
            "chips of a block of ground. Undetected neighbours, and chips at the edges of blocks, leak."
        )
    elif rule != "column" and not rule.endswith(".csv"):
        warnings.append(
            "Where chips are neighbours in one scene, a random split leaks from train to test, and scores are "
            f"optimistic. {_neighbours(audit)}"
        )
    if not run.positives.any():
        warnings.append("No chip of the test split has any class, so there is no AP and no statement about the model.")
    if run.config.shuffle_labels:
        warnings.append("The labels were shuffled (SHUFFLE_LABELS=1): these scores are chance level.")
    if run.record.state != "done":
        warnings.append(f"The run is not done (state: {run.record.state}).")
    section.blocks += [Note(text=text, kind="warn") for text in warnings]
