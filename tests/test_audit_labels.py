"""Checks of labels, and of JPEGs beside the TIFFs."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.audits import findings_of, store_of, texture
from helpers.chips import to_store, write_chips, write_csv
from helpers.pages import Page
from PIL import Image

from analysis import label_checks
from analysis.audit import audit
from analysis.finding_actions import action
from analysis.finding_sections import finding_section
from analysis.findings import Check, Finding
from analysis.page import Note, Table, Tables
from analysis.pictures import ImageBudget
from preprocess.labels import read_labels
from preprocess.packed_texts import PackedTexts
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


def test_checks_that_were_not_made_are_listed_with_the_reason(
    uint8_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    findings = audit(uint8_store.path, labels=None, jpeg=None, run_path=None, split_rule="course", exclusive=None)
    missing = {finding.title for finding in findings if finding.missing}
    assert missing == {
        "Different from the JPEG", "Contradictory tags", "None of the exclusive tags", "Repeated tags",
        "Tags differ from the CSV", "Labels that the model doubts",
    }  # fmt: skip
    assert "Repeated tags: not looked for: needs LABELS=file.csv." in capsys.readouterr().out
    folder = Path(f"{uint8_store.path}.audit")
    counts = pd.read_csv(folder / "tables/findings.csv").set_index("finding")["count"]
    assert set(counts.index[counts == "not looked for"]) == missing
    text = Page(folder / "audit.html").text
    found_none = text.partition("Found none: ")[2].partition(".")[0].split("; ")
    assert sorted(found_none) == sorted(f.title for f in findings if not f.missing and not f.count)
    assert text.index("Found none: ") < text.index("Not looked for: check") < text.index("Repeated tags needs")


def test_a_class_without_a_chip_in_a_split_is_a_finding_with_its_splits(tmp_path: Path) -> None:
    chips = write_chips(tmp_path / "tif", count=20)
    write_csv(chips.csv, [(f"t_{row}", "a b" if row == 19 else "a") for row in range(20)])
    store = to_store(chips, tmp_path / "chips.zarr")
    (tmp_path / "split.csv").write_text(
        "image_name,split\n" + "".join(f"t_{row},{'test' if row < 8 else 'train'}\n" for row in range(20))
    )
    finding = findings_of(store, split_rule=str(tmp_path / "split.csv"))["Classes absent from a split"]
    assert finding.table is not None
    assert finding.table.to_numpy().tolist() == [["b", "test", 1]]
    page = Page(Path(f"{store.path}.audit/audit.html"))
    assert "Classes absent from a split (1)" in page.text
    assert "tables/classes_absent_from_a_split.csv" in page.links


def test_classes_that_few_test_chips_have_or_lack_and_chips_without_a_tag_are_findings(tmp_path: Path) -> None:
    chips = write_chips(tmp_path / "tif", count=70)
    tags = [
        ("a " if row != 5 else "") + ("b " if row < 40 else "") + ("c" if row in (0, 65) else "") for row in range(70)
    ]
    write_csv(chips.csv, [(f"t_{row}", tags[row] if row != 69 else "") for row in range(70)])
    store = to_store(chips, tmp_path / "chips.zarr")
    (tmp_path / "split.csv").write_text(
        "image_name,split\n" + "".join(f"t_{row},{'test' if row < 60 else 'train'}\n" for row in range(70))
    )
    found = findings_of(store, split_rule=str(tmp_path / "split.csv"))
    table = found["Classes with too few test chips"].table
    assert table is not None
    assert table.to_numpy().tolist() == [["a", 59, 1], ["b", 40, 20], ["c", 1, 59]]
    assert found["No tag"].chips.tolist() == [[69]]
    page = Page(Path(f"{store.path}.audit/audit.html"))
    assert "what to do" in page.text
    assert page.text.index("If nobody has labelled the chip, remove its row") < page.text.index("Found none")


@pytest.mark.parametrize("check", [Check.EXACT_DUPLICATES, Check.SATURATED, Check.REPEATED_TAGS])
def test_each_finding_ends_with_what_to_do_and_a_link_to_its_table(check: Check, session_store: Store) -> None:
    finding = Finding(
        check=check, about="x", chips=np.array([[0, 1]]), reasons=["y"], is_leak=check is Check.EXACT_DUPLICATES
    )
    tables = Tables(folder=Path(f"{session_store.path}.tables"))
    splits = np.full(session_store.num_chips, "train")
    what = action(finding, [finding], session_store, None)
    budget = ImageBudget(blocks=1)
    section = finding_section(session_store, session_store.name_texts, splits, finding, what, tables, budget)
    assert [block.text for block in section.blocks[:2] if isinstance(block, Note)] == ["x", what]
    table = section.blocks[-1]
    assert isinstance(table, Table)
    assert table.caption == "All of them:"
    assert (tables.folder.parent / f"{session_store.path.name}.tables" / Path(table.csv).name).is_file()


def test_the_real_labels_repeat_a_tag_73_times_and_miss_the_weather_once(shared: Path) -> None:
    path = shared / "data/planet/train_v2.csv"
    table = read_labels(path, PRESETS["planet"].classes)
    store: Any = SimpleNamespace(
        name_texts=PackedTexts.of(table.names), labels=table.labels, classes=table.classes, source={}
    )
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
