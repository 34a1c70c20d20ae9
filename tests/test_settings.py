"""Settings: words on a command line become checked values, or one line that says what is wrong."""

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import field_validator

from preprocess.console import UserError
from preprocess.setting_specs import specs
from preprocess.settings import Settings, read_words, setting
from preprocess.settings_table import WIDTH, markdown_table, terminal_table


class First(Settings):
    heading: ClassVar[str] = "First"

    task: Literal[1, 3, 4] = setting(..., "What is trained.", example="TASK=1 (or 3, 4)")
    flips: Literal["none", "both", "dihedral"] = setting("none", "Flips. " + "Every chip is seen in several ways. " * 5)
    epochs: int = setting(12, "How long.", ge=1, le=100_000, on_resume=True)
    store: Path | None = setting(None, "Where.", default_text="nowhere")


class Second(Settings):
    heading: ClassVar[str] = "Second"

    rate: float = setting(0.5, "How fast.", gt=0, le=1e30)
    share: float = setting(0.0, "How much.", ge=0, lt=1)
    exact: bool = setting(False, "To the bit.")
    bands: tuple[str, ...] = setting((), "Which.")
    class_name: str = setting("a", "Of what.", word="CLASS")
    own: int = setting(0, "The program's.", hidden=True)

    @field_validator("class_name")
    @classmethod
    def _is_short(cls, text: str) -> str:
        if len(text) > 3:
            raise ValueError("a short name")
        return text


class Both(Second, First):
    """Two groups."""


NUMBERS = (
    "1_000",
    "\uff11",
    " 3",
    "3 ",
    "nan",
    "inf",
    "1e400",
    "0x10",
    "",
    "\u0663",
    "1,5",
    "--1",
    "1e",
    ".",
    "9" * 5000,
)


def read(*words: str) -> dict[str, Any]:
    return read_words(words, Both, command="train")


def test_words_become_values_of_their_types() -> None:
    words = [
        "TASK=3", "FLIPS=both", "EPOCHS=+7", "STORE=a b=c", "RATE=1e-3", "SHARE=.25", "EXACT=1", 'BANDS="a, b",c',
        "CLASS= x",
    ]  # fmt: skip
    settings = Both.from_words(words, "train")
    assert settings.model_dump() == {
        "task": 3, "flips": "both", "epochs": 7, "store": Path("a b=c"), "rate": 0.001, "share": 0.25, "exact": True,
        "bands": ("a, b", "c"), "class_name": " x", "own": 0,
    }  # fmt: skip
    assert [type(value) for value in (settings.rate, settings.exact, settings.task)] == [float, bool, int]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["EPOCH=3"], "EPOCH is not a setting of train. Did you mean EPOCHS? `make help COMMAND=train` lists them."),
        (["epochs=3"], "epochs is not a setting of train. Did you mean EPOCHS?"),
        (["XYZ=3"], "XYZ is not a setting of train. `make help COMMAND=train` lists them."),
        (["OWN=3"], "OWN is not a setting of train."),
        (["CLASS_NAME=a"], "CLASS_NAME is not a setting of train."),
        (["--epochs=3"], "--epochs=3: expected NAME=value, such as EPOCHS=number."),
        (["--epochs"], "--epochs: expected NAME=value, such as EPOCHS=number."),
        (["runs/task1"], "runs/task1: expected NAME=value, such as TASK=1 (or 3, 4)."),
        (["STORE=s3://a/b"], "STORE=s3://a/b: expected a path on disk, found an address. Copy it here first."),
        (["EPOCHS=3", "EPOCHS=3"], "EPOCHS is given twice. Leave one of them out."),
        (["STORE="], "STORE is given, but empty. Give it a value, or leave it out."),
        (["TASK=5"], "TASK=5: expected one of 1, 3, 4."),
        (["FLIPS=dihedrl"], "FLIPS=dihedrl: expected one of none, both, dihedral. Did you mean FLIPS=dihedral?"),
        (["FLIPS=BOTH"], "FLIPS=BOTH: expected one of none, both, dihedral. Did you mean FLIPS=both?"),
        (["EXACT=yes"], "EXACT=yes: expected 0 or 1."),
        (["EPOCHS=1.5"], "EPOCHS=1.5: expected a whole number from 1 to 100,000."),
        (["TASK=1", "EPOCHS=0"], "EPOCHS=0: expected a whole number from 1 to 100,000."),
        (["TASK=1", "RATE=0"], "RATE=0.0: expected a number above 0, at most 1e+30."),
        (["TASK=1", "SHARE=1"], "SHARE=1.0: expected a number from 0 to less than 1."),
        (["TASK=1", "SHARE=-0.0"], "SHARE=-0.0: expected a number from 0 to less than 1."),
        (["TASK=1", "CLASS=many"], "CLASS=many: expected a short name."),
        (["TASK=1", "CLASS=a\0"], "CLASS=a\\x00: expected no NUL character."),
        (["TASK=1", "STORE=a\0"], "STORE=a\\x00: expected no NUL character."),
        (['BANDS="a'], 'BANDS: expected a closing quote (") in the same line'),
        (["EPOCHS=3"], "TASK is not set. Add TASK=1 (or 3, 4)."),
        (["FLIPS=" + "x" * 1000], f"FLIPS={'x' * 80}...: expected one of none, both, dihedral."),
        (["FLIPS=a\nb\x1b"], "FLIPS=a\\nb\\x1b: expected one of none, both, dihedral."),
    ],
)
def test_what_cannot_be_read_is_one_line(refused: Callable, words: list[str], line: str) -> None:
    assert refused(lambda: Both.from_words(words, "train")).startswith(line)


@pytest.mark.parametrize("name", ["EPOCHS", "RATE", "SHARE"])
@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_that_only_python_reads_are_refused(refused: Callable, name: str, text: str) -> None:
    line = refused(lambda: read(f"{name}={text}"))
    assert line.startswith(f"{name}=" if text else f"{name} is given, but empty")
    assert len(line) < 200


@given(st.sampled_from(sorted(specs(Both))), st.text(min_size=1))
def test_any_text_of_any_setting_is_a_value_or_one_line(name: str, text: str) -> None:
    word = specs(Both)[name].word
    line = word
    try:
        Both.from_words([*(["TASK=1"] if word != "TASK" else []), f"{word}={text}"], "train")
    except UserError as error:
        line = str(error)
    assert "\n" not in line
    assert len(line) < 500
    assert word in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task", True), ("task", 1.0), ("task", "1"), ("task", None), ("flips", None), ("epochs", True),
        ("epochs", 3.0), ("epochs", "3"), ("epochs", None), ("epochs", 10**400),
        ("rate", True), ("rate", "1"), ("rate", math.nan),
        ("rate", math.inf), ("rate", 10**400), ("share", -0.0), ("exact", 1), ("exact", "1"), ("bands", "a"),
        ("bands", (1,)), ("bands", ("a\0",)), ("store", "a"), ("class_name", b"a"), ("own", [1]),
    ],
)  # fmt: skip
def test_values_of_other_types_are_refused(refused: Callable, name: str, value: object) -> None:
    line = refused(lambda: Both(**{"task": 1, name: value}))
    assert line.startswith(f"{specs(Both)[name].word}=")


def test_a_float_takes_a_whole_number_and_surrogates_of_a_file_name_stay() -> None:
    settings = Both(task=1, rate=1, store=Path("a\udcff"), class_name="\udcff")
    assert (settings.rate, settings.store, settings.class_name) == (1.0, Path("a\udcff"), "\udcff")


def test_settings_do_not_change_and_replace_checks_again(refused: Callable) -> None:
    settings = Both(task=1)
    with pytest.raises(ValueError, match="frozen"):
        settings.epochs = 3
    assert settings.replace(epochs=3) == Both(task=1, epochs=3)
    assert refused(lambda: settings.replace(epochs=0)).startswith("EPOCHS=0: expected a whole number")
    assert refused(lambda: settings.replace(speed=0)).startswith("speed is not a setting of Both")


def test_of_two_models_the_first_decides_how_a_word_is_read() -> None:
    class Third(Settings):
        epochs: str = setting("a", "A text.")
        more: str = setting("a", "More.")

    assert read_words(["EPOCHS=3", "MORE=x"], First, Third, command="train") == {"epochs": 3, "more": "x"}
    assert read_words(["EPOCHS=3"], Third, First, command="train") == {"epochs": "3"}


def test_the_table_of_a_terminal_shows_every_setting_in_its_group_and_is_100_columns_wide() -> None:
    lines = terminal_table(Both).splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert [line for line in lines if line and line[0] != " "] == ["First", "Second"]
    words = [line.split("=")[0].strip() for line in lines if line.startswith("  ") and line[2] != " "]
    assert words == ["TASK", "FLIPS", "EPOCHS", "STORE", "RATE", "SHARE", "EXACT", "BANDS", "CLASS"]
    assert "  EPOCHS=number           How long. You may set it again with RESUME. Default: 12." in lines
    assert "  TASK=1|3|4              What is trained. It must be set." in lines
    assert "  STORE=path              Where. Default: nowhere." in lines


def test_the_markdown_table_has_a_row_per_setting() -> None:
    lines = markdown_table(Both).splitlines()
    rows = [line for line in lines if line.startswith("| `")]
    assert len(rows) == len(specs(Both)) - 1
    assert "| `EPOCHS` | `number` | `12` | How long. You may set it again with RESUME. |" in rows
    assert "| `TASK` | `1`, `3`, `4` | must be set | What is trained. |" in rows
    assert [line for line in lines if line.startswith("**")] == ["**First**", "**Second**"]


def test_worker_processes_load_no_settings() -> None:
    """They start with each conversion, and pydantic takes 0.2 s to load."""
    modules = "preprocess.write, preprocess.lz4, preprocess.verify, preprocess.splits, preprocess.labels"
    code = f"import sys, {modules}; print('pydantic' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"
