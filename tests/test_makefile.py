"""The text of a variable on Make's command line reaches the program as it was typed, and nothing in it is executed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[1]
# A program in the place of VENV/bin/python that notes its arguments; `-c` is run, with itself as the interpreter.
STUB = """#!{python}
import json, os, sys
if sys.argv[1] == "-c":
    sys.executable = sys.argv[0]
    exec(sys.argv[2])
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
"""
NASTY = (
    "x'; touch pwned; '",
    '"; touch pwned; "',
    "$(shell touch pwned)",
    "$$(touch pwned) $${HOME} $$",
    "`touch pwned`",
    "${shell touch pwned}$(RUN)$@",
    "it's.zarr",
    "-x --y=1",
    "a\nb\n\ttouch pwned",
    "# no comment \\# 100 %d %",
    "back\\slash \\n \\",
    "spaces  \tand tabs  ",
    "a,b;c|d & touch pwned &&",
    "ünï ‏ \x1b[31m\x07 $(error stop)",
    "*?[a-z]~!!",
    ")(,$,",
)
ZARR = [
    "data", "labels", "labels-format", "tags-separator", "name-column", "tags-column", "csv-separator",
    "preset", "bands", "classes", "codec", "jobs",
]  # fmt: skip
TRAIN = [
    "task", "gpu", "run", "resume", "recipe", "arch", "weights", "conv1", "finetune", "input", "split", "val",
    "seed", "test", "crop", "flips", "amp", "compile", "epochs", "batch", "accumulate", "lr", "loss", "set",
    "workers", "cache", "decode", "checkpoint-minutes", "tracker",
]  # fmt: skip
# target: (program, options that it passes on)
TARGETS = {
    "zarr": ("preprocess convert", [*ZARR, "store"]),
    "verify": ("preprocess verify", ["store", "jobs"]),
    "info": ("preprocess info", ["store", "split"]),
    "train": ("train", ["store", *TRAIN]),
    "reproduce": ("analysis reproduce", ["run", "store", "gpu"]),
    "curves": ("analysis curves", ["run"]),
    "report": ("analysis report", ["run", "compare", "class", "store"]),
    "audit": ("analysis audit", ["store", "labels", "jpeg", "run", "split", "exclusive"]),
    "predict": ("analysis predict", ["run", "data", "out", "bands", "gpu"]),
    "export": ("analysis export", ["run", "store"]),
    "bench": ("bench", ["mode", "rounds", "rows", "store"]),
    "tune": ("train.tune", ["store", "gpu", "batch"]),
}


class Make:
    """`make` in a folder with the project's Makefile and a stub instead of a Python."""

    def __init__(self, folder: Path, venv: str = ".venv") -> None:
        self.folder, self.calls = folder, folder / "calls"
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder)
        (folder / venv / "bin").mkdir(parents=True)
        (folder / venv / "bin" / "python").write_text(STUB.format(python=sys.executable))
        (folder / venv / "bin" / "python").chmod(0o755)
        (folder / venv / ".canopy-cuda13").touch()
        self.files = sorted(path.name for path in folder.iterdir())

    def run(self, *words: str, environment: dict[str, str] | None = None) -> tuple[int, list[list[str]], str]:
        """(exit code, arguments of each call, stderr); nothing else may have been left in the folder."""
        self.calls.unlink(missing_ok=True)
        known = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        ended = subprocess.run(
            ["make", *words],
            cwd=self.folder,
            env={**known, "CALLS": str(self.calls), **(environment or {})},
            capture_output=True,
            text=True,
        )
        calls = self.calls.read_text().splitlines() if self.calls.exists() else []
        self.calls.unlink(missing_ok=True)
        assert sorted(path.name for path in self.folder.iterdir()) == self.files
        return ended.returncode, [json.loads(line) for line in calls], ended.stderr


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    return Make(tmp_path_factory.mktemp("make"))


def variable(option: str) -> str:
    return option.upper().replace("-", "_")


@pytest.mark.parametrize("start", [0, 5, 11])
@pytest.mark.parametrize("target", TARGETS)
def test_every_variable_of_every_target_arrives_as_it_was_typed(make: Make, target: str, start: int) -> None:
    program, options = TARGETS[target]
    texts = {option: NASTY[(start + index) % len(NASTY)] for index, option in enumerate(options)}
    code, calls, stderr = make.run(target, *(f"{variable(option)}={text}" for option, text in texts.items()))
    assert (code, stderr) == (0, "")
    (words,) = calls
    expected = ["-m", *program.split(), *(f"--{option}={text}" for option, text in texts.items())]
    assert sorted(word for word in words if not word.startswith("/tmp/") and word != "--run-file") == sorted(expected)
    assert words[: 1 + len(program.split())] == ["-m", *program.split()]


@pytest.mark.parametrize("start", range(len(NASTY)))
def test_a_training_that_converts_first_hands_every_text_to_the_program_that_wants_it(make: Make, start: int) -> None:
    texts = {
        option: NASTY[(start + index) % len(NASTY)] for index, option in enumerate([*ZARR, "store", "task", "run"])
    }
    code, calls, stderr = make.run("train", *(f"{variable(option)}={text}" for option, text in texts.items()))
    assert (code, stderr) == (0, "")
    convert, train = calls
    assert convert[3:] == [f"--{option}={texts[option]}" for option in [*ZARR, "store"]]
    assert train[2:5] == [f"--{option}={texts[option]}" for option in ("store", "task", "run")]


@settings(max_examples=40)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_any_text_arrives(make: Make, text: str) -> None:
    code, calls, _ = make.run("curves", f"RUN={text}")
    arrives = text.lstrip(" \t\n\v\f\r")  # Make itself drops blanks before a value: RUN= x
    assert (code, calls) == ((0, [["-m", "analysis", "curves", f"--run={arrives}"]]) if arrives else (2, []))


@pytest.mark.parametrize("text", NASTY)
def test_a_variable_of_the_environment_is_not_executed_either(make: Make, text: str) -> None:
    code, calls, _ = make.run("report", environment={"RUN": text, "STORE": text})
    assert (code, calls) == (0, [["-m", "analysis", "report", f"--run={text}", f"--store={text}"]])


@pytest.mark.parametrize("venv", ["it's a venv", "$(shell touch pwned)", "v %:#x", '"v"; touch pwned; "'])
def test_the_environments_folder_may_have_any_name(tmp_path: Path, venv: str) -> None:
    make = Make(tmp_path, venv)
    assert make.run("curves", "RUN=x", f"VENV={venv}")[:2] == (0, [["-m", "analysis", "curves", "--run=x"]])


def test_the_tests_arguments_are_words_with_quotes_and_no_commands(make: Make) -> None:
    assert make.run("test", "ARGS=-k 'a or b' \"c d\" $(shell touch pwned); touch pwned")[1] == [
        ["-m", "pytest", "-k", "a or b", "c d", "$(shell", "touch", "pwned);", "touch", "pwned"]
    ]
    assert make.run("test")[1] == [["-m", "pytest"]]
    assert make.run("soak", "KILLS='; touch pwned")[1] == [["tests/soak.py", "--kills='; touch pwned"]]
    assert make.run("soak")[1] == [["tests/soak.py", "--kills=200"]]


def test_without_settings_the_demo_is_made_and_trained_for_eight_epochs(make: Make) -> None:
    code, calls, _ = make.run("train", "TASK=1")
    assert code == 0
    assert [call[1:3] for call in calls[:2]] == [["preprocess", "demo"], ["preprocess", "convert"]]
    assert calls[2][:6] == ["-m", "train", "--store=demo/chips.zarr", "--task=1", "--weights=none", "--epochs=8"]
    assert make.run("train", "TASK=1", "EPOCHS=2")[1][2][4:6] == ["--weights=none", "--epochs=2"]
    assert [call[:2] for call in make.run("train", "RESUME=runs/x")[1]] == [["-m", "train"]]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("train", "TASK=1", "EPOCH=3"), "EPOCH is not a variable here"),
        (("train",), "TASK is not set: make train TASK=1 (or 3, 4)"),
        (("train", "TASK=1", "LABELS=x.csv", "TAGS_SEPARATOR=,"), "only with DATA=folder"),
        (("zarr",), "DATA is not set"),
        (("verify",), "STORE is not set"),
        (("verify", "STORE="), "STORE is given, but empty"),
        (("report",), "RUN is not set"),
        (("help", "CUDA=14"), "CUDA=14: expected 12 or 13"),
        (("help", "CUDA=12 13"), "CUDA=12 13: expected 12 or 13"),
        (("help", "CUDA=$(shell touch pwned)"), "CUDA=$(shell touch pwned): expected 12 or 13"),
        (("zarr", "DATA=x", "ALLOW_MISSING=no"), "ALLOW_MISSING=no: expected 0 or 1"),
        (("zarr", "DATA=x", "ALLOW_MISSING=1 0"), "ALLOW_MISSING=1 0: expected 0 or 1"),
        (("zarr", "DATA=x", "ALLOW_MISSING=$(shell touch pwned)"), "expected 0 or 1"),
    ],
)
def test_refusals_come_before_anything_runs(make: Make, words: tuple[str, ...], line: str) -> None:
    code, calls, stderr = make.run(*words)
    assert (code, calls) == (2, [])
    assert line in stderr


def test_switches_are_passed_on_where_they_are_1(make: Make) -> None:
    assert make.run("zarr", "DATA=x", "ALLOW_MISSING=1")[1][0][3:] == [
        "--data=x",
        "--allow-missing",
        "--store=chips.zarr",
    ]
    assert make.run("zarr", "DATA=x", "ALLOW_MISSING=0")[1][0][3:] == ["--data=x", "--store=chips.zarr"]
    assert make.run("predict", "RUN=x", "DATA=y", "TTA=1")[1][0][3:] == ["--run=x", "--data=y", "--tta"]


def test_what_has_a_stamp_is_not_installed_again_until_its_versions_change(make: Make) -> None:
    assert make.run("setup") == (0, [], "")
    stamp = make.folder / ".venv" / ".canopy-cuda13"
    os.utime(stamp, (1, 1))
    code, calls, _ = make.run("setup", f"PYTHON={sys.executable}")
    assert code == 0
    assert [call[:3] for call in calls] == [
        ["-m", "pip", "show"], ["-m", "pip", "uninstall"], ["-m", "pip", "install"],
    ]  # fmt: skip
    assert calls[2][-2:] == ["-e", ".[cuda13,dev]"]
    assert make.run("setup")[1] == []
