"""Fixtures: small generated TIFFs, stores made from them, and real data if it is beside the project."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import single_thread  # noqa: F401  # before numpy and torch
from helpers.chips import Chips, to_store, write_chips

import pipeline  # noqa: F401  # sets DALI's environment before anything imports it
from preprocess.zarr_store import Store

try:
    from hypothesis import settings as hypothesis_settings
except ImportError:  # `make gpu-check` needs only what training needs
    pass
else:
    # The same examples in every run, without a time limit. `make fuzz` searches with new ones.
    hypothesis_settings.register_profile("tests", derandomize=True, deadline=None, database=None)
    hypothesis_settings.load_profile("tests")


@pytest.fixture
def chips(tmp_path: Path) -> Chips:
    return write_chips(tmp_path / "tif")


@pytest.fixture(scope="session")
def session_chips(tmp_path_factory: pytest.TempPathFactory) -> Chips:
    """300 chips: two shards."""
    return write_chips(tmp_path_factory.mktemp("session") / "tif", count=300)


@pytest.fixture(scope="session")
def session_store(session_chips: Chips) -> Store:
    return to_store(session_chips, session_chips.folder.parent / "chips.zarr")


@pytest.fixture(scope="session")
def plain_store(session_chips: Chips) -> Store:
    """The same chips, CODEC=none."""
    return to_store(session_chips, session_chips.folder.parent / "plain.zarr", codec="none")


@pytest.fixture(scope="session")
def uint8_chips(tmp_path_factory: pytest.TempPathFactory) -> Chips:
    return write_chips(tmp_path_factory.mktemp("uint8") / "tif", count=70, bands=3, dtype="uint8")


@pytest.fixture(scope="session")
def uint8_store(uint8_chips: Chips) -> Store:
    return to_store(uint8_chips, uint8_chips.folder.parent / "chips.zarr")


@pytest.fixture
def empty_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the figures of a page without drawing them, which takes most of the time of a report."""

    def savefig(figure: object, file: IO[Any] | Path, *, format: str, **more: object) -> None:
        if isinstance(file, Path):
            file.write_bytes(b"PNG")
        else:
            file.write("<svg />" if format == "svg" else b"PNG")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", savefig)


@pytest.fixture
def all_cores() -> Iterator[None]:
    """Let torch use one thread per core, as in a run of a user."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data: CANOPY_SHARED, else ../shared beside the project."""
    path = Path(os.environ.get("CANOPY_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (path / "data").is_dir():
        pytest.skip(f"no real data at {path} (set CANOPY_SHARED)")
    return path


@pytest.fixture
def refused() -> Callable[..., str]:
    """Run a call that must raise UserError; returns its one line."""
    from preprocess.console import UserError

    def run(call: Callable[[], object]) -> str:
        with pytest.raises(UserError) as error:
            call()
        text = str(error.value)
        assert "\n" not in text
        return text

    return run
