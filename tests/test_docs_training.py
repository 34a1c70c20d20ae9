"""The commands of training.md, and those of formats.md that train, predict and convert data sets, run on made files.

test_docs_labels.py and test_docs_files.py run the others.
"""

import importlib.util
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.chips import conversion, to_store, write_chips, write_csv
from helpers.commands import stop_at
from helpers.doc_blocks import ROOT, Block, commands, read_blocks
from helpers.pages import Page
from helpers.places import UTM_33N, geo_chips, geo_tags
from helpers.published import write_bigearthnet, write_eurosat, write_planet, write_ucmerced
from helpers.rasters import corners, names, raster, write_labels, write_raster
from safetensors.torch import save_file
from tiny import Steps, tiny_net, tiny_networks

from canopy.main import dispatch
from preprocess.convert import convert

pytestmark = pytest.mark.slow
NO_TIMM = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
NO_PYPROJ = pytest.mark.skipif(importlib.util.find_spec("pyproj") is None, reason="pyproj is not installed")
COVER = ("水体和湿地", "Broad-leaved forest", f"Land {'principally ' * 6}occupied")
NEEDS = ("needs timm", "needs three runs", "")  # reasons of blocks that are run here
TRAIN = ("EPOCHS=1", "BATCH=8", "GPU=cpu")


def blocks_of(page: str, *first_words: str) -> list[Block]:
    """Blocks of a page that begin with one of these texts."""
    found = [block for block in read_blocks(ROOT / "docs" / page) if block.language == "" and block.reason in NEEDS]
    return [block for block in found if any(line.startswith(first_words) for line in commands(block))]


BLOCKS = [
    *blocks_of("training.md", "make train"),
    *blocks_of("formats.md", "make train", "make info STORE=geo", "make zarr DATA=planet", "make zarr DATA=cover"),
    *blocks_of("formats.md", "make windows DATA=rasters", "make predict RUN=runs/task4 DATA=new"),
]
ENSEMBLES = blocks_of("training.md", "make ensemble")


def needs(block: Block) -> list[pytest.MarkDecorator]:
    """What must be installed for a block."""
    return [NO_TIMM] * (block.reason == "needs timm") + [NO_PYPROJ] * any("GEOJSON" in line for line in block.lines)


def write_geo_store(folder: Path) -> None:
    places = [
        geo_tags(UTM_33N, corner=(500_000.0 + 12_000 * (index % 6), 5.4e6), side=(10.0, 10.0)) for index in range(48)
    ]
    to_store(geo_chips(folder / "geo", places, side=32), folder / "geo.zarr")


def write_rasters(folder: Path) -> None:
    for name in ("north", "south"):
        write_raster(folder / "rasters" / f"{name}.tif", raster(len(name), 300, 600), tile=(128, 128))
    write_labels(folder, [*names("north", corners(300, 600, 256, 256)), *names("south", corners(300, 600, 256, 256))])


def write_run_and_new_chips(folder: Path) -> None:
    """runs/task4, and GeoTIFFs of the same bands in new/."""
    write_bands(folder, "chips.zarr", ("blue", "green", "red", "nir"))
    words = ["train", "TASK=4", "STORE=chips.zarr", *TRAIN, "WEIGHTS=none"]
    assert dispatch("", words) == 0
    geo_chips(folder / "new", [geo_tags(UTM_33N, corner=(500_000.0, 5.4e6), side=(10.0, 10.0))] * 4, side=48)


def write_bands(folder: Path, name: str, bands: tuple[str, ...]) -> None:
    chips = write_chips(folder / name.removesuffix(".zarr"), count=48, bands=len(bands), height=48, width=48)
    to_store(chips, folder / name, bands=bands)


def write_preset(folder: Path, name: str, write: Callable[[Path], object]) -> None:
    write(folder / name)
    store = folder / {"bigearthnet": "ben.zarr"}.get(name, f"{name}.zarr")
    convert(conversion(data=folder / name, preset=name, store=store))


def write_eurosats(folder: Path) -> None:
    write_eurosat(folder / "EuroSAT_RGB", 2)
    write_eurosat(folder / "EuroSAT_MS", 2, form="tif")


def write_cover(folder: Path) -> None:
    chips = write_chips(folder / "cover", count=48)
    write_csv(folder / "cover.csv", [(f"t_{index}", ";".join(COVER[index % 3 :])) for index in range(48)])
    chips.csv.unlink()


def write_timm(path: Path) -> None:
    import timm

    save_file(timm.create_model("convnext_tiny", num_classes=7).state_dict(), path)


def write_three_runs(folder: Path) -> None:
    write_bands(folder, "chips.zarr", ("blue", "green", "red", "nir"))
    for seed in range(3):
        assert dispatch("", ["train", "TASK=1", "STORE=chips.zarr", f"SEED={seed}", *TRAIN, "WEIGHTS=none"]) == 0


MAKERS: dict[str, Callable[[Path], object]] = {
    "STORE=chips.zarr": lambda folder: write_bands(folder, "chips.zarr", ("blue", "green", "red", "nir")),
    "STORE=s2.zarr": lambda folder: write_bands(folder, "s2.zarr", ("B02", "B03", "B04", "B08", "B11", "B12")),
    "STORE=geo.zarr": write_geo_store,
    "train TASK=1 STORE=ben.zarr": lambda folder: write_preset(
        folder, "bigearthnet", lambda data: write_bigearthnet(data, 24)
    ),
    "train TASK=1 STORE=ucmerced.zarr": lambda folder: write_preset(
        folder, "ucmerced", lambda data: write_ucmerced(data, 12)
    ),
    "DATA=cover": write_cover,
    "DATA=rasters": write_rasters,
    "ensemble RUNS=runs/task1": write_three_runs,
    "GEOJSON=1": write_run_and_new_chips,
    "DATA=planet": lambda folder: write_planet(folder / "planet"),
    "DATA=bigearthnet": lambda folder: write_bigearthnet(folder / "bigearthnet"),
    "DATA=eurosat": lambda folder: write_eurosats(folder / "eurosat"),
    "DATA=ucmerced": lambda folder: write_ucmerced(folder / "ucmerced"),
    "WEIGHTS=sentinel2_resnet18": lambda folder: save_file(
        tiny_net("resnet18", 13, None).state_dict(), folder / "sentinel2_resnet18.safetensors"
    ),
    "WEIGHTS=convnext_tiny": lambda folder: write_timm(folder / "convnext_tiny.safetensors"),
}


@pytest.mark.parametrize(
    "block", [pytest.param(block, id=block.where, marks=needs(block)) for block in [*BLOCKS, *ENSEMBLES]]
)
def test_the_commands_of_a_block_run(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_figures: None
) -> None:
    run_block(block, tmp_path, monkeypatch)


def run_block(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each command in a folder with the files that it names."""
    monkeypatch.chdir(tmp_path)
    lines = [line for line in commands(block) if line.startswith("make ")]
    with tiny_networks():
        for mark, make in MAKERS.items():
            if any(mark in line for line in lines):
                make(tmp_path)
        for line in lines:
            name, *words = shlex.split(line)[1:]
            if "RESUME=runs/task1" in line:
                shutil.rmtree(tmp_path / "runs" / "task1")
                with Steps(stop_at(3)).watch:
                    assert dispatch("", ["train", "TASK=1", "STORE=chips.zarr", *TRAIN, "WEIGHTS=none"]) == 75
            elif name == "train":
                shutil.rmtree(tmp_path / "runs" / f"task{words[0].removeprefix('TASK=')}", ignore_errors=True)
                words += [*TRAIN, *([] if "WEIGHTS=" in line else ["WEIGHTS=none"])]
            words += ["JOBS=1"] if name == "zarr" else []
            assert dispatch("", [name, *words]) == 0, line
            torch.use_deterministic_algorithms(False)


def test_every_block_of_training_md_that_trains_is_run() -> None:
    expected = [block for block in read_blocks(ROOT / "docs" / "training.md") if "make train" in "\n".join(block.lines)]
    assert [block for block in BLOCKS if block.page.name == "training.md"] == expected
    assert len(BLOCKS) == len(expected) + 7


def test_the_page_shows_long_and_chinese_names_and_true_colour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = blocks_of("formats.md", "make zarr DATA=cover")
    run_block(block, tmp_path, monkeypatch)
    captured = capsys.readouterr()
    assert "Warning" not in captured.out + captured.err
    page = Page(tmp_path / "runs/cover/report/report.html")
    assert "Colours: B04, B03, B02" in page.text
    for name in COVER:
        assert name in page.text
        assert name in (tmp_path / "runs/cover/report/tables/classes.csv").read_text()
