"""The commands of formats.md about files convert folders that look as the page says."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import tifffile
from helpers.chips import write_csv
from helpers.doc_blocks import ROOT, commands, read_blocks
from helpers.pictures import colours, encoded, write_bands

from canopy.main import dispatch
from preprocess.zarr_store import open_store

PAGE = ROOT / "docs" / "formats.md"
HEADINGS = [number for number, line in enumerate(PAGE.read_text().splitlines(), 1) if line.startswith("## ")]
START = next(n for n in HEADINGS if PAGE.read_text().splitlines()[n - 1] == "## Files that a conversion reads")
END = next(n for n in HEADINGS if n > START)
LINES = [line for block in read_blocks(PAGE) if START < block.line < END for line in commands(block)]
SHAPES = {
    "jpg.zarr": (3, 24, 20, "uint8"), "l2a.zarr": (4, 24, 20, "int16"), "value.zarr": (4, 24, 20, "int16"),
    "stacks.zarr": (13, 24, 20, "uint16"), "drone.zarr": (4, 24, 20, "uint8"), "sar.zarr": (2, 24, 20, "float32"),
    "s2.zarr": (4, 24, 20, "uint8"), "ben.zarr": (4, 120, 120, "uint16"), "s1.zarr": (2, 24, 20, "float32"),
    "landsat.zarr": (4, 24, 20, "uint16"), "maps.zarr": (3, 24, 20, "uint8"), "uc.zarr": (3, 256, 256, "uint8"),
    "uc250.zarr": (3, 250, 250, "uint8"), "uc64.zarr": (3, 64, 64, "uint8"),
}  # fmt: skip


def write_folders(folder: Path) -> None:
    """The folders that the commands name, with chips n_0 to n_2, and labels.csv."""
    write_csv(folder / "labels.csv", [(f"n_{index}", "x") for index in range(3)])
    for name in ("jpg", "l2a", "stacks", "drone", "maps/images", "ucmerced"):
        (folder / name).mkdir(parents=True)
    for index in range(3):
        name = f"n_{index}"
        (folder / "jpg" / f"{name}.jpg").write_bytes(encoded(colours(index), "jpeg"))
        tifffile.imwrite(folder / "ucmerced" / f"{name}.tif", colours(index, 255 + index, 256), photometric="rgb")
        same = {band: colours(index, samples=1)[..., 0] for band in ("B02", "B03", "B04", "B08")}
        write_bands(folder / "s2", name, same)
        sides = {"B02": 120, "B03": 120, "B05": 60, "B01": 20}
        scaled = {band: colours(index, side, side, 1)[..., 0].astype(np.uint16) for band, side in sides.items()}
        write_bands(folder / "bigearthnet" / f"scene_{index % 2}", name, scaled)
        write_others(folder, name, colours(index, samples=4))


def write_others(folder: Path, name: str, values: np.ndarray) -> None:
    """(height, width, 4) uint8 values as chips of other kinds."""
    wide = values.astype(np.uint16) * 40
    nodata = (42113, "s", 0, "-9999", True)
    tifffile.imwrite(
        folder / "l2a" / f"{name}.tif", wide.astype(np.int16), photometric="minisblack", planarconfig="contig",
        extratags=[nodata],
    )  # fmt: skip
    tifffile.imwrite(folder / "drone" / f"{name}.tif", values, photometric="rgb", extrasamples=["unspecified"])
    rows = np.tile(wide, (1, 1, 4))[..., :13]  # without planarconfig, tifffile writes each row as a page
    tifffile.imwrite(folder / "stacks" / f"{name}.tif", rows, photometric="minisblack")
    (folder / "sar" / f"Class_{name}").mkdir(parents=True)
    tifffile.imwrite(
        folder / "sar" / f"Class_{name}" / f"{name}.tif", values[..., :2] / np.float32(7), photometric="minisblack",
        planarconfig="contig",
    )  # fmt: skip
    (folder / "maps" / "images" / f"{name}.png").write_bytes(encoded(np.ascontiguousarray(values[..., :3]), "png"))
    write_bands(folder / "sentinel1" / "S1A", name, {band: values[..., 0] / np.float32(7) for band in ("VV", "VH")})
    landsat = {f"SR_{band}": wide[..., 0] for band in ("B2", "B3", "B4", "B5")}
    write_bands(folder / "landsat", name, landsat, "{name}/{name}_{band}.TIF")


@pytest.mark.parametrize("line", LINES)
def test_a_command_of_the_page_converts_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_folders(tmp_path)
    words = shlex.split(line)
    assert words[:2] == ["make", "zarr"]
    assert dispatch("", [*words[1:], "JOBS=1"]) == 0
    (store,) = (word.removeprefix("STORE=") for word in words if word.startswith("STORE="))
    layout = open_store(tmp_path / store).layout
    assert (len(layout.bands), layout.height, layout.width, layout.dtype) == SHAPES[store]


def test_every_store_of_the_page_is_checked() -> None:
    assert len(LINES) == len(SHAPES)
