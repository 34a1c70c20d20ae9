"""Pages of unusual runs: names with special characters, one class, no positives, chips too large to show all."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tifffile
from helpers.chips import Chips, to_store, write_chips, write_csv
from helpers.made_runs import write_run
from helpers.pages import Page

from analysis.audit import audit
from analysis.curves import draw_curves
from analysis.page import Card, Cards, Note, Section, render
from analysis.report import _neighbours, _warn, report
from analysis.slugs import slug
from preprocess.zarr_store import Store


def test_a_test_split_without_positives_has_a_page(tmp_path: Path, session_store: Store) -> None:
    run = write_run(tmp_path / "run", session_store, without=3)
    page = Page(report(run, compare=(), class_name=None, store_path=None))
    for words in ("test mAP none", "95 % interval none", "mAP by chance none", "shown class a none",
                  "No chip of the test split has any class"):  # fmt: skip
        assert words in page.text
    assert re.search(r"\bnan\b", page.text.lower()) is None


@pytest.mark.parametrize(
    ("rule", "present", "absent"),
    [
        ("course", "a random split leaks", "kept together"),
        ("0.7,0.1,0.2@3", "a random split leaks", "kept together"),
        ("blocked", "keeps the duplicates", "a random split leaks"),
        ("blocked + val 0.1", "keeps the duplicates", "a random split leaks"),
        ("scenes.csv", "Curves", "a random split leaks"),
        ("scenes.csv + val 0.1", "Curves", "a random split leaks"),
    ],
)
def test_the_note_about_leaks_depends_on_the_split(rule: str, present: str, absent: str) -> None:
    run = SimpleNamespace(
        made_with=SimpleNamespace(split=SimpleNamespace(rule=rule, epoch_chosen_on="val")), positives=np.ones(3),
        config=SimpleNamespace(shuffle_labels=False), record=SimpleNamespace(state="done"),
    )  # fmt: skip
    section = Section(id="curves", title="Curves")
    _warn(run, section, None)  # type: ignore[arg-type]
    text = " ".join([section.title, *(block.text for block in section.blocks if isinstance(block, Note))])
    assert present in text
    assert absent not in text


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (None, "`make audit` looks for neighbours"), ("0", "The audit found no neighbours"),
        ("1,564", "The audit found 1,564 pairs of neighbours; SPLIT=blocked"),
    ],
)  # fmt: skip
def test_the_note_about_leaks_says_what_the_audit_found(tmp_path: Path, count: str | None, words: str) -> None:
    if count:
        (tmp_path / "tables").mkdir()
        pd.DataFrame({"finding": ["Neighbours"], "count": [count]}).to_csv(
            tmp_path / "tables/findings.csv", index=False
        )
    assert words in _neighbours(tmp_path)


NAMES = ("agri/urban", "a$x_{$", "<b>&\"'")


def test_names_may_contain_characters_of_paths_and_markup(tmp_path: Path, session_chips: Chips) -> None:
    rename = dict(zip("abc", NAMES, strict=True))
    rows = [(f"t_{n}", " ".join(rename[tag] for tag in tags.split())) for n, tags in enumerate(session_chips.tags)]
    write_csv(tmp_path / "tags.csv", rows)
    chips = Chips(session_chips.folder, tmp_path / "tags.csv", session_chips.values, session_chips.tags)
    store = to_store(chips, tmp_path / "chips.zarr", classes=NAMES)
    run = write_run(tmp_path / "a$x_{$", store)
    others = [
        write_run(tmp_path / name, store, seed=n) for n, name in enumerate(('my "run" <b>(2)', "_hidden", "class"))
    ]
    draw_curves(run)
    for name in NAMES[:1]:
        path = report(run, compare=tuple(others), class_name=name, store_path=None)
        page, text = Page(path), path.read_text()
        assert "<b>(2)" not in text
        assert "<b>&" not in text
        assert len(page.ids) == len(set(page.ids))
        assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', text)) <= set(page.ids)
        assert len(list((path.parent / "tables").glob("highest_*.csv"))) == 1
        assert len(list((path.parent / "figures").glob("difference_*.png"))) == 3
    assert "_hidden" in re.findall(r'aria-label="comparison".*?</svg>', text, re.DOTALL)[0]
    for words in ("a$x_{$ 0.", "a$x_{$ (", "agri/urban (", "_hidden - a$x_{$"):
        assert words in page.text
    frame = pd.read_csv(path.parent / "tables/comparison.csv", header=None)
    assert frame.iloc[0].tolist() == ["class", "chance", "a$x_{$", 'my "run" <b>(2)', "_hidden", "class"]
    assert frame[0].tolist() == ["class", *NAMES, "mAP"]


def test_slugs_are_different_valid_file_names() -> None:
    names = ["a b", "a/b", "a_b", "../a", ".a", "", "x" * 300, "x" * 301, "forêt", 'q"<', "a\0b", "a\nb"]
    slugs = [slug(name) for name in names]
    assert len(set(slugs)) == len(names)
    assert (slugs[2], slugs[8]) == ("a_b", "forêt")
    for found in slugs:
        assert re.fullmatch(r"[\w-][\w.-]{0,99}", found)


@pytest.mark.usefixtures("empty_figures")
def test_a_store_of_one_class_has_a_page(tmp_path: Path, session_chips: Chips) -> None:
    rows = [(f"t_{n}", "a" if "a" in tags.split() else "") for n, tags in enumerate(session_chips.tags)]
    write_csv(tmp_path / "tags.csv", rows)
    chips = Chips(session_chips.folder, tmp_path / "tags.csv", session_chips.values, session_chips.tags)
    run = write_run(tmp_path / "run", to_store(chips, tmp_path / "chips.zarr"), without=0)
    report(run, compare=(), class_name=None, store_path=None)
    frame = pd.read_csv(run / "report/tables/f_scores.csv").set_index("score")
    assert frame.loc["F2 macro"].tolist() == frame.loc["F2 micro"].tolist()
    assert (frame > 0).all().all()


@pytest.mark.slow
def test_a_page_of_large_chips_stays_small(tmp_path: Path) -> None:
    """Noise of 512 x 512 pixels, which PNG cannot compress: 1.4 MB of text per chip."""
    chips = write_chips(tmp_path / "tif", count=16, height=512, width=512)
    rng = np.random.default_rng(0)
    for path in sorted(chips.folder.glob("*.tif")):
        values = rng.integers(0, 65536, (512, 512, 4), np.uint16)
        values[:60], values[-60:] = 0, 65535  # partly empty and partly saturated
        tifffile.imwrite(path, values, photometric="minisblack", planarconfig=1)
    for index in range(0, 16, 4):
        shutil.copy(chips.folder / f"t_{index}.tif", chips.folder / f"t_{index + 1}.tif")
    store = to_store(chips, tmp_path / "chips.zarr")
    run = write_run(tmp_path / "run", store)
    page = report(run, compare=(), class_name=None, store_path=None)
    audit(store.path, labels=None, jpeg=None, run_path=None, split_rule=None, exclusive=None)
    for path in (page, tmp_path / "chips.zarr.audit/audit.html"):
        assert path.stat().st_size < 10e6
        shown = Page(path)
        assert len(shown.pictures) >= 8
        assert "are not shown: their images would make the page too large" in shown.text
    # Two highest, three lowest, and the worst of the top losses, each in colour and NIR.
    assert len(Page(page).pictures) == 12


def test_a_chip_is_not_wider_than_a_phone(tmp_path: Path) -> None:
    """The rules that gave the right page in a browser 390 pixels wide: images stacked, none cut, headings wrapped."""
    chip = Card(name="t_0", colour="data:,", nir="data:,", lines=[])
    section = Section(id="chips", title="Chips", blocks=[Cards(title="One", groups=[[chip]], side=256)])
    render(tmp_path / "page.html", title="", subtitle="", facts=[], sections=[section])
    text = (tmp_path / "page.html").read_text()
    rules = dict(re.findall(r"^(\.chip[^{]*) {(.*)}$", text, re.MULTILINE))
    assert "max-width: 100%" in rules[".chip"]
    assert "flex-wrap: wrap" in rules[".chip .pair"]
    assert "max-width: 100%; height: auto" in rules[".chip img"]
    assert '<div class="chip" style="width: 516px">' in text  # two images and a gap, if the window is wide enough
    assert re.search(r"h3[^{]*{[^}]*overflow-wrap: anywhere", text)
