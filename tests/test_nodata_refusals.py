"""What a conversion with NODATA refuses, each with one line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.chips import conversion, to_store, write_chips
from helpers.nodata import write_chip, write_nodata

from pipeline.inputs import raw_inputs
from preprocess.console import UserError
from preprocess.header import sha256_of_json
from preprocess.zarr_store import open_store

Refused = Callable[..., str]


@pytest.mark.parametrize("word", ["abc", "inf", "-inf", "1e", "", "0x1f", "1_000", "nan nan"])
def test_words_that_are_no_value_are_refused(tmp_path: Path, word: str) -> None:
    with pytest.raises(UserError, match=r"^NODATA=.*expected a number, nan or tag"):
        conversion(data=tmp_path, nodata=word)


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("uint8", "256"), ("uint8", "-1"), ("uint16", "nan"), ("int16", "0.5"), ("int16", "nan"), ("float32", "1e39")],
)
def test_a_value_that_the_dtype_cannot_hold_is_refused(
    tmp_path: Path, refused: Refused, dtype: str, nodata: str
) -> None:
    chips = write_chips(tmp_path / "tif", dtype=dtype)
    line = refused(lambda: to_store(chips, tmp_path / "s.zarr", nodata=nodata))
    assert line == f"NODATA={nodata}: expected a value that {dtype} can hold, found {nodata}."
    for path in sorted(chips.folder.glob("*.tif")):
        write_chip(path, chips.values[0], nodata)
    line = refused(lambda: to_store(chips, tmp_path / "s.zarr", nodata="tag"))
    first = chips.folder / "t_0.tif"
    assert line == f"NODATA=tag: expected a value that {dtype} can hold, found {nodata} (GDAL_NODATA of {first})."


def test_tag_needs_a_tag_and_the_same_in_every_file(tmp_path: Path, refused: Refused) -> None:
    chips = write_nodata(tmp_path / "tif", "uint16", "0")
    first = chips.folder / "t_0.tif"
    line = refused(lambda: to_store(chips, tmp_path / "s.zarr", nodata="tag"))
    assert line == f"NODATA=tag: {first} has no GDAL_NODATA. Name the value: NODATA=0"
    for index in range(12):
        write_chip(chips.folder / f"t_{index}.tif", chips.values[index], "0")
    for tag, found in (("65535", "65535"), (None, "none")):
        write_chip(chips.folder / "t_7.tif", chips.values[7], tag)
        line = refused(lambda: to_store(chips, tmp_path / "s.zarr", nodata="tag"))
        assert line == (
            f"{chips.folder / 't_7.tif'}: expected GDAL_NODATA 0 as in {first}, found {found}. NODATA=0 marks this "
            "value in all files, whatever they say."
        )
        assert to_store(chips, tmp_path / f"{found}.zarr", nodata="0").layout.nodata == "0"


@pytest.mark.parametrize(
    ("nodata", "wrong", "counts"),
    [
        ("nan", [np.nan, np.inf], "0 NaN and 1 infinite values of 768 (the first in band 2, row 3, column 5)"),
        ("-9999", [-9999, np.nan], "1 NaN and 0 infinite values of 768 (the first in band 2, row 3, column 5)"),
        ("-9999", [np.nan, -np.inf], "1 NaN and 1 infinite values of 768 (the first in band 2, row 3, column 4)"),
    ],
)
def test_other_values_that_are_not_finite_stay_refused(
    tmp_path: Path, refused: Refused, nodata: str, wrong: list[float], counts: str
) -> None:
    chips = write_chips(tmp_path / "tif", count=6, bands=3, dtype="float32")
    chips.values[4, 1, 3, 4 : 4 + len(wrong)] = wrong
    write_chip(chips.folder / "t_4.tif", chips.values[4])
    line = refused(lambda: to_store(chips, tmp_path / "s.zarr", nodata=nodata))
    advice = "Replace them, or remove the chip from the CSV."
    assert line == f"{chips.folder / 't_4.tif'}: expected finite values, found {counts}. {advice}"


def test_a_band_without_a_valid_pixel_in_train_is_refused(tmp_path: Path, refused: Refused) -> None:
    chips = write_nodata(tmp_path / "tif", "int16", "-9999", empty=False)
    chips.values[:, 1] = -9999
    for index in range(12):
        write_chip(chips.folder / f"t_{index}.tif", chips.values[index])
    store = to_store(chips, tmp_path / "s.zarr", nodata="-9999")
    assert raw_inputs(store, ("blue", "nir"), np.arange(12)).bands == ("blue", "nir")
    line = refused(lambda: raw_inputs(store, ("blue", "green"), np.arange(12)))
    assert line.startswith(
        f"{store.path}: expected a valid pixel of green in the train split, found nothing but nodata"
    )


@pytest.mark.parametrize(
    ("version", "nodata", "reason"),
    [
        (2, "0", "layout: expected nodata in stores of version 3 only, found '0' in 2."),
        (3, None, "layout: expected nodata in stores of version 3 only, found None in 3."),
        (3, "0.0", "layout: nodata '0.0': expected a value of uint16 as `make zarr` writes it."),
        (3, "70000", "layout: nodata '70000': expected a value of uint16 as `make zarr` writes it."),
        (3, 0, "layout: nodata 0: expected a value of uint16 as `make zarr` writes it."),
        (3, "1", "the fingerprint is not that of the arrays."),
    ],
)
def test_altered_attributes_of_a_store_with_nodata_are_refused(
    tmp_path: Path, refused: Refused, version: int, nodata: object, reason: str
) -> None:
    store = to_store(write_nodata(tmp_path / "tif", "uint16", "0"), tmp_path / "s.zarr", nodata="0").local_path
    group = json.loads((store / "zarr.json").read_text())
    attributes = group["attributes"]
    attributes["version"] = version
    attributes["layout"]["nodata"] = nodata
    if nodata is None:
        del attributes["layout"]["nodata"]
    del attributes["attributes_sha256"]
    attributes["attributes_sha256"] = sha256_of_json(attributes)
    (store / "zarr.json").write_text(json.dumps(group))
    assert reason in refused(lambda: open_store(store))
