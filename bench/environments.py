"""`make bench MODE=peers`: install each peer library into an environment of its own.

`python -m bench.environments NAME` installs only that one.

In: requirements-peers.txt. Out: `.venv-peers/NAME/`, a virtual environment without pip. One .pth file adds the
site-packages of the running environment, so torch and DALI are installed once. Each library has its own environment
because their requirements disagree (mosaicml-streaming needs numpy < 2.2) and must not change the project's packages.
If an installation fails, `NAME/failed` holds the reason, and the benchmark's row shows it.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Collection
from pathlib import Path

from preprocess import console
from preprocess.console import UserError, say

ROOT = Path(".venv-peers")
REQUIREMENTS = Path(__file__).parent / "requirements-peers.txt"
_PIP_S = 600


def requirements() -> dict[str, list[str]]:
    """library -> pip's requirements, from the file's `[library]` headings."""
    libraries: dict[str, list[str]] = {}
    name = ""
    for line in REQUIREMENTS.read_text().splitlines():
        text = line.partition("#")[0].strip()
        if line.startswith("# ["):
            name = line.strip("# []\n")
            libraries[name] = []
        elif text:
            libraries[name].append(text)
    return libraries


def python(library: str | None) -> Path | None:
    """Interpreter of a library's environment; None for the project's own, and if the environment does not exist."""
    path = ROOT / (library or "") / "bin" / "python"
    # Not resolved: the path of the interpreter identifies the virtual environment.
    return path.absolute() if library and path.exists() else None


def why_not(library: str | None) -> str | None:
    """Why a library is not available; None if it is."""
    if library is None:
        return None
    failed = ROOT / library / "failed"
    if failed.exists():
        return failed.read_text()
    return None if python(library) else "not installed. `make bench MODE=peers` installs it"


def install(libraries: Collection[str] = ()) -> None:
    """Install every library, or those named, that is missing or has another version.

    Raises:
        UserError: a name is not a library of the list.
    """
    packages_of = requirements()
    if unknown := sorted(set(libraries) - packages_of.keys()):
        raise UserError(f"{unknown[0]}: expected one of {', '.join(packages_of)}.")
    for library in libraries or packages_of:
        packages = packages_of[library]
        stamp = ROOT / library / "installed"
        key = hashlib.sha256(" ".join([sys.executable, *packages]).encode()).hexdigest()
        if stamp.exists() and stamp.read_text() == key:
            continue
        say(f"{library}: installing into {ROOT / library}")
        reason = _install(library, packages)
        if reason:
            (ROOT / library / "failed").write_text(reason)
            say(f"{library}: {reason}")
        else:
            stamp.write_text(key)  # a failed installation is tried again next time: a missing header may exist by then


def _install(library: str, packages: list[str]) -> str | None:
    folder = ROOT / library
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site_packages = next((folder / "lib").glob("python*/site-packages"))
    # addsitedir instead of a bare path: it also reads the .pth file of the project's editable installation.
    shared = sysconfig.get_path("purelib")
    (site_packages / "canopy.pth").write_text(f"import site; site.addsitedir({shared!r})\n")
    command = [
        sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet",
        "--disable-pip-version-check", "--no-build-isolation", *packages,
    ]  # fmt: skip
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_S, env={**os.environ})
    except subprocess.TimeoutExpired:
        return f"not installed: pip took more than {_PIP_S} s"
    if result.returncode == 0:
        return None
    lines = [line.strip() for line in result.stderr.splitlines() if "error:" in line.lower()]
    named = [line for line in lines if "subprocess-exited-with-error" not in line]
    return f"not installed: {(named or [f'pip ended with {result.returncode}'])[0][:200]}"


def main() -> int:
    """Install the libraries that the command line names, or all; 1 if any is not available afterwards."""
    install(sys.argv[1:])
    return int(any(why_not(library) for library in sys.argv[1:] or requirements()))


if __name__ == "__main__":
    console.run(main)
