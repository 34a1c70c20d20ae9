"""Checks of labels, and of JPEGs beside the TIFFs."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.audits import findings_of, store_of, texture
from PIL import Image

from analysis import label_checks
from analysis.audit import audit
from preprocess.labels import read_labels
from preprocess.presets import PRESETS, exclusive_classes
from preprocess.zarr_store import Store


def test_jpegs_of_other_shapes_are_findings_and_missing_jpegs_are_refused(tmp_path: Path, refused: Callable) -> None:
    rng = np.random.default_rng(10)
    chips = [texture(rng, 8, 32) for _ in range(6)]
    store = store_of(tmp_path, chips)
    folder = tmp_path / "jpg"
    assert f"JPEG={folder}: expected a folder of JPEGs, found nothing" in refused(
        lambda: findings_of(store, jpeg=folder)
    )
    folder.mkdir()
    assert "found none of 6" in refused(lambda: findings_of(store, jpeg=folder))
    for row, shown in ((0, chips[0]), (1, chips[1].transpose(1, 0, 2)), (2, chips[3])):
        colours = np.clip(shown[..., [2, 1, 0]] / 40, 0, 255).astype(np.uint8)
        Image.fromarray(colours).resize((2 * colours.shape[1], 2 * colours.shape[0])).save(folder / f"t_{row}.jpg")
    found = findings_of(store, jpeg=folder)["Different from the JPEG"]
    assert found.chips.tolist() == [[1], [2]]
    assert found.reasons[0] == "t_1.jpg is 64 x 16 pixels, the chip 8 x 32"
    assert "3 of 6 chips have a JPEG; the other 3 were skipped" in found.about


def test_skipped_checks_are_listed_with_the_reason(uint8_store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    findings = audit(uint8_store.path, labels=None, jpeg=None, run_path=None, split_rule="course", exclusive=None)
    missing = {finding.title for finding in findings if finding.missing}
    assert missing == {
        "Different from the JPEG", "Contradictory tags", "None of the exclusive tags", "Repeated tags",
        "Tags differ from the CSV", "Labels that the model doubts",
    }  # fmt: skip
    assert "Repeated tags: skipped: needs LABELS=file.csv." in capsys.readouterr().out


def test_the_real_labels_repeat_a_tag_73_times_and_miss_the_weather_once(shared: Path) -> None:
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


def test_exclusive_classes_must_be_classes_of_the_store(session_store: Store, refused: Callable) -> None:
    assert "found 'x'" in refused(lambda: label_checks.exclusive_findings(session_store, ("a", "x")))
    assert exclusive_classes(session_store.classes) == ()
