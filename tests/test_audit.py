"""The audit of a store with planted faults reports each of them and nothing else."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tifffile
from helpers.audits import SIDE, findings_of, texture
from helpers.chips import conversion, write_csv
from helpers.made_runs import write_run
from helpers.pages import Page
from PIL import Image
from run_files import read_arrays, rewrite
from sklearn.metrics import average_precision_score

from analysis import duplicates
from analysis.audit import audit
from analysis.chip_features import area_means
from analysis.features import read_features
from preprocess.convert import convert
from preprocess.splits import course_rows, groups_path, make_split
from preprocess.zarr_store import Store, open_store

ROOT = Path(__file__).resolve().parents[1]
COUNT = 90


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A store of 90 chips with one fault of each kind; `rows` has the rows of each fault."""
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
    tags = [f"{('clear', 'cloudy')[index % 2]} {('road', 'water')[index // 2 % 2]}" for index in range(COUNT)]
    tags[train[15]], tags[train[16]], tags[train[17]] = "clear cloudy", "road", "clear road road"
    rows |= {"contradictory": train[15], "none": train[16], "repeated": train[17]}
    write_csv(folder / "tags.csv", list(zip(names, tags, strict=True)))
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
    """A run whose model contradicts two labels of `road` and agrees with all other labels."""
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
        ("Labels that the model doubts", ["swapped 0", "swapped 1"]), ("Classes absent from a split", []),
            ("No tag", []),
    ],
)  # fmt: skip
def test_each_planted_fault_is_found_and_nothing_else(planted: SimpleNamespace, title: str, where: list[str]) -> None:
    rows = {**planted.rows, "swapped 0": planted.rows["swapped"][0], "swapped 1": planted.rows["swapped"][1]}
    expected = sorted(sorted(np.atleast_1d(rows[name]).tolist()) for name in where)
    assert sorted(planted.found[title].chips.tolist()) == expected
    assert len(planted.found) == 19


def test_the_page_shows_the_chips_of_every_finding(planted: SimpleNamespace) -> None:
    for finding in planted.found.values():
        if len(finding.chips):
            assert f"{finding.title} ({len(finding.chips)})" in planted.page.text
        for chip in finding.chips.ravel():
            assert str(planted.store.names[chip]) in dict(planted.page.pictures)
    assert planted.page.outside == []
    assert "constant" in planted.page.ids
    assert "tags_differ_from_the_csv" not in planted.page.ids  # no finding, so no section
    assert f"line {planted.rows['repeated'] + 2}: road repeated" in planted.page.text


def test_arrays_of_the_store_are_read_once_and_not_once_per_pair(planted: SimpleNamespace, tmp_path: Path) -> None:
    reads: list[str] = []
    store = replace(planted.store, read=lambda name, **how: reads.append(name) or planted.store.read(name, **how))
    features = read_features(store)
    alike = replace(features, hash=np.zeros_like(features.hash))  # so every pair is compared
    reads.clear()
    duplicates.near_duplicates(store, alike)
    assert reads == ["checksum"]
    with mock.patch("analysis.audit.open_store", return_value=store):
        audit(store.path, labels=planted.folder / "tags.csv", jpeg=planted.folder / "jpg", run_path=None,
              split_rule="course", exclusive=("clear", "cloudy"))  # fmt: skip
    assert reads.count("names") <= 4  # the page, the split, the CSV, the JPEGs


def test_bad_settings_are_refused_before_a_pixel_is_read(
    planted: SimpleNamespace, tmp_path: Path, refused: Callable
) -> None:
    with mock.patch("analysis.audit.read_features", side_effect=AssertionError("pixels were read")):
        assert "SPLIT=half" in refused(lambda: findings_of(planted.store, split_rule="half"))
        assert "JPEG=" in refused(lambda: findings_of(planted.store, jpeg=tmp_path / "typo"))


def test_the_split_of_the_run_is_the_default(
    planted: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(planted.folder / "runs/one", tmp_path / "run")

    def trained_on(sha256: str) -> None:
        def change(values: dict[str, Any]) -> None:
            values["config"] |= {"split": "0.5,0.5@3", "val": 0.2}
            values["split"]["sha256"] = sha256

        rewrite(run, both=change)

    trained_on(make_split("0.5,0.5@3", planted.store, val=0.2).sha256())
    page = planted.store.path.with_name("chips.zarr.audit") / "audit.html"
    findings_of(planted.store, run_path=run)
    assert "split 0.5,0.5@3 + val 0.2" in page.read_text()
    findings_of(planted.store, run_path=run, split_rule="course")
    assert "split course" in page.read_text()
    assert "another division" not in capsys.readouterr().out
    trained_on("0" * 64)
    findings_of(planted.store, run_path=run)
    assert "the run was trained on another split" in capsys.readouterr().out


def test_a_blocked_split_keeps_each_group_in_one_split(planted: SimpleNamespace) -> None:
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


def test_a_blocked_split_needs_the_audit_of_this_store(
    session_store: Store, tmp_path: Path, refused: Callable, planted: SimpleNamespace
) -> None:
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


def test_features_equal_those_computed_from_the_pixels(planted: SimpleNamespace) -> None:
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


def test_area_means_are_exact_for_sides_that_are_not_multiples() -> None:
    values = np.arange(2 * 5 * 7, dtype=np.float32).reshape(2, 5, 7)
    found = area_means(values, 3)
    assert found.shape == (2, 3, 3)
    assert found[0, 0, 0] == values[0, :1, :2].mean()
    assert found[1, 2, 2] == values[1, 3:, 4:].mean()
