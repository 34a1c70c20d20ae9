"""The audit on a store with planted faults: each is found, and nothing else."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tifffile
from helpers.chips import conversion, write_csv
from helpers.made_runs import write_run
from helpers.pages import Page
from PIL import Image
from run_files import read_arrays, rewrite
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score

from analysis import duplicates, label_checks
from analysis.audit import audit
from analysis.features import area_means, read_features
from preprocess.convert import convert
from preprocess.labels import read_labels
from preprocess.presets import PRESETS, exclusive_classes
from preprocess.splits import course_rows, groups_path, make_split
from preprocess.zarr_store import Store, open_store

ROOT = Path(__file__).resolve().parents[1]
COUNT, SIDE = 90, 64
CLASSES = ("clear", "cloudy", "road", "water")


def texture(rng: np.random.Generator, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """(height, width, 4) uint16, as smooth as a picture, with bands that are alike."""
    common = gaussian_filter(rng.normal(size=(height, width)), 1.5)
    own = gaussian_filter(rng.normal(size=(height, width, 4)), (1.5, 1.5, 0))
    return np.clip(5000 + 3000 * common[..., None] + 1500 * own, 100, 60000).astype(np.uint16)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A store of 90 chips, with one fault of each kind; `rows` says where."""
    folder = tmp_path_factory.mktemp("planted")
    rng = np.random.default_rng(5)
    train, test = (sorted(rows.tolist()) for rows in course_rows(COUNT))
    chips = [texture(rng) for _ in range(COUNT)]
    rows = {
        "exact": (train[0], test[0]), "near": (train[1], test[1]), "beside": (train[2], test[2]),
        "below": (train[3], train[4]), "constant": train[5], "one band": train[6], "saturated": train[7],
        "empty": train[8], "far": train[9], "swapped": (test[5], test[6]),
    }  # fmt: skip
    chips[rows["exact"][1]] = chips[rows["exact"][0]]
    noise = rng.normal(0, 20, chips[0].shape)
    chips[rows["near"][1]] = np.clip(chips[rows["near"][0]] * 1.002 + noise, 0, 65535).astype(np.uint16)
    wide, tall = texture(rng, SIDE, 2 * SIDE), texture(rng, 2 * SIDE, SIDE)
    chips[rows["beside"][0]], chips[rows["beside"][1]] = wide[:, :SIDE], wide[:, SIDE:]
    chips[rows["below"][1]], chips[rows["below"][0]] = tall[:SIDE], tall[SIDE:]
    chips[rows["constant"]][:] = 5000
    chips[rows["one band"]][..., 2] = 5100
    chips[rows["saturated"]][:8, :8] = 65535
    chips[rows["empty"]][-10:] = 0
    chips[rows["far"]] = chips[rows["far"]] // 40
    names = [f"t_{index}" for index in range(COUNT)]
    (folder / "tif").mkdir()
    (folder / "jpg").mkdir()
    for name, chip in zip(names, chips, strict=True):
        tifffile.imwrite(folder / "tif" / f"{name}.tif", chip, photometric="minisblack", planarconfig=1)
    for row in (*train[10:14], *test[10:14]):
        shown = np.clip(chips[row if row != test[10] else 0][..., [2, 1, 0]] / 40, 0, 255).astype(np.uint8)
        Image.fromarray(shown).save(folder / "jpg" / f"{names[row]}.jpg")
    rows["jpeg"] = test[10]
    said = [f"{('clear', 'cloudy')[index % 2]} {('road', 'water')[index // 2 % 2]}" for index in range(COUNT)]
    said[train[15]], said[train[16]], said[train[17]] = "clear cloudy", "road", "clear road road"
    rows |= {"contradictory": train[15], "none": train[16], "repeated": train[17]}
    write_csv(folder / "tags.csv", list(zip(names, said, strict=True)))
    convert(conversion(data=folder / "tif", labels=folder / "tags.csv", store=folder / "chips.zarr",
                    bands=("blue", "green", "red", "nir")))  # fmt: skip
    store = open_store(folder / "chips.zarr")
    run = doubting_run(folder / "runs" / "one", store, rows["swapped"])
    findings = audit(store.path, labels=folder / "tags.csv", jpeg=folder / "jpg", run_path=run, split_rule="course",
                     exclusive=("clear", "cloudy"))  # fmt: skip
    found = {finding.title: finding for finding in findings}
    return SimpleNamespace(
        folder=folder, store=store, rows=rows, found=found, page=Page(folder / "chips.zarr.audit/audit.html")
    )


def doubting_run(path: Path, store: Store, swapped: tuple[int, int]) -> Path:
    """A run whose model is right about every label but two of `road`, where the label says otherwise."""
    write_run(path, store)
    arrays = read_arrays(path)
    labels = store.labels[make_split("course", store).test]
    truth = labels.copy()
    row_of = {str(name): row for row, name in enumerate(arrays["fnames"])}
    for chip in swapped:
        truth[row_of[str(store.names[chip])], 2] ^= 1
    rng = np.random.default_rng(0)
    logits = (8.0 * truth - 4 + rng.normal(0, 0.3, truth.shape)).astype(np.float32)
    ap = np.array([average_precision_score(labels[:, c], logits[:, c].astype(float)) for c in range(4)])
    preds = 1 / (1 + np.exp(-logits.astype(float)))
    return rewrite(
        path, arrays={"labels": labels, "logits": logits, "preds": preds, "AP": ap, "mAP": np.array(ap.mean())}
    )


@pytest.mark.parametrize(
    ("title", "where"),
    [
        ("Exact duplicates", ["exact"]), ("Exact duplicates, in train and in test", ["exact"]),
        ("Near duplicates", ["near"]), ("Near duplicates, in train and in test", ["near"]),
        ("Neighbours", ["beside", "below"]), ("Neighbours, in train and in test", ["beside"]),
        ("Constant", ["constant", "one band"]), ("Saturated", ["saturated"]), ("Partly empty", ["empty"]),
        ("Outliers", ["far"]), ("Different from the JPEG", ["jpeg"]), ("Contradictory tags", ["contradictory"]),
        ("None of the exclusive tags", ["none"]), ("Repeated tags", ["repeated"]), ("Tags differ from the CSV", []),
        ("Labels that the model doubts", ["swapped 0", "swapped 1"]),
    ],
)  # fmt: skip
def test_each_planted_fault_is_found_and_nothing_else(planted: SimpleNamespace, title: str, where: list[str]) -> None:
    rows = {**planted.rows, "swapped 0": planted.rows["swapped"][0], "swapped 1": planted.rows["swapped"][1]}
    expected = sorted(sorted(np.atleast_1d(rows[name]).tolist()) for name in where)
    assert sorted(planted.found[title].chips.tolist()) == expected
    assert len(planted.found) == 16


def test_the_page_shows_the_chips_of_every_finding(planted: SimpleNamespace) -> None:
    for finding in planted.found.values():
        if len(finding.chips):
            assert f"{finding.title} ({len(finding.chips)})" in planted.page.text
        for chip in finding.chips.ravel():
            assert str(planted.store.names[chip]) in dict(planted.page.pictures)
    assert planted.page.outside == []
    assert "constant" in planted.page.ids
    assert "tags_differ_from_the_csv" not in planted.page.ids  # nothing found, nothing to show
    assert f"line {planted.rows['repeated'] + 2}: road repeated" in planted.page.text


def test_the_stores_arrays_are_read_once_not_a_pair(planted: SimpleNamespace, tmp_path: Path) -> None:
    reads: list[str] = []
    store = replace(planted.store, read=lambda name: reads.append(name) or planted.store.read(name))
    features = read_features(store)
    alike = replace(features, hash=np.zeros_like(features.hash))  # so every pair is looked at
    reads.clear()
    duplicates.near_duplicates(store, alike)
    assert reads == ["checksum"]
    with mock.patch("analysis.audit.open_store", return_value=store):
        audit(store.path, labels=planted.folder / "tags.csv", jpeg=planted.folder / "jpg", run_path=None,
              split_rule="course", exclusive=("clear", "cloudy"))  # fmt: skip
    assert reads.count("names") <= 4  # the page, the split, the CSV, the JPEGs


def store_of(folder: Path, chips: list[np.ndarray]) -> Store:
    """A store of (height, width, 4) chips t_0, t_1, ..."""
    (folder / "tif").mkdir()
    for index, chip in enumerate(chips):
        tifffile.imwrite(folder / f"tif/t_{index}.tif", chip, photometric="minisblack", planarconfig=1)
    write_csv(folder / "tags.csv", [(f"t_{index}", "ab"[index % 2]) for index in range(len(chips))])
    convert(conversion(data=folder / "tif", labels=folder / "tags.csv", store=folder / "chips.zarr",
                    bands=("blue", "green", "red", "nir")))  # fmt: skip
    return open_store(folder / "chips.zarr")


def look(store: Store, **given: Any) -> dict[str, label_checks.Finding]:
    """The findings of an audit by their titles."""
    settings = {"labels": None, "jpeg": None, "run_path": None, "split_rule": None, "exclusive": None, **given}
    return {finding.title: finding for finding in audit(store.path, **settings)}


def test_turned_and_mirrored_copies_do_not_hide_the_neighbours(tmp_path: Path) -> None:
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


def test_every_copy_in_test_of_a_chip_in_train_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    found = look(store)
    left = [path.name for path in (tmp_path / "chips.zarr.audit").rglob("*") if path.stem in ("old", "mine")]
    assert sorted(left) == ["mine.csv", "mine.txt"]
    assert found["Exact duplicates"].chips.tolist() == [[copies[0], copies[1]], [copies[0], copies[2]]]
    across = found["Exact duplicates, in train and in test"]
    assert across.chips.tolist() == [[copies[0], copies[2]], [copies[1], copies[2]]]
    assert across.reasons == ["same pixels"] * 2
    assert "test chips in a group with train chips 2" in Page(tmp_path / "chips.zarr.audit/audit.html").text


def test_jpegs_of_other_shapes_and_none_at_all(tmp_path: Path, refused: Callable) -> None:
    rng = np.random.default_rng(10)
    chips = [texture(rng, 8, 32) for _ in range(6)]
    store = store_of(tmp_path, chips)
    folder = tmp_path / "jpg"
    assert f"JPEG={folder}: expected a folder of JPEGs, found nothing" in refused(lambda: look(store, jpeg=folder))
    folder.mkdir()
    assert "found none of 6" in refused(lambda: look(store, jpeg=folder))
    for row, shown in ((0, chips[0]), (1, chips[1].transpose(1, 0, 2)), (2, chips[3])):
        colours = np.clip(shown[..., [2, 1, 0]] / 40, 0, 255).astype(np.uint8)
        Image.fromarray(colours).resize((2 * colours.shape[1], 2 * colours.shape[0])).save(folder / f"t_{row}.jpg")
    found = look(store, jpeg=folder)["Different from the JPEG"]
    assert found.chips.tolist() == [[1], [2]]
    assert found.reasons[0] == "t_1.jpg is 64 x 16 pixels, the chip 8 x 32"
    assert "3 of 6 chips have a JPEG; 3 without one were skipped" in found.about


def test_what_can_be_refused_is_before_a_pixel_is_read(planted: SimpleNamespace, tmp_path: Path,
                                                      refused: Callable) -> None:  # fmt: skip
    with mock.patch("analysis.audit.read_features", side_effect=AssertionError("pixels were read")):
        assert "SPLIT=half" in refused(lambda: look(planted.store, split_rule="half"))
        assert "JPEG=" in refused(lambda: look(planted.store, jpeg=tmp_path / "typo"))


def test_the_split_is_the_runs_where_none_is_given(planted: SimpleNamespace, tmp_path: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    run = shutil.copytree(planted.folder / "runs/one", tmp_path / "run")

    def trained_on(sha256: str) -> None:
        def change(values: dict[str, Any]) -> None:
            values["config"] |= {"split": "0.5,0.5@3", "val": 0.2}
            values["split"]["sha256"] = sha256

        rewrite(run, both=change)

    trained_on(make_split("0.5,0.5@3", planted.store, val=0.2).sha256())
    page = planted.store.path.with_name("chips.zarr.audit") / "audit.html"
    look(planted.store, run_path=run)
    assert "split 0.5,0.5@3 + val 0.2" in page.read_text()
    look(planted.store, run_path=run, split_rule="course")
    assert "split course" in page.read_text()
    assert "another division" not in capsys.readouterr().out
    trained_on("0" * 64)
    look(planted.store, run_path=run)
    assert "the run was trained on another split" in capsys.readouterr().out


def test_a_blocked_split_divides_no_group(planted: SimpleNamespace) -> None:
    split, rows = make_split("blocked", planted.store), planted.rows
    sides = [set(part.tolist()) for part in (split.train, split.val, split.test)]
    assert sorted(chip for side in sides for chip in side) == list(range(COUNT))
    for name in ("exact", "near", "beside", "below"):
        assert sum(bool(set(rows[name]) & side) for side in sides) == 1
    assert len(split.test) == round(0.33 * COUNT)
    again, with_val = make_split("blocked", planted.store), make_split("blocked", planted.store, val=0.2)
    assert again.sha256() == split.sha256()
    assert np.array_equal(with_val.test, split.test)
    assert len(with_val.val) == round(0.2 * (COUNT - len(split.test)))
    for name in ("exact", "near", "beside", "below"):
        assert len({bool(set(with_val.val.tolist()) & {chip}) for chip in rows[name]}) == 1


def test_a_blocked_split_needs_the_audit_of_this_store(session_store: Store, tmp_path: Path, refused: Callable,
                                                       planted: SimpleNamespace) -> None:  # fmt: skip
    text = refused(lambda: make_split("blocked", session_store))
    assert "make audit STORE=" in text
    path = groups_path(planted.store.path)
    whole = path.read_text()
    try:
        path.write_text(json.dumps({**json.loads(whole), "fingerprint": "0"}))
        assert "expected the groups of this store, found those of another" in refused(
            lambda: make_split("blocked", planted.store)
        )
        path.write_text("{")
        assert "damaged" in refused(lambda: make_split("blocked", planted.store))
        for groups, found in (
            ([[0, COUNT]], f"expected chips 0 to {COUNT - 1}, found {COUNT}"),
            ([[-1, 2]], "found -1"),
            ([[0, "1"]], "found '1'"),
            ([[0, 1], [1, 2]], "expected each chip in one group"),
            ([3], "damaged"),
        ):
            path.write_text(json.dumps({**json.loads(whole), "groups": groups}))
            assert found in refused(lambda: make_split("blocked", planted.store))
    finally:
        path.write_text(whole)


def test_what_was_not_looked_for_is_said(uint8_store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    findings = audit(uint8_store.path, labels=None, jpeg=None, run_path=None, split_rule="course", exclusive=None)
    missing = {finding.title for finding in findings if finding.missing}
    assert missing == {
        "Different from the JPEG", "Contradictory tags", "None of the exclusive tags", "Repeated tags",
        "Tags differ from the CSV", "Labels that the model doubts",
    }  # fmt: skip
    assert "Repeated tags: skipped: needs LABELS=file.csv." in capsys.readouterr().out


def test_features_are_those_of_the_pixels(planted: SimpleNamespace) -> None:
    features = read_features(planted.store)
    chip = planted.rows["saturated"]
    pixels = np.moveaxis(tifffile.imread(planted.folder / "tif" / f"t_{chip}.tif"), -1, 0)
    assert features.low[chip].tolist() == pixels.min(axis=(1, 2)).tolist()
    assert features.high[chip].tolist() == [65535] * 4
    assert features.at_high[chip].tolist() == [64] * 4
    assert features.empty[planted.rows["empty"]] == 10 * SIDE
    mean, std = planted.store.band_statistics(np.arange(COUNT))
    standard = (pixels - mean[:, None, None]) / std[:, None, None]
    assert np.allclose(features.thumbnail[chip], standard.reshape(4, 16, 4, 16, 4).mean(axis=(2, 4)), atol=1e-4)
    lines = np.stack([standard[:, :, 0], standard[:, :, -1], standard[:, 0], standard[:, -1]])  # (side, band, pixel)
    assert np.allclose(features.edges[chip, :, 0], lines.mean(axis=1), atol=1e-4)
    assert np.allclose(features.edges[chip, :, 1], lines[:, 3] - lines[:, :3].mean(axis=1), atol=1e-4)


def test_area_means_of_sides_that_do_not_divide() -> None:
    values = np.arange(2 * 5 * 7, dtype=np.float32).reshape(2, 5, 7)
    found = area_means(values, 3)
    assert found.shape == (2, 3, 3)
    assert found[0, 0, 0] == values[0, :1, :2].mean()
    assert found[1, 2, 2] == values[1, 3:, 4:].mean()


def test_hamming_pairs_are_those_of_counting_bits() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 60, dtype=np.uint64)
    hashes[40:] = hashes[:20] ^ (np.uint64(1) << rng.integers(0, 63, 20).astype(np.uint64))
    found = duplicates._close_hashes(hashes, 8).tolist()
    direct = [[i, j] for i in range(60) for j in range(i + 1, 60)
              if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= 8]  # fmt: skip
    assert found == direct
    assert len(found) >= 20


def test_groups_are_joined_through_others() -> None:
    def pairs(*rows: tuple[int, int]) -> duplicates.Pairs:
        return duplicates.Pairs(chips=np.array(rows, np.int64).reshape(-1, 2), how=[""] * len(rows))

    assert duplicates.groups(8, pairs((0, 5), (2, 3)), pairs((3, 7)), pairs()) == [[0, 5], [2, 3, 7]]
    assert duplicates.groups(3, pairs(), pairs()) == []


def test_the_real_labels_repeat_a_tag_73_times_and_lack_the_weather_once(shared: Path) -> None:
    path = shared / "data/planet/train_v2.csv"
    table = read_labels(path, PRESETS["planet"].classes)
    store: Any = SimpleNamespace(names=np.array(table.names), labels=table.labels, classes=table.classes, source={})
    repeated, differ = label_checks.csv_findings(store, path)
    assert len(repeated.chips) == 73
    assert len(differ.chips) == 0
    several, none = label_checks.exclusive_findings(store, exclusive_classes(table.classes))
    assert len(several.chips) == 0
    assert len(none.chips) == 1
    assert set(table.classes) - set(none.reasons[0].split()) >= set(PRESETS["planet"].exclusive)


def test_the_neighbours_of_real_scenes_are_found_without_a_wrong_one(shared: Path, tmp_path: Path) -> None:
    """Chips of 64 pixels at steps of 32: the chip 64 pixels on is the neighbour whose edge continues this one's."""
    data = shared / "data/landsat_masks"
    convert(conversion(data=data / "tiles", labels=data / "train.csv", store=tmp_path / "s.zarr",
                    bands=("blue", "green", "red", "nir")))  # fmt: skip
    store = open_store(tmp_path / "s.zarr")
    with open(data / "tiles_index.csv", newline="") as file:
        place = {row["image_name"]: (row["scene"], int(row["y"]), int(row["x"])) for row in csv.DictReader(file)}
    at = [place[name] for name in store.names.tolist()]
    found, _ = duplicates.neighbours(read_features(store))
    apart = {
        (at[a][0] == at[b][0], abs(at[a][1] - at[b][1]), abs(at[a][2] - at[b][2])) for a, b in found.chips.tolist()
    }
    assert apart == {(True, 0, 64), (True, 64, 0)}
    assert len(found.chips) > 500  # of 1,170


def test_exclusive_classes_must_be_there(session_store: Store, refused: Callable) -> None:
    assert "found 'x'" in refused(lambda: label_checks.exclusive_findings(session_store, ("a", "x")))
    assert exclusive_classes(session_store.classes) == ()


@pytest.mark.slow
def test_an_audit_loads_neither_torch_nor_dali(planted: SimpleNamespace) -> None:
    code = (
        "import sys, analysis, analysis.commands, analysis.audit, analysis.report, analysis.curves\n"
        "print([m for m in ('torch', 'nvidia', 'train.loop') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "[]"
