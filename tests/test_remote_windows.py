"""Windows of rasters in object storage: the store of the disk, by range requests for the blocks that are needed."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.buckets import Bucket, bucket_server, proxy
from helpers.files import tree
from helpers.rasters import corners, cut, names, raster, windows_store, write_labels, write_raster

from preprocess import remote_ranges
from preprocess.addresses import Address
from preprocess.chip_reader import ChipFiles
from preprocess.console import UserError
from preprocess.expected import ANY
from preprocess.raster import Raster
from preprocess.tiff_page import ChipError
from preprocess.window_cut import Cut
from preprocess.window_list import list_windows
from preprocess.window_reader import WindowReader

HEIGHT, WIDTH, WINDOW = 150, 330, 32
TILED = {"tile": (64, 48), "compression": "deflate"}


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with bucket_server() as bucket:
        yield bucket


def write_scenes(folder: Path, **options: object) -> None:
    """Two rasters, with labels of all windows of one and half of those of the other."""
    for index, name in enumerate(("one", "b/two")):
        write_raster(folder / f"{name}.tif", raster(index, HEIGHT, WIDTH), **options)
    places = corners(HEIGHT, WIDTH, WINDOW, WINDOW)
    write_labels(folder, names("one", places) + names("b/two", places[1::2]))


@pytest.mark.parametrize(
    "options", [TILED, {"rowsperstrip": 7, "compression": "lzw", "bigtiff": True}, {"planar": True}]
)
def test_rasters_in_a_bucket_give_the_store_of_the_disk(
    bucket: Bucket, tmp_path: Path, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scenes(tmp_path / "in", **options)
    bucket.upload(tmp_path / "in", tmp_path.name)
    monkeypatch.setattr(remote_ranges, "_PIECE_BYTES", 1000)  # a header is several pieces
    words = {"window": WINDOW, "stride": WINDOW, "fit": "pad", "allow_missing": True}
    disk = windows_store(tmp_path / "in", tmp_path / "disk.zarr", **words)
    address = Address(f"s3://chips/{tmp_path.name}")
    remote = windows_store(address, tmp_path / "bucket.zarr", **words)  # type: ignore[arg-type]
    trees = [tree(tmp_path / f"{name}.zarr") for name in ("disk", "bucket")]
    assert {key for key in trees[0] if trees[0][key] != trees[1][key]} == {"source_mtime_ns/c/0", "zarr.json"}
    assert remote.fingerprint == disk.fingerprint


def test_a_window_requests_the_header_and_its_blocks_only(bucket: Bucket, tmp_path: Path) -> None:
    write_raster(tmp_path / "in/big.tif", raster(0, 1024, 1024), tile=(128, 128))
    address = bucket.upload(tmp_path / "in", tmp_path.name)
    window = np.empty((3, 64, 64), np.uint16)
    with proxy(bucket) as counted:
        errors = Raster(f"{address}/big.tif", None, ANY).read(np.array([[150, 240]]), [window])
    assert errors == {}
    assert np.array_equal(window, cut(tmp_path / "in/big.tif", [(150, 240)], 64)[0])
    assert len(counted.requests) == 1 + 2
    assert counted.sent < (tmp_path / "in/big.tif").stat().st_size / 10


@pytest.mark.parametrize("hidden", [(), ("if-match",)])
def test_a_raster_that_changes_after_its_header_was_read_is_named(
    bucket: Bucket, tmp_path: Path, hidden: tuple[str, ...]
) -> None:
    for index in range(2):
        write_raster(tmp_path / f"{index}.tif", raster(index, HEIGHT, WIDTH), **TILED)
    bucket.client.upload_file(str(tmp_path / "0.tif"), "chips", f"{tmp_path.name}/a.tif")
    path, windows = f"s3://chips/{tmp_path.name}/a.tif", [np.empty((3, 32, 32), np.uint16)]
    with proxy(bucket) as server:
        server.hidden = hidden  # a server that does not know the condition answers with the new object
        reader = WindowReader(ChipFiles(expected=(ANY,), cut=Cut(window=32, stride=32)))
        reader.read(path, np.array([[0, 0]]), windows)
        bucket.client.upload_file(str(tmp_path / "1.tif"), "chips", f"{tmp_path.name}/a.tif")
        with pytest.raises(ChipError) as caught:
            reader.read(path, np.array([[0, 0]]), windows)
        assert [status for status in server.statuses if status >= 400] == ([] if hidden else [412])
    assert (
        str(caught.value) == f"{path}: expected the file as listed, found a changed file. Run the same command again."
    )


def test_blocks_ahead_of_the_decoder_fit_into_a_fixed_memory(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_raster(tmp_path / "in/a.tif", raster(0, 640, 640, bands=1), tile=(64, 64))
    address = bucket.upload(tmp_path / "in", tmp_path.name)
    block = 64 * 64 * 2
    monkeypatch.setattr(remote_ranges, "AHEAD_BYTES", 5 * block)
    with proxy(bucket) as counted:
        opened = remote_ranges.RemoteRaster(f"{address}/a.tif")
        pieces = opened.pieces([(1000 + number * block, block) for number in range(50)])
        for taken, piece in enumerate(pieces, start=1):
            assert len(piece) == block
            assert len(counted.requests) <= 1 + taken + 5


def test_what_is_wrong_with_a_raster_is_one_line(bucket: Bucket, tmp_path: Path, refused: Callable[..., str]) -> None:
    write_raster(tmp_path / "whole.tif", raster(0, HEIGHT, WIDTH), **TILED)
    data = (tmp_path / "whole.tif").read_bytes()
    for name, body in (("cut", data[: len(data) // 2]), ("text", b"text"), ("empty", b"")):
        bucket.client.put_object(Bucket="chips", Key=f"bad/{name}.tif", Body=body)
        text = refused(lambda name=name: Raster(f"s3://chips/bad/{name}.tif", None, ANY))
        assert text.startswith(f"s3://chips/bad/{name}.tif: expected a valid TIFF, found a file that is ")
    with proxy(bucket, lambda number: "403"), pytest.raises(UserError) as caught:
        Raster("s3://chips/bad/cut.tif", None, ANY)
    assert "Access is denied" in str(caught.value)
    assert not isinstance(caught.value, ChipError)
    with pytest.raises(FileNotFoundError):
        Raster("s3://chips/bad/none.tif", None, ANY)


def test_windows_at_an_address_are_listed(bucket: Bucket, tmp_path: Path, refused: Callable[..., str]) -> None:
    write_scenes(tmp_path / "in", **TILED)
    cut, words = Cut(window=WINDOW, stride=WINDOW), {"files": None, "bands": None, "axes": None}
    address = Address(bucket.upload(tmp_path / "in", tmp_path.name))
    list_windows(tmp_path / "in", tmp_path / "disk.csv", cut, **words)  # type: ignore[arg-type]
    list_windows(address, tmp_path / "bucket.csv", cut, **words)  # type: ignore[arg-type]
    assert (tmp_path / "disk.csv").read_bytes() == (tmp_path / "bucket.csv").read_bytes()
    with open(tmp_path / "bucket.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * len(corners(HEIGHT, WIDTH, WINDOW, WINDOW))
    nothing = Address("s3://chips/nothing")
    assert "found no object" in refused(lambda: list_windows(nothing, tmp_path / "c.csv", cut, **words))  # type: ignore[arg-type]
