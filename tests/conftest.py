"""Fixtures: small real TIFFs made here, stores made from them, and the real data where it lies beside the project."""

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile

import pipeline  # noqa: F401  # sets DALI's environment before anything imports it
from preprocess.convert import convert
from preprocess.plan import Request
from preprocess.schema import Store, open_store

try:
    from hypothesis import settings as hypothesis_settings
except ImportError:  # `make gpu-check` needs no more than training does
    pass
else:
    # The same examples every time, however slow the machine; `make fuzz` draws new ones.
    hypothesis_settings.register_profile("tests", derandomize=True, deadline=None, database=None)
    hypothesis_settings.load_profile("tests")

BANDS = ("blue", "green", "red", "nir")
DTYPES = ("uint8", "uint16", "int16", "float32")


@dataclass(frozen=True)
class Chips:
    """A folder of TIFFs with its CSV, and the values that were written: (tiles, bands, height, width)."""

    folder: Path
    csv: Path
    values: np.ndarray
    tags: list[str]


def smooth(rng: np.random.Generator, shape: tuple[int, int, int], dtype: str) -> np.ndarray:
    """Values with the smoothness of pictures, so that LZ4 has something to do; extremes included."""
    if dtype == "float32":  # reflectances
        values = (smooth(rng, shape, "int16") / np.float32(10_000)).astype(np.float32)
        values[0, 0, 2:] -= np.float32(1e-7)
        return values
    bottom, top = np.iinfo(dtype).min, np.iinfo(dtype).max
    ramp = np.cumsum(rng.integers(-3, 4, shape), axis=-1) + int(rng.integers(top // 4, top // 2))
    values = np.clip(ramp + bottom // 2, bottom, top).astype(dtype)
    values[0, 0, :2] = (bottom, top)
    return values


def write_chips(
    folder: Path, *, count: int = 12, bands: int = 4, height: int = 16, width: int = 16, dtype: str = "uint16",
    seed: int = 0,
) -> Chips:  # fmt: skip
    """`count` chips of random smooth values with tags a, b, c."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    values = np.stack([smooth(rng, (bands, height, width), dtype) for _ in range(count)])
    tags = [" ".join(sorted(rng.choice(["a", "b", "c"], size=rng.integers(1, 4), replace=False))) for _ in range(count)]
    for index, chip in enumerate(values):
        tifffile.imwrite(
            folder / f"t_{index}.tif",
            np.moveaxis(chip, 0, -1),
            photometric="rgb" if bands == 3 else "minisblack",  # three bands are RGB only if the file says so
            planarconfig=1 if bands > 1 else None,
        )
    write_csv(folder / "tags.csv", [(f"t_{index}", tag) for index, tag in enumerate(tags)])
    return Chips(folder, folder / "tags.csv", values, tags)


def write_csv(path: Path, rows: list[tuple[str, str]], header: tuple[str, str] = ("image_name", "tags")) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def to_store(chips: Chips, store: Path, **settings: object) -> Store:
    """Convert and open."""
    bands = BANDS if chips.values.shape[1] == 4 else None
    convert(Request(data=chips.folder, labels=chips.csv, store=store, **{"bands": bands, **settings}))  # type: ignore[arg-type]
    return open_store(store)


@pytest.fixture
def chips(tmp_path: Path) -> Chips:
    return write_chips(tmp_path / "tif")


@pytest.fixture(scope="session")
def session_chips(tmp_path_factory: pytest.TempPathFactory) -> Chips:
    """300 chips: two shards."""
    return write_chips(tmp_path_factory.mktemp("session") / "tif", count=300)


@pytest.fixture(scope="session")
def session_store(session_chips: Chips) -> Store:
    return to_store(session_chips, session_chips.folder.parent / "tiles.zarr")


@pytest.fixture(scope="session")
def plain_store(session_chips: Chips) -> Store:
    """The same chips, CODEC=none."""
    return to_store(session_chips, session_chips.folder.parent / "plain.zarr", codec="none")


@pytest.fixture(scope="session")
def uint8_chips(tmp_path_factory: pytest.TempPathFactory) -> Chips:
    return write_chips(tmp_path_factory.mktemp("uint8") / "tif", count=70, bands=3, dtype="uint8")


@pytest.fixture(scope="session")
def uint8_store(uint8_chips: Chips) -> Store:
    return to_store(uint8_chips, uint8_chips.folder.parent / "tiles.zarr")


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
