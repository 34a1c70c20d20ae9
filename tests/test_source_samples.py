"""Files with the size and time of those that were converted, but other pixels, are not taken for them."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from helpers.chips import conversion, write_csv

from preprocess.convert import convert
from preprocess.shares import Share
from preprocess.zarr_store import open_store

COUNT = 600  # three shards


def folder(path: Path, offset: int) -> Path:
    """Uncompressed chips of one size and one time, whose values differ by `offset`."""
    path.mkdir()
    for index in range(COUNT):
        file = path / f"{index}.tif"
        tifffile.imwrite(file, np.full((8, 8), (index + offset) % 250, np.uint8), photometric="minisblack")
        os.utime(file, (1e9, 1e9))
    return path


@pytest.fixture
def settings(tmp_path: Path) -> Callable:
    write_csv(tmp_path / "tags.csv", [(str(index), "a") for index in range(COUNT)])
    return lambda data: conversion(
        data=data, labels=tmp_path / "tags.csv", store=tmp_path / "chips.zarr", bands=("gray",)
    )


def test_a_conversion_is_not_resumed_with_other_pixels_of_equal_size_and_time(
    tmp_path: Path, settings: Callable, refused: Callable
) -> None:
    one, other = folder(tmp_path / "one", 0), folder(tmp_path / "other", 100)
    convert(settings(one), share=Share(number=1, count=2))
    message = refused(lambda: convert(settings(other)))
    assert "0.tif has the size and time of the file that was converted, but other pixels. Give the DATA" in message
    convert(settings(one))
    assert open_store(tmp_path / "chips.zarr").num_chips == COUNT
    assert "but other pixels" in refused(lambda: convert(settings(other)))


def test_the_same_files_in_another_folder_are_the_same(
    tmp_path: Path, settings: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    one = folder(tmp_path / "one", 0)
    convert(settings(one), share=Share(number=1, count=2))
    shutil.move(one, tmp_path / "moved")
    convert(settings(tmp_path / "moved"))
    convert(settings(tmp_path / "moved"))
    out = capsys.readouterr().out
    assert "resuming: 256 of 600 chips are done." in out
    assert "Nothing to do." in out
