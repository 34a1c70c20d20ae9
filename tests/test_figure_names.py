"""Names in figures: short, different from each other, drawn without a warning."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from analysis import plots
from analysis.figure_fonts import fonts_for, without_glyph
from analysis.figure_names import TICK_COLUMNS, are_cut, chosen, panel_titles, shown, text_width
from analysis.figures import Figures
from analysis.shown_classes import by_ap, most_frequent

LONG = "Land principally occupied by agriculture, with significant areas of natural vegetation"
CHINESE = "水体和湿地"
NO_FONT = "\U00013000"  # an Egyptian hieroglyph


def test_short_names_are_shown_as_they_are() -> None:
    names = ["agriculture", "a$x_{$", "forêt", "x" * TICK_COLUMNS]
    assert shown(names) == names
    assert not are_cut(names)


def test_long_names_are_cut_and_stay_different() -> None:
    names = [LONG, LONG + " 2", "water", LONG + " 3", *(f"{LONG} {letter} {LONG}" for letter in "ab")]
    short = shown(names)
    assert are_cut(names)
    assert max(map(text_width, short)) <= TICK_COLUMNS
    assert len(set(short)) == len(names)
    assert short[2] == "water"
    assert shown([LONG])[0] == "Land principally occupied by agricu…"
    assert short[1].startswith("Land princip")
    assert short[1].endswith("vegetation 2")  # cut in the middle, since the beginnings are equal
    assert short[4].startswith("5: Land")  # beginning and end are equal, too
    assert chosen(names, [2, 4]) == [short[2], short[4]]


def test_wide_characters_count_as_two_columns() -> None:
    (short,) = shown(["水" * 30])
    assert text_width("水a") == 3
    assert TICK_COLUMNS - 2 < text_width(short) <= TICK_COLUMNS


def test_a_name_that_no_font_has_gets_its_number() -> None:
    assert without_glyph("water") == frozenset()
    assert without_glyph(f"a{NO_FONT}") == {NO_FONT}
    assert shown(["water", f"a{NO_FONT}"]) == ["water", f"2: a{NO_FONT}"]


def test_titles_of_panels_are_broken_at_spaces() -> None:
    titles = panel_titles([LONG, "conventional_mine", "水" * 40, "x" * 80], [0, 1, 2, 3], ["0.123"] * 4)
    assert titles[1] == "conventional_mine 0.123"
    for title in titles:
        assert title.endswith("0.123")
        assert len(title.split("\n")) <= 3
        assert max(map(text_width, title.split("\n"))) <= 23
    assert titles[0].split("\n")[0] == "Land principally"
    assert panel_titles(["a", "b"], [1]) == ["b"]


@pytest.mark.parametrize("names", [(LONG, LONG + " 2"), (CHINESE, "water"), (f"a{NO_FONT}", "森林")])
def test_figures_with_any_names_are_drawn_without_a_warning(tmp_path: Path, names: tuple[str, ...]) -> None:
    figures, values = Figures(folder=tmp_path), np.array([0.5, 0.25])
    heat = plots.heat(np.eye(2), names, names[0], "x", "y")
    svg = figures.add("heat", heat)
    assert shown(names)[0] in svg
    assert _is_inside(heat.axes[0])
    bars = plots.grouped_bars(names, [(names[1], values)], "t", "AP", values)
    figures.add("bars", bars)
    assert _is_inside(bars.axes[0])
    assert {path.name for path in tmp_path.iterdir()} == {"heat.png", "bars.png"}


def _is_inside(axes: Axes) -> bool:
    """Whether the names beside the axes are inside the figure, and the axes have more than a fifth of its width."""
    with fonts_for([label.get_text() for label in axes.get_yticklabels()]):
        boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    figure = axes.figure
    assert figure is not None
    share = axes.get_window_extent().width / figure.bbox.width
    return bool(min(box.x0 for box in boxes) >= 0 and share > 0.2)


def test_of_many_classes_those_with_the_highest_and_lowest_ap_are_shown() -> None:
    ap = np.array([0.5, np.nan, 0.9, 0.1, 0.7, 0.3, 0.99])
    positives = np.array([50, 0, 50, 50, 50, 50, 3])
    choice = by_ap(ap, positives, 4)
    assert choice.classes.tolist() == [2, 3, 4, 5]
    assert choice.note == (
        "4 of 7 classes: the 2 with the lowest and the 2 with the highest AP, among those with 30 positives or more."
    )
    assert by_ap(ap, positives, 7).classes.tolist() == list(range(7))
    assert by_ap(ap, positives, 7).note == ""


def test_of_many_rare_classes_the_most_frequent_are_shown() -> None:
    positives = np.array([2, 0, 5, 4, 5])
    choice = by_ap(np.full(5, 0.5), positives, 2)
    assert choice.classes.tolist() == [2, 4]
    assert choice.note == "2 of 5 classes: those with the most positives."
    assert most_frequent(positives, 5).classes.tolist() == [0, 1, 2, 3, 4]
