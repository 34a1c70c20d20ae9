"""README and docs: commands that the program knows, snippets that run, tables that agree with their records."""

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import indent
from typing import Any

import numpy as np
import pytest
from helpers.doc_blocks import PAGES, ROOT, Block, commands, read_blocks
from tiny import tiny_networks

from canopy.commands import COMMANDS, TARGETS, find
from canopy.main import dispatch
from models.network_info import NetworkInfo
from preprocess.layout import Layout
from train.contract.checkpoint import CheckpointValues, StateValues, TrainerValues
from train.contract.evaluation import Evaluation, Member
from train.contract.metrics import EpochLine
from train.contract.record import Chip, InputsRef, Record, SplitRef, StoreRef
from train.contract.results import MadeWith
from train.contract.surroundings import Machine, Resumed
from train.contract.verdict import Verdict

BLOCKS = [block for page in PAGES for block in read_blocks(page)]
SHELL = [block for block in BLOCKS if block.language in ("", "bash", "sh") and not block.reason]
PYTHON = [block for block in BLOCKS if block.language == "python" and not block.reason]
FIXTURES = ROOT / "tests" / "fixtures" / "v2"


def names(blocks: list[Block]) -> list[str]:
    return [block.where for block in blocks]


@pytest.mark.parametrize("block", SHELL, ids=names(SHELL))
def test_every_command_of_a_page_is_one_that_the_program_knows(block: Block) -> None:
    for line in commands(block):
        check_command(shlex.split(line), line)


def check_command(words: list[str], line: str) -> None:
    """Fail if a command line has a command, a setting or a value that does not exist."""
    if words[:2] == ["make", "help"]:
        words = words[1:]
        assert all(find(word.removeprefix("COMMAND=")) for word in words[1:]), line
        return
    if words[:3] == ["python", "-m", "canopy"]:
        name, settings = words[3], words[4:]
    elif words[:2] == ["python", "-m"]:
        name, settings = (words[2], words[3:]) if words[2] in COMMANDS else (words[3], words[4:])
    elif words[0] == "make":
        name, settings = words[1], words[2:]
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file(), line
        return
    else:
        pytest.fail(f"{line}: mark the block with `<!-- not run: reason -->`, or teach this test the command")
    if name in TARGETS:
        return
    command = find(name)
    assert command, line
    # RESUME wants a run that exists.
    settings = [f"RESUME={FIXTURES / 'stopped'}" if word.startswith("RESUME=") else word for word in settings]
    command.load_settings().from_words(settings, name)


@pytest.mark.parametrize("block", PYTHON, ids=names(PYTHON))
def test_every_python_snippet_runs_as_printed(block: Block, tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "store.zarr", tmp_path / "demo" / "chips.zarr")
    shutil.copytree(FIXTURES / "run", tmp_path / "runs" / "task1")
    code = "\n".join(block.lines)
    if "runs/task1" in code:  # the network of that run is tiny
        tests = str(ROOT / "tests")
        code = (
            f"import sys\nsys.path.append({tests!r})\nfrom tiny import tiny_networks\nwith tiny_networks():\n"
            + indent(code, "    ")
        )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_readme_has_at_most_100_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 100


def table(page: str, mark: str) -> list[list[str]]:
    """The rows below the header of the table that follows `<!-- table: mark -->`, without bold."""
    text = (ROOT / "docs" / page).read_text().split(f"<!-- table: {mark} -->")[1]
    lines = re.search(r"\n((?:\|.*\n)+)", text)
    assert lines
    rows = [[cell.strip().replace("*", "") for cell in line.strip("|").split("|")] for line in lines[1].splitlines()]
    return rows[2:]


def test_the_table_of_loaders_is_that_of_its_record() -> None:
    record = json.loads((ROOT / "bench/results/peers-20261129-030258.json").read_text())
    names = {
        "canopy, CODEC=none": "canopy-none", "canopy, only RGB": "canopy-lz4-rgb",
        "canopy, LZ4 store": "canopy-lz4", "ffcv": "ffcv", "DataLoader + memory": "dataloader-npy-memmap",
        "tensorstore": "tensorstore", "webdataset": "webdataset", "DataLoader + tifffile": "dataloader-tifffile",
        "DataLoader + rasterio": "dataloader-rasterio", "mosaicml": "mosaicml-streaming",
        "DataLoader + PIL": "dataloader-pil", "litdata": "litdata", "zarr-python": "dataloader-zarr-python",
        "canopy's host side": "canopy-device-host", "grain": "grain", "torchdata": "torchdata-nodes", "SPDL": "spdl",
    }  # fmt: skip
    rows = {row["name"]: row for row in record["rows"]}
    printed = table("results.md", "loader")
    assert len(printed) == len(rows)
    for cells in printed:
        title = cells[0].replace("`", "")
        row = rows[names[max((start for start in names if title.startswith(start)), key=len)]]
        assert row["chips_per_s"] == pytest.approx(float(np.median(row["samples"])))
        expected = [
            f"{row['chips_per_s']:,.0f}", "-" if title.startswith("canopy's host") else f"{row['ratio']:.1f}",
            f"{row['cpu_s_per_1000']:.2f}", f"{row['r_sol']:.2f}" if row["r_sol"] else "-",
        ]  # fmt: skip
        assert cells[1:] == expected, title


def test_the_table_of_conversions_is_that_of_its_record() -> None:
    record = json.loads((ROOT / "bench/results/convert-20261129-031251.json").read_text())
    assert table("results.md", "conversions") == [
        [
            row["name"], f"{row['chips_per_s']:,.0f}", f"{row['ratio_to_libraries']:.2f}",
            f"{row['cpu_ratio_to_libraries']:.2f}",
        ]
        for row in record["rows"] if "cpu_ratio_to_libraries" in row
    ]  # fmt: skip


def test_the_table_of_trainings_is_that_of_its_records() -> None:
    files = {
        "RECIPE=best": "best_s{}", "RECIPE=best EPOCHS=12 STEM=imagenet POOL=off": "best12_s{}",
        "RECIPE=course (its batch size is 16)": "course_s{}",
        "RECIPE=course BATCH=64": "course_batch64_s{}", "RECIPE=default": "default",
        "control: labels shuffled within each split, 2 epochs": "shuffled",
    }  # fmt: skip
    printed = table("results.md", "training")
    assert len(printed) == len(files)
    for title, *cells in printed:
        name = files[title.replace("`", "")]
        seeds = range(3) if "{}" in name else range(1)
        scores = [last_test_map(name.format(seed)) for seed in seeds]
        expected = [short(score) for score in scores]
        if len(scores) == 3:
            expected += [short(float(np.mean(scores))), f"{short(min(scores))} to {short(max(scores))}"]
        assert [cell for cell in cells if cell] == expected, title


def test_the_table_of_tta_is_that_of_its_record() -> None:
    record = json.loads((ROOT / "docs" / "results" / "planet_32px_best_tta.json").read_text())
    rows = [[seed[key] for seed in record["seeds"]] for key in ("test_map", "tta_map")]
    expected = [[short(score) for score in (*row, float(np.mean(row)))] for row in rows]
    printed = [[cell for cell in cells if cell] for _, *cells in table("results.md", "tta")]
    assert printed == [*expected, [short(record["mean_of_seeds_tta_map"])]]


def last_test_map(name: str) -> float:
    lines = (ROOT / "docs" / "results" / f"planet_32px_{name}.jsonl").read_text().splitlines()
    return float(json.loads(lines[-1])["test_map"])


def short(score: float) -> str:
    return f"{score:.4f}".removeprefix("0")


def formats() -> set[str]:
    """Every word in backticks of formats.md."""
    return set(re.findall(r"`([^`\s]+)`", (ROOT / "docs" / "formats.md").read_text()))


@pytest.mark.parametrize(
    "kind",
    [Layout, Record, StoreRef, SplitRef, InputsRef, Chip, Machine, Resumed, Evaluation, Member, EpochLine, MadeWith,
     CheckpointValues, StateValues, TrainerValues, Verdict, NetworkInfo],
)  # fmt: skip
def test_every_field_of_a_file_is_described(kind: type[Any]) -> None:
    fields = {field.name for field in dataclasses.fields(kind) if field.metadata.get("json", True)}
    assert fields <= formats()


def test_every_array_and_attribute_of_a_store_and_every_array_of_the_results_is_described() -> None:
    arrays = {path.parent.name for path in (FIXTURES / "store.zarr").glob("*/zarr.json")}
    attributes = set(json.loads((FIXTURES / "store.zarr" / "zarr.json").read_text())["attributes"])
    with np.load(FIXTURES / "run" / "results.npz") as results:
        assert arrays | attributes | set(results.files) <= formats()


def source_text() -> str:
    """The product's code with neighbouring texts joined, so that a message is one text however it is wrapped."""
    folders = ("preprocess", "pipeline", "models", "train", "analysis", "bench", "canopy")
    code = "\n".join(path.read_text() for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    return re.sub(r'"\s*\n\s*f?"', "", code)


def test_every_message_of_the_troubleshooting_page_is_one_of_the_code() -> None:
    code = source_text()
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    tables = re.findall(r"\| message \| remedy \|\n\|---\|---\|\n((?:\|.*\n)+)", page)
    assert tables
    parts = [row.split("`")[1] for text in tables for row in text.splitlines()]
    assert not [part for part in parts if part not in code]


TUTORIAL = ROOT / "docs" / "tutorial.md"


def masked(line: str) -> str:
    """A printed line without what differs between machines: numbers, widths, the processor, which epoch is best."""
    line = re.sub(r"\bon [^,]+, AMP", "on #, AMP", line)
    line = re.sub(r"(\d[\d,.]*\d|\d)(e[-+]?\d+)?", "#", line)
    return re.sub(r"\bbest: #", "best", " ".join(line.split()))


@pytest.mark.slow
def test_the_tutorial_prints_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Every command as printed, with a small network in the place of the ResNet."""
    monkeypatch.chdir(tmp_path)
    printed: set[str] = set()
    with tiny_networks():
        for block in read_blocks(TUTORIAL):
            if block in SHELL:
                for line in commands(block):
                    assert dispatch("", shlex.split(line)[1:]) == 0, line
                printed = {masked(line) for line in capfd.readouterr().out.splitlines()}
            elif block.language == "text":
                assert not [line for line in block.lines if masked(line) not in printed], block.where
