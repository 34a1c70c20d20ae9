"""Pages of data sets with many classes, and with long or foreign names."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.made_runs import write_run
from helpers.pages import Page

from analysis.report import report
from analysis.shown_classes import MAX_CELLS, MAX_PANELS, MAX_ROWS
from preprocess.zarr_store import Store


def with_classes(store: Store, names: tuple[str, ...]) -> Store:
    """The store, in which each chip has a third of these classes."""
    labels = np.random.default_rng(0).random((store.num_chips, len(names))) < 0.3
    return replace(store, classes=names, labels=labels.astype(np.uint8))


@pytest.mark.slow  # half a minute of drawing; three classes: test_report.py
def test_a_page_of_200_classes_shows_some_in_figures_and_all_in_tables(tmp_path: Path, session_store: Store) -> None:
    names = tuple(f"class {number} of a long list of land cover and land use" for number in range(200))
    store = with_classes(session_store, names)
    run, other = (write_run(tmp_path / name, store, seed=seed) for seed, name in enumerate(("one", "two")))
    page = Page(report(run, compare=(other,), class_name=None, store_path=None))
    for count in (MAX_PANELS, MAX_ROWS, MAX_CELLS):
        assert f"{count} of 200 classes: " in page.text
    assert f"The {MAX_ROWS - 1} classes with the largest differences. All: tables/difference_two.csv." in page.text
    assert "Figures shorten or number long names" in page.text
    assert re.search(r"\band [0-9]+ more\.", page.text)  # classes with few positives
    folder = run / "report/tables"
    for table in ("classes", "thresholds", "cooccurrence", "false_alarms"):
        frame = pd.read_csv(folder / f"{table}.csv")
        assert frame["chips_with" if "chips_with" in frame else "class"].tolist() == list(names), table
    assert len(pd.read_csv(folder / "difference_two.csv")) == 1 + 199
    svgs = dict(re.findall(r'<svg role="img" aria-label="([^"]+)"(.*?)</svg>', page.source, re.DOTALL))
    assert svgs["precision recall"].count("clipPath id") == MAX_PANELS
    assert len(re.findall("class [0-9]+ of a long", svgs["cooccurrence"])) == 2 * MAX_CELLS


def test_names_that_no_installed_font_has_are_on_the_page_and_in_one_line_of_the_terminal(
    tmp_path: Path, session_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("水体", "a\U00013000", "forest")
    run = write_run(tmp_path / "run", with_classes(session_store, names))
    page = Page(report(run, compare=(), class_name=None, store_path=None))
    captured = capsys.readouterr()
    assert "no installed font has " in captured.out
    assert "Warning" not in captured.out + captured.err
    for name in names[:2]:
        assert name in page.text
