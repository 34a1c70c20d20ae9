"""The text of a setting on make's command line reaches the program as it was typed, and nothing in it is executed."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canopy.commands import COMMANDS
from canopy.launch import ANSWERED

ROOT = Path(__file__).resolve().parents[1]
# A program in the place of VENV/bin/python that notes its arguments. `canopy check` ends with CHECK, an import of
# pydantic and a look for the other DALI fail if MISSING names them; launch.py itself is run.
STUB = """#!{python}
import json, os, sys
words = sys.argv[1:]
if words[0].endswith("launch.py"):
    os.execv({python!r}, [{python!r}, *words])
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps(words) + "\\n")
missing = os.environ.get("MISSING", "").split()
if words[:3] == ["-m", "canopy", "check"]:
    sys.exit(int(os.environ.get("CHECK", "0")))
sys.exit(1 if words[-1].split()[-1] in missing else 0)
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


def outside_make() -> dict[str, str]:
    """The environment without what make exports: `make test VENV=other` would install into that environment here."""
    ours = {"VENV", "PYTHON", "CUDA", "ARGS"}
    return {key: text for key, text in os.environ.items() if key not in ours and not key.startswith(("MAKE", "MFLAGS"))}


class Make:
    """`make` in a folder with the project's Makefile and a stub instead of a Python."""

    def __init__(self, folder: Path, venv: str = ".venv") -> None:
        self.folder, self.calls = folder, folder / "calls"
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, folder)
        (folder / "canopy").mkdir()
        shutil.copy(ROOT / "canopy" / "launch.py", folder / "canopy")
        self.bin = folder / venv / "bin"
        self.bin.mkdir(parents=True)
        (self.bin / "python").write_text(STUB.format(python=sys.executable))
        (self.bin / "python").chmod(0o755)
        self.stamp = folder / venv / ".canopy-cuda13"
        self.stamp.touch()
        self.files = sorted(path.name for path in folder.iterdir())

    def run(self, *words: str, **environment: str) -> tuple[int, list[list[str]], str]:
        """(exit code, arguments of each call, stderr); nothing else may have been left in the folder."""
        self.calls.unlink(missing_ok=True)
        ended = subprocess.run(
            ["make", *words],
            cwd=self.folder,
            env={**outside_make(), "CALLS": str(self.calls), **environment},
            capture_output=True,
            text=True,
        )
        calls = self.calls.read_text().splitlines() if self.calls.exists() else []
        self.calls.unlink(missing_ok=True)
        assert sorted(path.name for path in self.folder.iterdir()) == self.files
        return ended.returncode, [json.loads(line) for line in calls], ended.stderr


def test_an_outer_make_test_with_another_environment_does_not_reach_these_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("VENV", "other"), ("CUDA", "12"), ("PYTHON", "none"), ("MAKEFLAGS", "-- VENV=other CUDA=12")):
        monkeypatch.setenv(name, value)
    assert Make(tmp_path).run("info", "STORE=x") == (0, [["-m", "canopy", "info", "STORE=x"]], "")


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    return Make(tmp_path_factory.mktemp("make"))


@pytest.fixture
def fresh(tmp_path: Path) -> Make:
    """Nothing is installed but the stub."""
    made = Make(tmp_path)
    made.stamp.unlink()
    return made


def test_the_makefile_knows_every_command_and_no_setting() -> None:
    text = (ROOT / "Makefile").read_text()
    listed = re.search(r"^COMMANDS = ((?:.*\\\n)*.*)", text, re.M)
    assert listed
    assert listed[1].replace("\\", " ").split() == list(COMMANDS)
    assert len(text.splitlines()) <= 100


@pytest.mark.parametrize("command", COMMANDS)
def test_every_text_arrives_as_it_was_typed(make: Make, command: str) -> None:
    words = [f"NAME{index:02}={text}" for index, text in enumerate(NASTY)]
    code, calls, stderr = make.run(command, *words)
    assert (code, stderr) == (0, "")
    assert calls == [["-m", "canopy", command, *words]]


@settings(max_examples=40)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_any_text_arrives(make: Make, text: str) -> None:
    code, calls, _ = make.run("curves", f"RUN={text}")
    arrives = text.lstrip(" \t\n\v\f\r")  # make itself drops blanks before a value: RUN= x
    assert (code, calls) == (0, [["-m", "canopy", "curves", f"RUN={arrives}"]])


def test_bytes_that_are_no_unicode_arrive(make: Make) -> None:
    assert make.run("curves", "RUN=a\udcffb")[1] == [["-m", "canopy", "curves", "RUN=a\udcffb"]]


@pytest.mark.parametrize("text", ["/data", *NASTY[:6]])
def test_what_the_environment_holds_is_no_setting(make: Make, text: str) -> None:
    code, calls, _ = make.run("train", "TASK=1", DATA=text, CROP=text, STORE=text, RUN=text)
    assert (code, calls) == (0, [["-m", "canopy", "train", "TASK=1"]])


@pytest.mark.parametrize(
    "name",
    [
        "x;touch pwned",
        'x"y',
        "x`y",
        "x\\y",
        "x'y",
        "x(y",
        "x)y",
        "x#y",
        "x:y",
        "x<y",
        "x%y",
        "x,y",
        "x.y",
        "9",
        "epochs",
        "é",
        "x|y",
    ],
)
def test_a_name_of_any_form_is_passed_on_or_refused(make: Make, name: str) -> None:
    code, calls, stderr = make.run("train", f"{name.replace(' ', '')}=1")
    if code == 0:
        assert [call[3].partition("=")[0] for call in calls] == [name.replace(" ", "")]
    else:
        assert (code, calls) == (2, [])
        assert "expected COMMAND NAME=value" in stderr


@pytest.mark.parametrize("venv", ["it's a venv", "$(shell touch pwned)", "v %:#x", '"v"; touch pwned; "'])
def test_the_environments_folder_may_have_any_name(tmp_path: Path, venv: str) -> None:
    make = Make(tmp_path, venv)
    assert make.run("curves", "RUN=x", f"VENV={venv}")[:2] == (0, [["-m", "canopy", "curves", "RUN=x"]])
    assert make.run("curves", "RUN=x", VENV=venv)[:2] == (0, [["-m", "canopy", "curves", "RUN=x"]])


def test_the_tests_arguments_are_words_with_quotes_and_no_commands(make: Make) -> None:
    pytest_words = ["-m", "pytest", "-n", str(min(len(os.sched_getaffinity(0)), 8)), "--dist", "loadfile"]
    assert make.run("test", "ARGS=-k 'a or b' \"c d\" $(shell touch pwned); touch pwned")[1][-1] == [
        *pytest_words, "-k", "a or b", "c d", "$(shell", "touch", "pwned);", "touch", "pwned"
    ]  # fmt: skip
    assert make.run("test")[1][-1] == pytest_words
    assert make.run("test", "NAME=1", CHECK="2")[:2] == (
        2, [["-c", "import pydantic"], ["-m", "canopy", "check", "test", "NAME=1"]],
    )  # fmt: skip


def test_a_misspelt_target_is_a_command_that_the_program_refuses(make: Make) -> None:
    assert make.run("trian", "TASK=1")[1] == [["-m", "canopy", "trian", "TASK=1"]]


@pytest.mark.parametrize(
    "goal", ["a;touch pwned", "$(touch pwned)", "a`touch pwned`", 'a"; touch pwned; "', "a|b", "x#y=1"]
)
def test_a_target_of_any_name_is_not_executed(make: Make, goal: str) -> None:
    code, calls, stderr = make.run(goal)
    assert (code, calls) == (2, [])
    assert "expected COMMAND NAME=value" in stderr


@pytest.mark.parametrize("text", ["14", "12 13", "", "$(shell touch pwned)", "13\n"])
def test_another_cuda_is_refused(make: Make, text: str) -> None:
    code, calls, stderr = make.run("train", f"CUDA={text}")
    assert (code, calls) == (2, [])
    assert f"error: CUDA={ascii(text)[1:-1]}: expected 13 or 12.\n" in stderr


def test_words_are_checked_before_anything_but_pydantic_is_installed(fresh: Make) -> None:
    code, calls, _ = fresh.run("train", "TASK=5", CHECK="2", MISSING="pydantic")
    assert code == 2
    assert calls == [
        ["-c", "import pydantic"],
        ["-m", "pip", "--disable-pip-version-check", "install", "--quiet", "-c", "constraints.txt", "pydantic"],
    ]  # fmt: skip  # the stub's pip fails
    code, calls, _ = fresh.run("train", "TASK=5", CHECK="2")
    assert (code, calls) == (2, [["-c", "import pydantic"], ["-m", "canopy", "check", "train", "TASK=5"]])
    assert not fresh.stamp.exists()


def test_a_question_is_answered_without_an_installation(fresh: Make) -> None:
    code, calls, _ = fresh.run("train", "TASK=2", CHECK=str(ANSWERED))
    assert (code, calls) == (0, [["-c", "import pydantic"], ["-m", "canopy", "check", "train", "TASK=2"]])


@pytest.mark.parametrize(("cuda", "other"), [("13", "12"), ("12", "13")])
def test_what_passes_is_installed_once_and_run(fresh: Make, cuda: str, other: str) -> None:
    code, calls, _ = fresh.run("train", "TASK=1", f"CUDA={cuda}")
    pip = ["-m", "pip", "--disable-pip-version-check"]
    assert code == 0
    assert calls == [
        ["-c", "import pydantic"],
        ["-m", "canopy", "check", "train", "TASK=1"],
        [*pip, "show", "--quiet", f"nvidia-dali-cuda{other}0"],
        [*pip, "uninstall", "--yes", f"nvidia-dali-cuda{other}0"],
        [*pip, "install", "-c", "constraints.txt", "-e", f".[cuda{cuda},dev]"],
        ["-m", "canopy", "train", "TASK=1"],
    ]
    assert fresh.run("train", "TASK=1", f"CUDA={cuda}")[1] == [["-m", "canopy", "train", "TASK=1"]]
    os.utime(fresh.bin.parent / f".canopy-cuda{cuda}", (1, 1))  # older than pyproject.toml
    again = fresh.run("train", "TASK=1", f"CUDA={cuda}", MISSING=f"nvidia-dali-cuda{other}0")[1]
    assert again == [call for call in calls if "uninstall" not in call]


def test_the_list_of_commands_needs_no_installation(tmp_path: Path) -> None:
    command = ["make", "-s", f"VENV={tmp_path / 'none'}", f"PYTHON={sys.executable}"]
    ended = subprocess.run([*command, "help"], cwd=ROOT, env=outside_make(), capture_output=True, text=True, check=True)
    assert [name for name in COMMANDS if f"\n  {name} " not in ended.stdout] == []
    assert max(map(len, ended.stdout.splitlines())) <= 100
    assert not (tmp_path / "none").exists()
