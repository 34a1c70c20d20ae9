"""SPLIT=blocked keeps the chips of a block of ground in one split."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.chips import to_store
from helpers.places import LINEAR_UNIT, MODEL, PROJECTED, UTM_33N, WGS_84, geo_chips, geo_tags
from sklearn.metrics.pairwise import haversine_distances

from analysis.duplicates import write_groups
from preprocess.blocks import block_numbers, joined
from preprocess.info import info
from preprocess.splits import make_split
from preprocess.zarr_store import Store


def stand_in(x: np.ndarray, y: np.ndarray, unit: str, crs: str = "EPSG:1") -> Any:
    """A store whose chips of 1 x 1 units have these centres."""
    ones, zeros = np.ones(len(x)), np.zeros(len(x))
    transform = np.stack([ones, zeros, x - 0.5, zeros, -ones, y + 0.5], axis=1)
    return SimpleNamespace(
        transform=transform, crs=np.full(len(x), crs), source={"crs_units": {crs: unit}}, num_chips=len(x),
        layout=SimpleNamespace(height=1, width=1),
    )  # fmt: skip


@pytest.mark.parametrize(("unit", "metres"), [("metre", 1), ("foot", 0.3048), ("US survey foot", 1200 / 3937)])
def test_blocks_are_squares_of_the_projection(unit: str, metres: float) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-5e5, 5e5, (2, 500))
    blocks = block_numbers(stand_in(x, y, unit), 40)
    assert blocks is not None
    square = [(int(x * metres // 40_000), int(y * metres // 40_000)) for x, y in zip(x, y, strict=True)]
    same = np.array([[one == other for other in square] for one in square])
    assert np.array_equal(blocks[:, None] == blocks, same)
    assert sorted(set(blocks.tolist())) == list(range(len(set(square))))


@pytest.mark.parametrize("latitude", [0, 48, -70])
def test_blocks_of_degrees_are_square_in_km(latitude: float) -> None:
    """Distances on a sphere, by scikit-learn: no block is wider than its diagonal, and most are filled to it."""
    rng = np.random.default_rng(1)
    longitudes, latitudes = rng.uniform(10, 11, 3000), rng.uniform(latitude, latitude + 0.5, 3000)
    blocks = block_numbers(stand_in(longitudes, latitudes, "degree"), 10)
    assert blocks is not None
    km = 6371.0088 * haversine_distances(np.radians(np.stack([latitudes, longitudes], axis=1)))
    largest = [km[np.ix_(blocks == block, blocks == block)].max() for block in range(blocks.max() + 1)]
    assert max(largest) < 10 * 2**0.5 * 1.01
    assert np.median(largest) > 9
    widths = [
        np.ptp(longitudes[blocks == block]) * 111.19 * np.cos(np.radians(latitudes[blocks == block].mean()))
        for block in range(blocks.max() + 1)
    ]
    heights = [np.ptp(latitudes[blocks == block]) * 111.19 for block in range(blocks.max() + 1)]
    assert max(widths) == pytest.approx(10, rel=0.1)
    assert max(heights) == pytest.approx(10, rel=0.1)


def test_chips_without_coordinates_or_with_an_unknown_unit_are_in_no_block() -> None:
    store = stand_in(np.array([0.0, 1.0, 2.0]), np.zeros(3), "metre")
    store.crs = np.array(["EPSG:1", "", "grid"])
    assert block_numbers(store, 10).tolist() == [0, -1, -1]  # type: ignore[union-attr]
    store.crs = np.array(["", "", "grid"])
    assert block_numbers(store, 10) is None


def test_blocks_and_groups_are_joined_where_they_share_a_chip() -> None:
    blocks = np.array([0, 0, 1, 1, -1, -1, 2, -1])
    assert joined(blocks, []) == [[0, 1], [2, 3], [4], [5], [6], [7]]
    assert joined(blocks, [[1, 2], [5, 6, 7]]) == [[0, 1, 2, 3], [4], [5, 6, 7]]


@pytest.fixture(scope="module")
def grid_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """400 chips of 160 m in a square of 20 x 20: 3.2 km."""
    folder = tmp_path_factory.mktemp("grid")
    places = [
        geo_tags(UTM_33N, corner=(500_000 + 160 * (n % 20), 5_400_000 + 160 * (n // 20)), side=(10, 10))
        for n in range(400)
    ]
    return to_store(geo_chips(folder / "tif", places, bands=1), folder / "s.zarr")


def split_numbers(store: Store, **settings: float) -> np.ndarray:
    split = make_split("blocked", store, **settings)
    numbers = np.full(store.num_chips, -1)
    for number, name in enumerate(("train", "val", "test")):
        assert (numbers[split.indices(name)] == -1).all()
        numbers[split.indices(name)] = number
    assert (numbers >= 0).all()
    return numbers


def test_whole_blocks_are_in_one_split_with_the_fractions_of_course(grid_store: Store) -> None:
    numbers = split_numbers(grid_store, block_km=0.64, val=0.25)
    chips = np.arange(400)
    # The grid begins at multiples of 160 m that are no multiple of 640 m: use the coordinates themselves.
    x, y = 500_000 + 160 * (chips % 20) + 80, 5_400_000 + 160 * (chips // 20) - 80
    blocks = (x // 640) * 10_000 + y // 640
    assert all(len(set(numbers[blocks == block])) == 1 for block in set(blocks.tolist()))
    counts = np.bincount(numbers)
    assert abs(counts[2] - 132) <= 16
    assert abs(counts[1] - 67) <= 16
    assert np.array_equal(numbers, split_numbers(grid_store, block_km=0.64, val=0.25))
    assert not np.array_equal(numbers, split_numbers(grid_store, block_km=0.32, val=0.25))


def test_the_groups_of_the_audit_hold_too(grid_store: Store, tmp_path: Path) -> None:
    shutil.copytree(grid_store.local_path, tmp_path / "s.zarr")
    store = replace(grid_store, path=tmp_path / "s.zarr")
    before = split_numbers(store, block_km=0.64)
    far_apart = [0, int(np.flatnonzero(before != before[0])[0])]
    write_groups(store, [far_apart])
    split = make_split("blocked", store, block_km=0.64)
    assert split.note == "SPLIT=blocked: 36 blocks of 0.64 km from coordinates, and the audit's groups (1)."
    assert len(set(split_numbers(store, block_km=0.64)[far_apart])) == 1


def test_one_block_for_all_is_refused(grid_store: Store, refused: Callable) -> None:
    text = refused(lambda: make_split("blocked", grid_store, block_km=500))
    assert (
        "expected chips in the test split, found none (400 chips in the store). BLOCK_KM=500 may be too large." in text
    )


def test_info_says_which_blocks_are_used(grid_store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    info(grid_store.local_path, "blocked", 0.64)
    lines = capsys.readouterr().out.splitlines()
    blocks, audit = "36 blocks of 0.64 km from coordinates", "without the groups of `make audit`"
    assert f"split        SPLIT=blocked: {blocks}, {audit}, which would change the split." in lines


def test_a_split_knows_chips_of_several_crs(tmp_path: Path) -> None:
    places = [geo_tags(UTM_33N, corner=(500_000, 0)), geo_tags({MODEL: 1, PROJECTED: 32634, LINEAR_UNIT: 9001})]
    store = to_store(geo_chips(tmp_path / "tif", [*places, geo_tags(WGS_84), [], places[0]]), tmp_path / "s.zarr")
    blocks = block_numbers(store, 10)
    assert blocks is not None
    assert blocks.tolist() == [0, 1, 2, -1, 0]
