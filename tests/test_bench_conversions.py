"""`make bench MODE=convert`: a row for TIFFs of each shape, JPEGs and PNGs."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from bench import conversions
from bench.chips import Shape, chip
from bench.conversions import Kind, make

_RGB = Shape(side=16, bands=("red", "green", "blue"), dtype="uint8")


def test_the_files_hold_the_chips(tmp_path: Path) -> None:
    tif, png, jpg = (
        make(Kind(shape=_RGB, count=3, suffix=suffix), tmp_path / suffix) / "files" / f"chip_2.{suffix}"
        for suffix in ("tif", "png", "jpg")
    )
    assert np.array_equal(tifffile.imread(tif), chip(2, _RGB))
    assert np.array_equal(imagecodecs.png_decode(png.read_bytes()), chip(2, _RGB))
    assert imagecodecs.jpeg8_decode(jpg.read_bytes()).shape == (16, 16, 3)


def test_each_kind_has_a_row_with_its_ratios_to_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = (Kind(shape=_RGB, count=3, suffix="jpg"), Kind(shape=Shape(side=16, bands=tuple("abcde")), count=3))
    monkeypatch.setattr(conversions, "KINDS", kinds)
    # Seconds and CPU seconds per chip: of the conversion, then of libraries, in each round.
    costs = iter([(9.0, 9.0), (9.0, 9.0), (1.0, 4.0), (0.25, 1.0)] * 2)

    def cost(count: int, work: object) -> tuple[float, float]:
        assert callable(work)
        work()
        return next(costs)

    monkeypatch.setattr(conversions, "_cost", cost)
    monkeypatch.setattr(conversions.os, "sched_getaffinity", lambda pid: {0})
    rows = conversions.rows(tmp_path, 1)
    assert [row["name"] for row in rows] == ["JPEG, 16 x 16 x 3 uint8", "TIFF, 16 x 16 x 5 uint16"]
    for row in rows:
        assert (row["chips_per_s"], row["ratio_to_libraries"], row["cpu_ratio_to_libraries"]) == (1.0, 0.25, 0.25)
        assert (row["samples"], row["libraries_samples"], row["cpu_ms_per_chip"]) == ([1.0], [4.0], 4000.0)
