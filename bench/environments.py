"""`python -m bench.environments`: an environment for each peer library, which also sees the project's own packages.

`.venv-peers/NAME/` is a virtual environment without pip whose one .pth file adds the site-packages of the environment
that this runs in, so torch and DALI are installed once. One a library: they disagree (mosaicml-streaming wants
numpy < 2.2), and a library's own pins must not move under the project's rows. What cannot be installed leaves
its reason in `NAME/failed`, which becomes its row.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from preprocess.console import run, say

ROOT = Path(".venv-peers")
REQUIREMENTS = Path(__file__).parent / "requirements-peers.txt"
_PIP_S = 600


def requirements() -> dict[str, list[str]]:
    """library -> pip's requirements, from the file's `[library]` headings."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in REQUIREMENTS.read_text().splitlines():
        text = line.partition("#")[0].strip()
        if line.startswith("# ["):
            name = line.strip("# []\n")
            found[name] = []
        elif text:
            found[name].append(text)
    return found


def python(library: str | None) -> Path | None:
    """Interpreter of a library's environment; None for the project's own (also where that was never made)."""
    path = ROOT / (library or "") / "bin" / "python"
    # Not resolved: a virtual environment is known by the path of its interpreter.
    return path.absolute() if library and path.exists() else None


def why_not(library: str | None) -> str | None:
    """Why a library could not be installed, if so."""
    if library is None:
        return None
    failed = ROOT / library / "failed"
    if failed.exists():
        return failed.read_text()
    return None if python(library) else "not installed: `make bench MODE=peers` does it"


def main() -> int:
    """Install every library that is not there in the version wanted."""
    for library, wanted in requirements().items():
        stamp = ROOT / library / "installed"
        key = hashlib.sha256(" ".join([sys.executable, *wanted]).encode()).hexdigest()
        if stamp.exists() and stamp.read_text() == key:
            continue
        say(f"{library}: installing into {ROOT / library}")
        reason = _install(library, wanted)
        if reason:
            (ROOT / library / "failed").write_text(reason)
            say(f"{library}: {reason}")
        else:
            stamp.write_text(key)  # what failed is tried again next time: a missing header may be there by then
    return 0


def _install(library: str, wanted: list[str]) -> str | None:
    folder = ROOT / library
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site_packages = next((folder / "lib").glob("python*/site-packages"))
    # addsitedir, not a bare path: it also reads the .pth file of the project's editable installation.
    shared = sysconfig.get_path("purelib")
    (site_packages / "canopy.pth").write_text(f"import site; site.addsitedir({shared!r})\n")
    command = [
        sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet",
        "--disable-pip-version-check", "--no-build-isolation", *wanted,
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


if __name__ == "__main__":
    run(main)
