"""What a TIFF states about its values: whether they are colours, and which value is nodata."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from helpers.tiffs import CHUNKY, PLANAR

from preprocess import tiff
from preprocess.presets import PRESETS


def test_planet_v1_is_refused_by_the_preset_only(tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "v1.tif"
    tifffile.imwrite(path, CHUNKY, photometric="rgb", extrasamples=["unassalpha"], rowsperstrip=4)
    assert tiff.read(path).shape == (4, 24, 20)
    assert "v1" in refused(lambda: tiff.read(path, PRESETS["planet"].check_page))


@pytest.mark.parametrize(
    ("values", "options", "is_rgb"),
    [
        (CHUNKY[..., :3], {"photometric": "rgb"}, True),
        (PLANAR[:3], {"photometric": "rgb", "planarconfig": "separate"}, True),
        (CHUNKY[..., :3].astype(np.uint8), {"photometric": "ycbcr", "compression": "jpeg"}, True),
        (CHUNKY[..., :3], {"photometric": "minisblack", "planarconfig": "contig"}, False),
        (CHUNKY[..., :3].astype(np.uint8), {"photometric": "cielab"}, False),
        (PLANAR[:3], {"photometric": "minisblack"}, False),
        (PLANAR[:3], {"photometric": "minisblack", "planarconfig": "separate"}, False),
        (CHUNKY, {"photometric": "rgb", "extrasamples": ["unspecified"]}, False),
        (CHUNKY[..., :3], {"photometric": "rgb", "extratags": [(42112, 2, 0, "GDAL", True)]}, False),
    ],
)
def test_three_samples_are_colours_only_if_the_file_says_so(
    tmp_path: Path, values: np.ndarray, options: dict, is_rgb: bool
) -> None:
    path = tmp_path / "chip.tif"
    if "extratags" in options:
        options = {**options, "extratags": [(42112, 2, 0, gdal_names("B02", "B03", "B04"), True)]}
    tifffile.imwrite(path, values, metadata=None, **options)
    assert tiff.read_facts(path).is_rgb is is_rgb


def gdal_names(*names: str) -> str:
    """Band descriptions as GDAL writes them into tag 42112."""
    items = "".join(
        f'  <Item name="DESCRIPTION" sample="{index}" role="description">{name}</Item>\n'
        for index, name in enumerate(names)
    )
    return f"<GDALMetadata>\n{items}</GDALMetadata>\n"


@pytest.mark.parametrize(
    ("text", "dtype", "nodata"),
    [("65535", "uint16", "65535"), ("0", "uint8", "0"), ("-9999", "uint16", None), ("300", "uint8", None),
     ("nan", "uint16", None), ("-9999", "int16", "-9999"), ("-9999.5", "float32", "-9999.5"),
     ("nan", "float32", None), ("inf", "uint8", None), ("1e4", "uint16", "10000"), ("none", "uint16", None)],
)  # fmt: skip
def test_nodata_is_a_value_that_the_dtype_can_hold(tmp_path: Path, text: str, dtype: str, nodata: str | None) -> None:
    path = tmp_path / "chip.tif"
    tags = [(42113, 2, 0, text, True)]
    tifffile.imwrite(path, CHUNKY[..., 0].astype(dtype), photometric="minisblack", extratags=tags)
    assert tiff.read_facts(path).nodata == nodata
    assert np.array_equal(tiff.read(path)[0], CHUNKY[..., 0].astype(dtype))
