"""Duplicates and neighbours: pairs, groups, and copies across the split."""

import csv
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from helpers.audits import SIDE, findings_of, store_of, texture
from helpers.chips import conversion
from helpers.pages import Page

from analysis import duplicates
from analysis.close_hashes import close_hashes
from analysis.features import read_features
from preprocess.convert import convert
from preprocess.splits import course_rows
from preprocess.zarr_store import open_store


def test_rotated_and_mirrored_copies_do_not_hide_neighbours(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    chips = [texture(rng) for _ in range(40)]
    wide, tall = texture(rng, SIDE, 2 * SIDE), texture(rng, 2 * SIDE, SIDE)
    chips[3], chips[30] = wide[:, :SIDE], wide[:, SIDE:]
    chips[31], chips[5] = tall[:SIDE], tall[SIDE:]
    plain, level = duplicates.neighbours(read_features(store_of(tmp_path, chips)))
    assert plain.chips.tolist() == [[3, 30], [5, 31]]
    chips[11] = chips[10][::-1, ::-1]
    chips[13] = chips[12][:, ::-1]
    (tmp_path / "more").mkdir()
    found, needed = duplicates.neighbours(read_features(store_of(tmp_path / "more", chips)))
    assert found.chips.tolist() == [[3, 30], [5, 31], [12, 13]]
    assert found.how == ["left to right", "top to bottom", "the same edge: mirrored or overlapping"]
    assert abs(needed - level) < 0.1


def test_many_chips_have_the_neighbours_that_few_have_though_not_every_pair_is_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(3)
    wide, tall = texture(rng, SIDE, 20 * SIDE), texture(rng, 20 * SIDE, SIDE)
    pieces = [*np.split(wide, 20, axis=1), *np.split(tall, 20, axis=0), *(texture(rng) for _ in range(40))]
    features = read_features(store_of(tmp_path, pieces))
    found, _ = duplicates.neighbours(features)
    with mock.patch("analysis.duplicates.MAX_EXACT", 10), mock.patch("preprocess.console.LOG_EVERY_S", 0):
        proposed, _ = duplicates.neighbours(features)
    assert "audit: neighbours, left to right: 80/80 edges" in capsys.readouterr().out
    meet = [[chip, chip + 1] for chip in range(39) if chip != 19]
    assert found.chips.tolist() == proposed.chips.tolist() == meet
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chips.zarr", "tags.csv", "tif"]  # nothing is left


def test_every_copy_of_a_train_chip_in_test_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(9)
    chips = [texture(rng) for _ in range(20)]
    train, test = (sorted(rows.tolist()) for rows in course_rows(20))
    copies = [test[0], test[1], next(row for row in train if row > test[1])]
    for row in copies[1:]:
        chips[row] = chips[copies[0]]
    store = store_of(tmp_path, chips)
    for name in ("tables/old.csv", "tables/mine.txt", "figures/old.png", "mine.csv"):
        path = tmp_path / "chips.zarr.audit" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("of an earlier audit, or the user's own")
    found = findings_of(store)
    left = [path.name for path in (tmp_path / "chips.zarr.audit").rglob("*") if path.stem in ("old", "mine")]
    assert sorted(left) == ["mine.csv", "mine.txt"]
    assert found["Exact duplicates"].chips.tolist() == [[copies[0], copies[1]], [copies[0], copies[2]]]
    across = found["Exact duplicates, in train and in test"]
    assert across.chips.tolist() == [[copies[0], copies[2]], [copies[1], copies[2]]]
    assert across.reasons == ["same pixels"] * 2
    assert "test chips in a group with train or val chips 2" in Page(tmp_path / "chips.zarr.audit/audit.html").text


def test_pairs_by_hamming_distance_equal_counted_bits() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 60, dtype=np.uint64)
    hashes[40:] = hashes[:20] ^ (np.uint64(1) << rng.integers(0, 63, 20).astype(np.uint64))
    found = close_hashes(hashes, 8).tolist()
    direct = [[i, j] for i in range(60) for j in range(i + 1, 60)
              if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= 8]  # fmt: skip
    assert found == direct
    assert len(found) >= 20


def test_pairs_that_share_a_chip_are_one_group() -> None:
    def pairs(*rows: tuple[int, int]) -> duplicates.Pairs:
        return duplicates.Pairs(chips=np.array(rows, np.int64).reshape(-1, 2), how=[""] * len(rows))

    assert duplicates.groups(8, pairs((0, 5), (2, 3)), pairs((3, 7)), pairs()) == [[0, 5], [2, 3, 7]]
    assert duplicates.groups(3, pairs(), pairs()) == []


def test_neighbours_in_real_scenes_are_found_without_a_false_one(shared: Path, tmp_path: Path) -> None:
    """Chips of 64 pixels, cut every 32 pixels: two chips 64 pixels apart are neighbours, because their edges meet."""
    data = shared / "data/landsat_masks"
    convert(conversion(data=data / "tiles", labels=data / "train.csv", store=tmp_path / "s.zarr",
                    bands=("blue", "green", "red", "nir")))  # fmt: skip
    store = open_store(tmp_path / "s.zarr")
    with open(data / "tiles_index.csv", newline="") as file:
        place = {row["image_name"]: (row["scene"], int(row["y"]), int(row["x"])) for row in csv.DictReader(file)}
    at = [place[name] for name in store.names.tolist()]
    features = read_features(store)
    found, _ = duplicates.neighbours(features)
    with mock.patch("analysis.duplicates.MAX_EXACT", 100):  # as for many chips: not every pair is compared
        proposed, _ = duplicates.neighbours(features)
    assert np.array_equal(proposed.chips, found.chips)
    assert proposed.how == found.how
    apart = {
        (at[a][0] == at[b][0], abs(at[a][1] - at[b][1]), abs(at[a][2] - at[b][2])) for a, b in found.chips.tolist()
    }
    assert apart == {(True, 0, 64), (True, 64, 0)}
    assert len(found.chips) > 500  # of 1,170 pairs
