"""TIFFs of other programs that were once read wrongly (../shared/faults/tif): each is read as its README says.

The CSVs beside them: test_label_conversion.py.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from helpers.chips import conversion, write_csv

from analysis.chip_folder import list_files
from preprocess.convert import convert
from preprocess.info import info
from preprocess.zarr_store import Store, open_store

MARKED = "the files mark {} as nodata. It counts as a value in the statistics. NODATA=tag leaves it out."


@dataclass(frozen=True)
class Expected:
    """bands, side, dtype; `said` are parts of what the conversion prints; `nodata`: what the file marks."""

    bands: int
    side: int
    dtype: str
    said: tuple[str, ...] = ()
    nodata: str | None = None


NAMELESS = "the bands have no names. Training needs names, such as BANDS=blue,green,red,nir."
FILES = {
    "c0.Tif": Expected(4, 32, "uint16", ("The first, 'c0', means 'c0.Tif' (another suffix).",)),
    "cielab3.tif": Expected(3, 32, "uint8", (NAMELESS, "bands band1, band2, band3")),
    "float32_reflectance.tif": Expected(4, 32, "float32"),
    "hwc13_written_by_tifffile_default.tif": Expected(
        13, 64, "uint16", ("64 pages of 64 x 13 are read as rows of 13 bands of 64 x 64. AXES=SYX reads 64 bands",)
    ),
    "int16_s2_l2a.tif": Expected(4, 32, "int16", (MARKED.format("-9999"),), "-9999"),
    "three_samples_minisblack.tif": Expected(3, 16, "uint16", (NAMELESS, "bands band1, band2, band3")),
    "uint16_nodata65535.tif": Expected(4, 64, "uint16", (MARKED.format("65535"),), "65535"),
}  # fmt: skip


def collected(shared: Path, name: str) -> Path:
    path = shared / "faults" / "tif" / name
    if not path.is_file():
        pytest.skip(f"{path} does not exist")
    return path


def to_store(path: Path, folder: Path, **settings: object) -> Store:
    (folder / "tif").mkdir(exist_ok=True)
    shutil.copy(path, folder / "tif")
    write_csv(folder / "tags.csv", [(path.stem, "x")])
    store = folder / f"{len(settings)}.zarr"
    convert(conversion(data=folder / "tif", labels=folder / "tags.csv", store=store, **settings))
    return open_store(store)


def expected_values(path: Path) -> np.ndarray:
    """(band, y, x) as tifffile reads it; all of these files have their bands last."""
    return np.moveaxis(tifffile.imread(path), -1, 0)


@pytest.mark.parametrize("name", list(FILES))
def test_a_collected_tiff_is_read_exactly_and_says_what_is_odd(
    tmp_path: Path, shared: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, expected = collected(shared, name), FILES[name]
    store = to_store(path, tmp_path)
    printed = capsys.readouterr().out
    assert not [text for text in expected.said if text not in printed]
    (stored,) = np.asarray(zarr.open_group(store.path, mode="r")["tiles"][...])
    assert (stored.dtype, stored.shape) == (expected.dtype, (expected.bands, expected.side, expected.side))
    assert stored.tobytes() == np.ascontiguousarray(expected_values(path)).tobytes()
    assert list(list_files(tmp_path / "tif").names) == [path.stem]


@pytest.mark.parametrize("name", [name for name, expected in FILES.items() if expected.nodata])
def test_nodata_of_a_collected_tiff_is_shown_and_can_be_left_out(
    tmp_path: Path, shared: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, nodata = collected(shared, name), FILES[name].nodata
    info(to_store(path, tmp_path).local_path, "course")
    assert f"nodata       {nodata} (marked by the files; counts as a value in mean and std)" in capsys.readouterr().out
    store = to_store(path, tmp_path, nodata="tag")
    assert store.layout.nodata == nodata
    values = expected_values(path).astype(np.float64)
    wide = np.where(values == float(nodata or ""), np.nan, values)
    mean, std = store.band_statistics(np.arange(1))
    assert np.allclose(mean, np.nanmean(wide, axis=(1, 2)), rtol=1e-13, atol=0)
    assert np.allclose(std, np.nanstd(wide, axis=(1, 2)), rtol=1e-12, atol=0)


def test_every_collected_tiff_has_its_case(shared: Path) -> None:
    assert {path.name for path in collected(shared, "c0.Tif").parent.iterdir()} == FILES.keys()
