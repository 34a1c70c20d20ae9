"""What make runs: `launch.py VENV CUDA COMMAND [NAME=value ...]`. Installs what is missing, then runs the command.

In: the words of make's command line. Out: the command, in the virtual environment. Words that cannot work are refused
before the 7 GB are installed: pydantic comes first, in some seconds, and `python -m canopy check` needs nothing else.
Standard library only, and no syntax that an old Python cannot read: this file is what says that a Python is too old.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
OLDEST, NEWEST = (3, 11), (3, 13)  # as `requires-python` in pyproject.toml, which pip checks much later
ANSWERED = 10  # exit code of `canopy check`: the words were a question, and there is nothing to run
OTHER_CUDA = {"13": "12", "12": "13"}
PIP = ("-m", "pip", "--disable-pip-version-check")


def main(venv: Path, cuda: str, command: str, words: list[str]) -> int:
    """Install if needed, then become the command. Returns an exit code where it does not come to that."""
    if cuda not in OTHER_CUDA:
        return refuse(f"CUDA={ascii(cuda)[1:-1]}: expected 13 or 12.")
    if command == "help":
        return print_help(venv, words)
    python = str(venv / "bin" / "python")
    stamp = venv / f".canopy-cuda{cuda}"
    own_target = command in ("setup", "test")  # no commands of `canopy`, which check their own words
    if own_target or not is_current(stamp):
        code = prepare(venv, python) or check(python, command, words)
        if code:
            return 0 if code == ANSWERED else code
    code = 0 if is_current(stamp) else install(venv, python, cuda, stamp)
    if code or command == "setup":
        return code
    if command == "test":
        execute(python, "-m", "pytest", *workers(), *shlex.split(os.environ.get("ARGS", "")))
    return execute(python, "-m", "canopy", command, *words)


def workers() -> list[str]:
    """Arguments of pytest-xdist: a process per core, at most 8 of about 1 GB each. `ARGS=-n0` is one process."""
    return ["-n", str(min(len(os.sched_getaffinity(0)), 8)), "--dist", "loadfile"]


def is_current(stamp: Path) -> bool:
    """Whether the installation is newer than the files that decide it."""
    if not stamp.exists():
        return False
    made = stamp.stat().st_mtime
    return all((ROOT / name).stat().st_mtime <= made for name in ("pyproject.toml", "constraints.txt"))


def prepare(venv: Path, python: str, output: int | None = None) -> int:
    """Make a virtual environment with pydantic, which checks the words. Returns an exit code, 0 if it is there."""
    version = sys.version_info[:2]
    if not OLDEST <= version <= NEWEST:
        return refuse(
            f"Python 3.11, 3.12 or 3.13 is needed, {sys.executable} is {version[0]}.{version[1]}. "
            "PYTHON=python3.13 chooses another."
        )
    make_venv = [sys.executable, "-m", "venv", "--", str(venv)]
    if not os.access(python, os.X_OK) and subprocess.call(make_venv, stdout=output, stderr=output):
        return refuse("no virtual environment could be made (on Debian and Ubuntu: apt install python3-venv).")
    if subprocess.call([python, "-c", "import pydantic"], stderr=subprocess.DEVNULL) == 0:
        return 0
    get = [python, *PIP, "install", "--quiet", "-c", "constraints.txt", "pydantic"]
    if subprocess.call(get, stdout=output, stderr=output):
        return refuse("pydantic could not be installed; pip says why above. Is there a network?")
    return 0


def install(venv: Path, python: str, cuda: str, stamp: Path) -> int:
    """Install everything, for the GPU's driver. Returns an exit code."""
    print(f"installing into {venv}: about 7 GB the first time", flush=True)
    for old in venv.glob(".canopy-cuda*"):
        old.unlink()
    other = f"nvidia-dali-cuda{OTHER_CUDA[cuda]}0"  # the two builds share a module
    if subprocess.call([python, *PIP, "show", "--quiet", other], stderr=subprocess.DEVNULL) == 0:
        subprocess.check_call([python, *PIP, "uninstall", "--yes", other])
    if subprocess.call([python, *PIP, "install", "-c", "constraints.txt", "-e", f".[cuda{cuda},dev]"]):
        return refuse("the installation failed; pip says why above. Run the same command again.")
    stamp.touch()
    return 0


def check(python: str, command: str, words: list[str]) -> int:
    """The exit code of `canopy check`."""
    return subprocess.call([python, "-m", "canopy", "check", command, *words])


def print_help(venv: Path, words: list[str]) -> int:
    """Print the list of commands, or the settings of one. The second needs pydantic; without it, docs/settings.md."""
    sys.path[0] = str(ROOT)
    if not words and sys.version_info >= OLDEST:
        from canopy.help_text import overview

        print(overview())
        return 0
    python = str(venv / "bin" / "python")
    if prepare(venv, python, subprocess.DEVNULL) == 0:
        execute(python, "-m", "canopy", "help", *words)
    print((ROOT / "docs" / "settings.md").read_text(encoding="utf-8"))
    return 0


def execute(*command: str) -> NoReturn:
    """Become another program."""
    sys.stdout.flush()
    os.execv(command[0], command)


def refuse(line: str) -> int:
    """Print why; returns the exit code."""
    print(f"error: {line}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    os.chdir(str(ROOT))
    try:
        sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]))
    except BrokenPipeError:  # `make help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
