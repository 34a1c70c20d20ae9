"""Every package that an installation brings has one exact version in constraints.txt, and that version is installed."""

import importlib.metadata
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from canopy.launch import NEWEST, OLDEST, prepare

ROOT = Path(__file__).parents[1]


def read_pins() -> dict[str, Requirement]:
    """Read constraints.txt: for each package the line that applies to this Python."""
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pins = [pin for pin in map(Requirement, lines) if pin.marker is None or pin.marker.evaluate()]
    names = [canonicalize_name(pin.name) for pin in pins]
    assert len(set(names)) == len(names), f"pinned twice: {sorted({name for name in names if names.count(name) > 1})}"
    return dict(zip(names, pins, strict=True))


def read_requirements() -> list[Requirement]:
    """Read what pyproject.toml asks for, with and without extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [text for texts in project["optional-dependencies"].values() for text in texts]
    return [Requirement(text) for text in (*project["dependencies"], *extras)]


def find_dependencies() -> set[str]:
    """Walk from pyproject.toml through every package that is installed here.

    Packages that somebody installed beside the project are not visited.
    """
    visited: set[tuple[str, str]] = set()
    waiting = [(canonicalize_name(r.name), extra) for r in read_requirements() for extra in ("", *r.extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in visited:
            continue
        visited.add((name, extra))
        try:
            texts = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of an extra that is not installed: its name is still reported
        for requirement in map(Requirement, texts):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(requirement.name), e) for e in ("", *requirement.extras)]
    return {name for name, _ in visited}


def test_every_pin_is_one_exact_version() -> None:
    inexact = [
        str(pin) for pin in read_pins().values() if [s.operator for s in pin.specifier] != ["=="] or "*" in str(pin)
    ]
    assert inexact == []


def test_every_dependency_is_pinned() -> None:
    dependencies = find_dependencies()
    assert {"torch", "numpy", "cuda-toolkit", "wheel"} <= dependencies  # two direct ones, two that others need
    assert sorted(dependencies - read_pins().keys()) == []


def test_the_installed_versions_are_the_pinned_ones() -> None:
    pins = read_pins()
    installed = {canonicalize_name(d.name): d.version for d in importlib.metadata.distributions()}
    other = [
        f"{pins[name]} is pinned, {installed[name]} is installed"
        for name in sorted(pins.keys() & installed.keys())
        if installed[name] not in pins[name].specifier
    ]
    assert other == []


def test_the_supported_pythons_are_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = SpecifierSet(project["requires-python"])
    allowed = [f"3.{minor}" for minor in range(30) if f"3.{minor}.1" in required]
    classified = [text.rsplit(" ", 1)[1] for text in project["classifiers"] if ":: Python ::" in text]
    launched = [f"3.{minor}" for minor in range(OLDEST[1], NEWEST[1] + 1)]
    assert allowed == classified == launched


@pytest.mark.parametrize("version", [(3, 10, 13), (3, 14, 0)])
def test_another_python_is_refused_before_an_environment_is_made(
    version: tuple[int, int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "version_info", version)
        code = prepare(tmp_path / "venv", str(tmp_path / "venv/bin/python"))
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: Python 3.11, 3.12 or 3.13 is needed, {sys.executable} is 3.{version[1]}. ")
    assert list(tmp_path.iterdir()) == []
