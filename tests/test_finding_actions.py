"""What an audit says to do about a finding depends on the split, the run, and the other findings."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.changed_runs import changed
from helpers.made_runs import write_run

from analysis.finding_actions import action, most_urgent_first
from analysis.findings import Check, Finding
from analysis.finished_run import Run, load_run
from analysis.label_checks import doubted_labels
from preprocess.zarr_store import Store


@pytest.fixture(scope="module")
def run(session_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return load_run(write_run(tmp_path_factory.mktemp("actions") / "run", session_store))


def pairs(count: int, check: Check = Check.NEIGHBOURS, *, is_leak: bool = False) -> Finding:
    return Finding(
        check=check, about="", chips=np.zeros((count, 2), np.int64), reasons=[""] * count, is_leak=is_leak
    )  # fmt: skip


def test_pairs_within_a_split_need_nothing_and_pairs_across_it_the_command_of_the_run(
    session_store: Store, run: Run
) -> None:
    inside, none, leak = pairs(3), pairs(0, is_leak=True), pairs(1, is_leak=True)
    assert action(inside, [inside, none], session_store, None).startswith("Nothing to do with this split")
    assert action(inside, [inside, leak], session_store, None) == 'See "Neighbours, in train and in test".'
    plain = f"make train TASK=1 STORE={session_store.path} SPLIT=blocked"
    assert action(leak, [inside, leak], session_store, None) == f"Keep them in one split: {plain}"
    of_four: Any = changed(run)
    of_four.config = run.config.model_copy(update={"task": 4, "epochs": 30, "store": "moved.zarr"})
    assert action(leak, [inside, leak], session_store, of_four).startswith("Keep them in one split: make train TASK=4 ")
    for word in (f"STORE={session_store.path}", "EPOCHS=30", "SPLIT=blocked"):
        assert word in action(leak, [inside, leak], session_store, of_four).split()


def test_a_split_that_can_judge_no_class_is_called_so(session_store: Store) -> None:
    some = Finding(check=Check.UNJUDGED_CLASSES, about="", table=pd.DataFrame({"class": ["a"]}))
    every = replace(some, table=pd.DataFrame({"class": list(session_store.classes)}))
    assert action(some, [some], session_store, None).startswith("Judge a model by the other classes.")
    assert action(every, [every], session_store, None).startswith("This split can judge no class")


def test_leaks_come_first_and_findings_that_need_nothing_last() -> None:
    shuffled = [
        pairs(1), pairs(1, is_leak=True), *[pairs(1, check) for check in (Check.SATURATED, Check.NO_TAG)],
        pairs(1, Check.EXACT_DUPLICATES), pairs(1, Check.ABSENT_CLASSES),
    ]  # fmt: skip
    assert [finding.title for finding in most_urgent_first(shuffled)] == [
        "Neighbours, in train and in test", "Classes absent from a split", "No tag", "Saturated", "Exact duplicates",
        "Neighbours",
    ]  # fmt: skip


@pytest.mark.parametrize("check", Check)
def test_there_is_something_to_do_about_each_check(check: Check, session_store: Store) -> None:
    finding = pairs(1, check)
    assert action(finding, [finding], session_store, None).endswith((".", "SPLIT=blocked"))


def test_tags_of_a_class_that_the_run_scores_no_better_than_chance_are_not_doubted(
    tmp_path: Path, session_store: Store
) -> None:
    run = load_run(write_run(tmp_path / "run", session_store, skill=6))
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(run.names), 400)
    labels = run.labels[rows]
    logits = 8.0 * labels - 4 + rng.normal(0, 0.3, labels.shape)
    logits[:, 0] = rng.normal(0, 3, len(rows))  # scores without any information, and without any caution
    ap = np.array([labels[:, 0].mean(), *np.ones(labels.shape[1] - 1)])
    guess: Any = changed(run, labels=labels, logits=logits, names=run.names[rows], ap=ap)
    finding = doubted_labels(session_store, guess)
    assert not [reason for reason in finding.reasons if reason.startswith(run.classes[0])]
    assert finding.about.endswith(f"no better than chance: {run.classes[0]}.")
    guess.logits[:, 0] = 8.0 * labels[:, 0] - 4
    guess.logits[:3, 0] *= -1
    guess.probabilities = 1 / (1 + np.exp(-guess.logits))
    assert doubted_labels(session_store, guess).reasons
