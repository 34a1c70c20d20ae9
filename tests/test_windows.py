"""WINDOW: chips are windows of large TIFFs. The oracle is tifffile.imread of the whole file."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tifffile
import zarr
from helpers.chips import DTYPES
from helpers.pictures import write_bands
from helpers.places import UTM_33N, geo_tags
from helpers.rasters import corners, cut, names, raster, windows_store, write_labels, write_raster

from preprocess.files import shard_path
from preprocess.info import info
from preprocess.plan_file import ShardTask
from preprocess.splits import make_split
from preprocess.verify import verify
from preprocess.write import convert_shard
from preprocess.zarr_store import Store

HEIGHT, WIDTH = 50, 70


def pixels(store: Store) -> np.ndarray:
    return np.asarray(zarr.open_group(store.path)["tiles"][...])


def one_raster(folder: Path, window: int = 16, stride: int = 16, **options: Any) -> list[tuple[int, int]]:
    """scene.tif with labels for all its windows, whose corners are returned."""
    write_raster(folder / "scene.tif", raster(0, HEIGHT, WIDTH), **options)
    places = corners(HEIGHT, WIDTH, window, stride)
    write_labels(folder, names("scene", places))
    return places


@pytest.mark.parametrize("stride", [8, 24])
def test_a_store_of_windows_is_exact_and_verified(tmp_path: Path, stride: int) -> None:
    places = one_raster(tmp_path / "in", stride=stride, tile=(32, 32), compression="deflate")
    store = windows_store(tmp_path / "in", tmp_path / "s.zarr", window=16, stride=stride)
    assert np.array_equal(pixels(store), cut(tmp_path / "in" / "scene.tif", places, 16))
    assert store.names.tolist() == names("scene", places)
    assert (store.source["window"], store.source["stride"]) == ("16", str(stride))
    assert not verify(store.local_path, jobs=1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_stored_unchanged(tmp_path: Path, dtype: str) -> None:
    path, places = tmp_path / "in" / "scene.tif", corners(HEIGHT, WIDTH, 32, 32)
    write_raster(path, raster(0, HEIGHT, WIDTH, dtype=dtype), planar=True, rowsperstrip=5, compression="lzw")
    write_labels(tmp_path / "in", names("scene", places))
    store = windows_store(tmp_path / "in", tmp_path / "s.zarr", window=32, codec="none")
    assert store.layout.dtype == dtype
    assert np.array_equal(pixels(store), cut(path, places, 32, planar=True))


def test_rasters_of_one_band_in_folders_and_rows_in_any_order(tmp_path: Path) -> None:
    rasters = ("a/one", "b/one", "two")
    for index, name in enumerate(rasters):
        write_raster(tmp_path / "in" / f"{name}.tif", raster(index, 20, 33, bands=1), rowsperstrip=3)
    rows = [name for raster in rasters for name in names(raster, [(0, 0), (0, 16)])]
    order = np.random.default_rng(0).permutation(6).tolist()
    write_labels(tmp_path / "in", [rows[index] for index in order])
    store = windows_store(tmp_path / "in", tmp_path / "s.zarr", window=16)
    expected = [cut(tmp_path / "in" / f"{name}.tif", [(0, 0), (0, 16)], 16) for name in rasters]
    assert np.array_equal(pixels(store), np.concatenate(expected)[order])
    assert store.names.tolist() == [rows[index] for index in order]


def padded(values: np.ndarray, places: list[tuple[int, int]], window: int, **how: Any) -> np.ndarray:
    chips = []
    for row, column in places:
        inside = values[:, row : row + window, column : column + window]
        more = ((0, 0), (0, window - inside.shape[1]), (0, window - inside.shape[2]))
        chips.append(np.pad(inside, more, **how))
    return np.stack(chips)


@pytest.mark.parametrize("nodata", [None, "0"])
def test_fit_pad_adds_windows_that_pass_the_right_and_the_lower_edge(
    tmp_path: Path, nodata: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.maximum(raster(0, HEIGHT, WIDTH), 1)
    tags = geo_tags(UTM_33N, corner=(500_000, 5_400_000), side=(10, 10))
    write_raster(tmp_path / "in" / "scene.tif", values, tile=(16, 16), extratags=tags)
    places = [(row, column) for row in (0, 16, 32, 48) for column in (0, 16, 32, 48, 64)]
    write_labels(tmp_path / "in", names("scene", places))
    store = windows_store(tmp_path / "in", tmp_path / "s.zarr", window=16, fit="pad", nodata=nodata)
    how: dict[str, Any] = {"mode": "reflect"} if nodata is None else {"constant_values": 0}
    assert np.array_equal(pixels(store), padded(values, places, 16, **how))
    assert "20 windows of 16 x 16 in 1 raster. 8 of them pass an edge and are padded." in capsys.readouterr().out
    info(store.local_path, "course")
    assert "16 of large rasters, one every 16 pixels; those at the edges are padded" in capsys.readouterr().out
    assert store.transform is not None
    assert store.transform[-1].tolist() == [10, 0, 500_640, 0, -10, 5_399_520]
    if nodata:
        assert store.valid_count[-1].tolist() == [2 * 6] * 3


def test_nodata_of_the_tag_is_left_out_and_every_raster_must_name_it(tmp_path: Path, refused: Callable) -> None:
    values = raster(0, 32, 32, dtype="float32")
    values[:, :10, :20] = -9999
    tag = [(42113, "s", 0, "-9999", True)]
    for name, tags in (("a", tag), ("b", [])):
        write_raster(tmp_path / "in" / f"{name}.tif", values, rowsperstrip=8, extratags=tags)
    write_labels(tmp_path / "in", names("a", corners(32, 32, 16, 16)))
    store = windows_store(tmp_path / "in", tmp_path / "s.zarr", window=16, nodata="tag")
    assert store.layout.nodata == "-9999"
    assert store.valid_count.tolist() == [[16 * 6] * 3, [16 * 16 - 10 * 4] * 3, [256] * 3, [256] * 3]
    write_labels(tmp_path / "in", [*names("a", [(0, 0)]), *names("b", [(0, 0)])])
    text = refused(lambda: windows_store(tmp_path / "in", tmp_path / "t.zarr", window=16, nodata="tag"))
    assert f"{tmp_path / 'in' / 'b.tif'}: expected GDAL_NODATA -9999" in text


def test_a_raster_can_have_a_file_per_band(tmp_path: Path) -> None:
    values = raster(0, HEIGHT, WIDTH)
    for name, part in (("s_1", values), ("s_2", values[::-1])):
        write_bands(tmp_path / "in", name, dict(zip(("B02", "B03", "B04"), part, strict=True)))
    places = corners(HEIGHT, WIDTH, 16, 16)
    write_labels(tmp_path / "in", names("s_1", places) + names("s_2", places))
    files, bands = "{name}/{name}_{band}.tif", ("B02", "B03", "B04")
    store = windows_store(tmp_path / "in", tmp_path / "s.zarr", window=16, files=files, bands=bands)
    expected = np.stack([values[:, row : row + 16, column : column + 16] for row, column in places])
    assert np.array_equal(pixels(store), np.concatenate([expected, expected[:, ::-1]]))
    assert store.layout.bands == bands


def test_each_window_has_its_own_place_and_blocks_use_it(tmp_path: Path) -> None:
    """Origin of a window: x = c + a * column, y = f + e * row; also for a grid with other sides."""
    tags = geo_tags(UTM_33N, corner=(500_000, 5_400_000), side=(100, 50))
    places = one_raster(tmp_path / "in", tile=(32, 32), extratags=tags)
    store = windows_store(tmp_path / "in", tmp_path / "s.zarr", window=16)
    expected = [[100, 0, 500_000 + 100 * column, 0, -50, 5_400_000 - 50 * row] for row, column in places]
    assert store.transform is not None
    assert store.transform.tolist() == expected
    assert store.crs is not None
    assert set(store.crs) == {"EPSG:32633"}
    split = make_split("blocked", store, block_km=1.6)
    assert "from coordinates" in split.note
    # The middle of a window is 800 m to the right of its corner, and 400 m below it.
    blocks = [((500_800 + 100 * column) // 1600, (5_399_600 - 50 * row) // 1600) for row, column in places]
    train, test = ({blocks[chip] for chip in chips.tolist()} for chips in (split.train, split.test))
    assert train
    assert test
    assert not train & test


def test_the_plan_says_what_is_left_over_and_how_many_windows_have_no_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_raster(tmp_path / "in")
    write_labels(tmp_path / "in", names("scene", [(0, 0), (16, 32)]))
    windows_store(tmp_path / "in", tmp_path / "s.zarr", window=16)
    output = capsys.readouterr().out
    assert f"{tmp_path / 'in' / 'tags.csv'}: 10 of 12 windows have no row; leaving them out." in output
    assert f"{tmp_path / 's.zarr'}: 12 windows of 16 x 16 in 1 raster. " in output
    assert "scene.tif: 2 rows below and 6 columns at the right are in no window. FIT=pad adds" in output


def test_a_changed_raster_is_converted_again_or_refused(tmp_path: Path, refused: Callable) -> None:
    one_raster(tmp_path / "in")
    windows_store(tmp_path / "in", tmp_path / "s.zarr", window=16)
    path = tmp_path / "in" / "scene.tif"
    write_raster(path, raster(1, HEIGHT, WIDTH), software="other")
    text = refused(lambda: windows_store(tmp_path / "in", tmp_path / "s.zarr", window=16))
    assert f"size or time of 12 source files, first {path}" in text
    text = refused(lambda: windows_store(tmp_path / "in", tmp_path / "s.zarr", window=16, stride=8))
    assert "STRIDE: 16, now 8" in text


def test_a_damaged_block_is_refused_and_no_store_is_left(tmp_path: Path, refused: Callable) -> None:
    one_raster(tmp_path / "in", rowsperstrip=10, compression="deflate")
    path = tmp_path / "in" / "scene.tif"
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages.first.dataoffsets[3], file.pages.first.databytecounts[3]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = bytes(count)
    path.write_bytes(data)
    assert f"{path}: expected a valid TIFF" in refused(
        lambda: windows_store(tmp_path / "in", tmp_path / "s.zarr", window=16)
    )
    assert not (tmp_path / "s.zarr").exists()
    write_labels(tmp_path / "in", names("scene", [(0, 0), (0, 16)]))  # windows that do not need the block
    assert windows_store(tmp_path / "in", tmp_path / "t.zarr", window=16).num_chips == 2


def test_nan_is_refused_with_the_window_named(tmp_path: Path, refused: Callable) -> None:
    values = raster(0, 32, 32, dtype="float32")
    values[1, 20, 25] = np.nan
    write_raster(tmp_path / "in" / "a.tif", values)
    write_labels(tmp_path / "in", names("a", corners(32, 32, 16, 16)))
    text = refused(lambda: windows_store(tmp_path / "in", tmp_path / "s.zarr", window=16))
    path = tmp_path / "in" / "a.tif"
    assert f"{path} (window from row 16, column 16 on): expected finite values, found 1 NaN" in text
    assert "(the first in band 2, row 4, column 9)" in text


LIMITED = """
import resource, sys
from pathlib import Path
from preprocess.commands import ConversionSettings
from preprocess.convert import convert

words = {"data": Path(sys.argv[1]), "labels": Path(sys.argv[1], "tags.csv"), "window": 64, "jobs": 1}
Path(sys.argv[1], "tags.csv").write_text("image_name,tags\\nscene_r00000_c00000,a\\n")
convert(ConversionSettings(store=Path(sys.argv[2], "first.zarr"), **words))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = [f"scene_r{row:05d}_c{column:05d},a" for row in range(0, 4096, 512) for column in range(0, 4096, 512)]
Path(sys.argv[1], "tags.csv").write_text("\\n".join(["image_name,tags", *rows]))
convert(ConversionSettings(store=Path(sys.argv[2], "s.zarr"), **words))
print("MiB", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("tiled", [pytest.param(False, marks=pytest.mark.slow), True])
def test_memory_grows_with_the_windows_and_not_with_the_raster(tmp_path: Path, tiled: bool) -> None:
    """4096 x 4096 x 4 uint16 are 128 MiB; 64 windows of 64 x 64 are 2 MiB."""
    (tmp_path / "in").mkdir()
    path, shape = tmp_path / "in" / "scene.tif", (4096, 4096, 4)
    if tiled:
        tiles = (np.full((512, 512, 4), index, np.uint16) for index in range(64))
        tifffile.imwrite(
            path, tiles, shape=shape, dtype=np.uint16, tile=(512, 512), compression="zstd", metadata=None,
            photometric="minisblack", planarconfig="contig",
        )  # fmt: skip
    else:  # a sparse file
        tifffile.memmap(
            path, shape=shape, dtype=np.uint16, photometric="minisblack", planarconfig="contig", metadata=None
        ).flush()
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "in"), str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout.rpartition("MiB ")[2]) < 32


@pytest.mark.slow
def test_jobs_do_not_change_a_byte(tmp_path: Path) -> None:
    values = raster(0, 400, 400)
    write_raster(tmp_path / "in" / "scene.tif", values, tile=(64, 64), compression="lzw")
    write_labels(tmp_path / "in", names("scene", corners(400, 400, 16, 16)))
    stores = [windows_store(tmp_path / "in", tmp_path / f"{jobs}.zarr", window=16, jobs=jobs) for jobs in (1, 2)]
    assert stores[0].fingerprint == stores[1].fingerprint
    for shard in range(stores[0].layout.num_shards(625)):
        one, two = (shard_path(store.local_path, shard).read_bytes() for store in stores)
        assert one == two


def test_an_interrupted_conversion_goes_on_with_the_shards_that_are_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, places, done = tmp_path / "in" / "scene.tif", corners(400, 400, 16, 16), []
    write_raster(path, raster(0, 400, 400), tile=(64, 64))
    write_labels(tmp_path / "in", names("scene", places))

    def first_only(task: ShardTask) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(task)
        convert_shard(task)

    with mock.patch("preprocess.write.convert_shard", first_only), pytest.raises(KeyboardInterrupt):
        windows_store(tmp_path / "in", tmp_path / "s.zarr", window=16)
    store = windows_store(tmp_path / "in", tmp_path / "s.zarr", window=16)
    assert "resuming: 256 of 625 chips are done." in capsys.readouterr().out
    assert np.array_equal(pixels(store), cut(path, places, 16))
