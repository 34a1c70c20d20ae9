"""No control, direction or invisible character of a file's name, tag or class reaches what a person reads."""

import functools
import io
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import tqdm
from helpers.chips import conversion, write_chips, write_csv
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from preprocess.console import Progress, UserError, is_plain, one_line, run, say
from preprocess.convert import convert
from preprocess.info import info

ANY = st.text(st.characters(exclude_categories=[]))  # lone surrogates, too, as names that are no UTF-8 have them
EVIL = "a\x1b[31m\x07\n\u200f\u202eb\u2066\u200b\ufeff\u00ad\u2028\u3164\ufe0f\udcff\x9b\x7f"
# Default_Ignorable_Code_Point of Unicode's DerivedCoreProperties.txt, unassigned code points left out.
IGNORABLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)


def seen_as_it_is(text: str) -> bool:
    """By Unicode's own categories: no control, format, surrogate, private, unassigned or separating character."""
    odd = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    return not any(unicodedata.category(c) in odd or IGNORABLE.match(c) for c in text)


@given(text=ANY)
@example(EVIL)
def test_one_line_shows_every_character_and_changes_no_plain_one(text: str) -> None:
    shown = one_line(text)
    assert seen_as_it_is(shown)
    shown.encode("utf-8")
    if is_plain(text):
        assert shown == text
    # Nothing is lost: where the text itself has no backslash, the escapes read back.
    if "\\" not in text and seen_as_it_is(text.replace("\u3000", " ")):
        assert len(shown) >= len(text)


def test_every_ignorable_character_is_escaped_and_letters_are_not() -> None:
    for code in range(0x110000):
        character = chr(code)
        assert is_plain(character) <= seen_as_it_is(character)
        if unicodedata.category(character)[0] in "LN" and not IGNORABLE.match(character):
            assert is_plain(character)
    assert one_line("Forêt 森林 лес a\u0301 \\ $x$ <b>") == "Forêt 森林 лес a\u0301 \\ $x$ <b>"
    assert one_line("a\nb\x1b\u200f\U000e0101") == "a\\nb\\x1b\\u200f\\U000e0101"


@quick
@given(text=ANY)
@example(EVIL)
def test_lines_errors_and_progress_are_escaped(capsys: pytest.CaptureFixture[str], text: str) -> None:
    say(text)
    with pytest.raises(SystemExit):
        run(mock.Mock(side_effect=UserError(text)))
    with mock.patch("preprocess.console.LOG_EVERY_S", 0), Progress(text, total=2, unit="chips") as progress:
        progress.update(1, text)
    printed = capsys.readouterr()
    assert [seen_as_it_is(part) for part in (printed.out + printed.err).split("\n")] == [True] * 4
    assert printed.err == f"error: {one_line(text)}\n"
    assert printed.out.startswith(one_line(text) + "\n")


@pytest.mark.parametrize(("every_s", "seconds"), [(60.0, 60), (None, 10)])
def test_a_log_gets_a_line_of_progress_per_minute_or_per_ten_seconds(
    capsys: pytest.CaptureFixture[str], every_s: float | None, seconds: int
) -> None:
    clock = SimpleNamespace(now=1000.0)
    made = SimpleNamespace(monotonic=lambda: clock.now)
    lines = []
    with (
        mock.patch("preprocess.console.time", made),
        Progress("convert", total=400, unit="chips", done=100, every_s=every_s, megabytes=30) as progress,
    ):
        for tenth in range(1, 251):  # a chip per tenth of the interval
            clock.now = 1000 + seconds * tenth / 10
            progress.update(1, "2 workers, 7 shards left")
            if printed := capsys.readouterr().out:
                lines.append((tenth, printed))
    assert [tenth for tenth, _ in lines] == list(range(10, 251, 10))
    rate = 10 / seconds
    assert lines[0][1] == (
        f"convert: 110/400 chips (27 %), {rate:.1f} chips/s, {290 / rate:.0f} s left; {30 * rate:.0f} MB/s, "
        "2 workers, 7 shards left\n"
    )


def test_a_bar_on_a_terminal_is_escaped() -> None:
    terminal = io.StringIO()
    with (
        mock.patch("sys.stderr", terminal),
        mock.patch.object(terminal, "isatty", return_value=True, create=True),
        mock.patch("tqdm.tqdm", functools.partial(tqdm.tqdm, mininterval=0)),  # draws after every update
        Progress("convert", total=2, unit="chips") as progress,
    ):
        progress.update(1, EVIL)
    assert "\\u200f" in terminal.getvalue()
    assert seen_as_it_is(terminal.getvalue().replace("\r", ""))


def test_a_terminal_in_ascii_gets_escapes(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "from preprocess.console import run, say\nrun(lambda: say('Forêt 森林') or 0)"],
        env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (0, "For\\xeat \\u68ee\\u6797\n")


@pytest.mark.parametrize("row", [f"{EVIL[:8]}\t,x", "a,x\x1by", "\u202ea,x", "a,\u200fx\u200b y"])
def test_refused_rows_are_shown_escaped(tmp_path: Path, refused: Callable, row: str) -> None:
    chips = write_chips(tmp_path / "tif", count=1)
    (tmp_path / "t.csv").write_text(f"image_name,tags\n{row.replace(chr(10), '')}\n", encoding="utf-8")
    text = refused(lambda: convert(conversion(data=chips.folder, labels=tmp_path / "t.csv", store=tmp_path / "s.zarr")))
    assert seen_as_it_is(one_line(text))


def test_a_conversion_and_info_show_classes_and_names_escaped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chips = write_chips(tmp_path / "tif", count=4)
    name = "\u202e\x1b[7m"
    (chips.folder / "t_0.tif").rename(chips.folder / f"{name}.tif")
    rows = [(name, "Inland waters;a, b"), ("t_1", "a, b"), ("t_2", ""), ("t_3.jpg", "c")]
    write_csv(tmp_path / "t.csv", rows)
    convert(conversion(data=chips.folder, labels=tmp_path / "t.csv", store=tmp_path / "s.zarr", tags_separator=";"))
    printed = capsys.readouterr().out
    assert '4 chips, 3 classes (Inland waters,"a, b",c), bands' in printed
    info(tmp_path / "s.zarr", "0.5,0.5")
    shown = capsys.readouterr().out
    assert "labels       read with TAGS_SEPARATOR=';'" in shown
    assert all(seen_as_it_is(line) for line in (printed + shown).split("\n"))
    assert [line.split()[0] for line in shown.splitlines()[-5:]] == ["class", "Inland", "a,", "c", "chips"]


def test_pages_figures_and_curves_show_names_escaped(tmp_path: Path) -> None:
    from analysis import plots
    from analysis.figures import Figures, new, panels
    from analysis.page import Note, Section, render
    from train.contract.metrics import EpochLine
    from train.telemetry import scalars

    evil = EVIL.replace("\udcff", "")
    figure, axes = new(evil, "x", "y")
    axes.plot([0, 1], label=evil)
    axes.legend()
    section = Section(id="s", title=evil, blocks=[Note(text=f"a\n{evil}", kind="code")])
    figures = Figures(folder=tmp_path / "figures")
    section.plot(figures.add("x", figure), evil)
    ap = np.array([0.5])
    section.plot(figures.add("y", panels([evil], evil, evil, evil)[0]))
    section.plot(figures.add("heat", plots.heat(np.eye(1), (evil,), evil, evil, evil)))
    section.plot(figures.add("bars", plots.grouped_bars((evil,), [(evil, ap)], evil, evil, ap)))
    section.plot(figures.add("differences", plots.differences([(evil, 0.1, 0.0, 0.2)], evil)))
    render(tmp_path / "p.html", title=evil, subtitle=evil, facts=[(evil, evil)], sections=[section])
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert all(seen_as_it_is(line) for line in page.replace("\t", "").split("\n"))
    assert "\\u202e" in page
    line = EpochLine(
        epoch=1, lr=0.1, train_loss=1.0, train_map=0.5, train_ap={EVIL: 0.5}, chips_per_s=1.0, wait_share=0.0,
        train_s=1.0, seconds={}, first_wait_s=0.0, test_loss=1.0, test_map=0.5, test_ap={EVIL: 0.5},
    )  # fmt: skip
    assert f"AP_test/{one_line(EVIL)}" in scalars(line)


def test_ctrl_c_in_a_callback_where_python_ignores_exceptions_ends_the_command() -> None:
    """As in Dask's callback of the garbage collector."""
    code = (
        "import os, signal, sys, time\n"
        "from preprocess.console import run\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Interrupted:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(0)\n"
        "def main():\n"
        "    made = Interrupted()\n"
        "    del made\n"
        "    print('goes on')\n"
        "    sys.stdout.flush()\n"
        "    time.sleep(300)\n"
        "run(main)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "goes on\n", "stopped by Ctrl-C\n")
