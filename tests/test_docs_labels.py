"""Every example of labels in docs/formats.md makes the store that the page says."""

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.chips import smooth
from helpers.doc_blocks import ROOT, Block, commands, read_blocks
from tifffile import imwrite

from canopy.main import dispatch
from preprocess.zarr_store import open_store

PAGE = ROOT / "docs" / "formats.md"
ROWS = {"chip_0": {"road", "water"}, "chip_1": {"water"}, "chip_2": set()}


def read_examples() -> list[tuple[Block, Block]]:
    """(block with the labels, block with the commands) for each example of the section."""
    lines = PAGE.read_text().splitlines()
    start = lines.index("## Labels")
    end = next(number for number in range(start + 1, len(lines)) if lines[number].startswith("## "))
    blocks = [block for block in read_blocks(PAGE) if start < block.line < end]
    return list(zip(blocks[::2], blocks[1::2], strict=True))


EXAMPLES = read_examples()


def write_labels(block: Block, path: Path) -> None:
    """The labels of an example at the place that its command names, or its tree of files."""
    if block.language == "python":
        subprocess.run([sys.executable, "-c", "\n".join(block.lines)], cwd=path.parent, check=True)
    elif block.language == "text":
        for name in block.lines:
            write_chip(path.parent / name)
    else:
        path.write_text("\n".join([*block.lines, ""]))


def write_chip(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    chip = smooth(np.random.default_rng(0), (4, 16, 16), "uint16")
    imwrite(path, np.moveaxis(chip, 0, -1), photometric="minisblack", planarconfig=1)


@pytest.mark.parametrize(("labels", "shell"), EXAMPLES, ids=[labels.where for labels, _ in EXAMPLES])
def test_each_example_of_labels_makes_the_store_that_the_page_says(
    labels: Block, shell: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ROWS:
        write_chip(tmp_path / "tif" / f"{name}.tif")
    lines = [shlex.split(line)[1:] for line in commands(shell)]
    file = next(word.removeprefix("LABELS=") for word in lines[0] if word.startswith("LABELS="))
    write_labels(labels, tmp_path / file)
    for words in lines:
        assert dispatch("", [*words, *(["JOBS=1"] if words[0] == "zarr" else [])]) == 0
    store = open_store(tmp_path / "chips.zarr")
    found = {
        name.removesuffix(".tif"): {tag for tag, mark in zip(store.classes, marks, strict=True) if mark}
        for name, marks in zip(store.names.tolist(), store.labels.tolist(), strict=True)
    }
    if labels.language == "text":
        expected = {name.removeprefix("EuroSAT/").removesuffix(".tif"): {name.split("/")[1]} for name in labels.lines}
        assert found == expected
    else:
        assert found == ROWS
    assert (store.split is not None) == ("SPLIT_COLUMN" in " ".join(lines[0]))


def test_the_page_has_an_example_of_every_form() -> None:
    text = " ".join(line for _, shell in EXAMPLES for line in commands(shell))
    for word in ("list", "onehot", "long"):
        assert f"LABELS_FORMAT={word}" in text
    for word in (
        "TAGS_SEPARATOR",
        "CSV_SEPARATOR",
        "NAME_COLUMN",
        "SPLIT_COLUMN",
        ".jsonl",
        ".parquet",
        "LABELS=folders",
    ):
        assert word in text
