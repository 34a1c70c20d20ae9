"""TIFFs for predict are read with the band order and AXES of the store."""

from pathlib import Path

import numpy as np
import tifffile

from analysis.chip_folder import FolderReader, list_files
from preprocess.layout import plan_layout


def test_files_are_read_in_the_order_of_the_store_and_bad_ones_are_recorded(tmp_path: Path) -> None:
    """`rows` has one page per row. `cube` has three equal sides, so only AXES can tell the order of its dimensions."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 2**16, (16, 16, 4), dtype=np.uint16)
    cube = rng.integers(0, 2**16, (4, 4, 4), dtype=np.uint16)
    for name, values in (("cube", cube), ("rows", rows)):
        tifffile.imwrite(tmp_path / f"{name}.tif", values, photometric="minisblack")
    files = list_files(tmp_path)
    assert files.names == ["cube", "rows"]
    out = np.full((2, 2, 16, 16), 7, np.uint16)
    layout = plan_layout(bands=("a", "b", "c", "d"), height=16, width=16, dtype="uint16", codec="none")
    reader = FolderReader(files=files, layout=layout, bands=("d", "a"))
    reader.decode(np.array([0, 1]), out)
    assert not out[0].any()
    assert list(reader.bad) == [0]
    assert "expected (4, 16, 16) uint16 (bands, height, width)" in reader.bad[0]
    assert np.array_equal(out[1], rows.transpose(2, 0, 1)[[3, 0]])

    layout = plan_layout(bands=("a", "b", "c", "d"), height=4, width=4, dtype="uint16", codec="none")
    out = np.zeros((1, 4, 4, 4), np.uint16)
    for axes, expected in (("YXS", cube.transpose(2, 0, 1)), ("SYX", cube), (None, 0 * cube)):
        reader = FolderReader(files=files, layout=layout, bands=layout.bands, axes=axes)
        reader.decode(np.array([0]), out)
        assert np.array_equal(out[0], expected)
        assert ("AXES=YXS" in reader.bad.get(0, "")) is (axes is None)
