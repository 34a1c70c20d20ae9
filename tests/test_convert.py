"""A store holds exactly the values of the TIFFs and of the CSV, and plain zarr reads it."""

import struct
from pathlib import Path

import google_crc32c
import numcodecs.lz4
import numpy as np
import pytest
import tifffile
import zarr
from helpers.chips import BANDS, Chips, conversion, to_store, write_chips, write_csv
from helpers.files import tree

from preprocess import shard, zarr_store
from preprocess.band_statistics import band_sums
from preprocess.convert import convert
from preprocess.layout import plan_layout
from preprocess.zarr_store import Store, open_store


def test_plain_zarr_reads_exactly_what_the_tiffs_hold(session_chips: Chips, session_store: Store) -> None:
    group = zarr.open_group(session_store.path, mode="r")
    chips = np.asarray(group["tiles"][...])
    assert chips.dtype == np.uint16
    assert np.array_equal(chips, session_chips.values)
    for index in (0, 299):
        path = session_chips.folder / f"t_{index}.tif"
        assert np.array_equal(chips[index], np.moveaxis(tifffile.imread(path), -1, 0))
    assert [str(name) for name in group["names"][...]] == [f"t_{index}" for index in range(300)]
    assert group["tiles"].metadata.dimension_names == ("tile", "band", "y", "x")


def test_codec_none_and_uint8_hold_the_same_values(
    plain_store: Store, session_chips: Chips, uint8_store: Store, uint8_chips: Chips
) -> None:
    assert np.array_equal(zarr.open_group(plain_store.path)["tiles"][...], session_chips.values)
    assert np.array_equal(zarr.open_group(uint8_store.path)["tiles"][...], uint8_chips.values)
    assert uint8_store.layout.bands == ("red", "green", "blue")


@pytest.mark.parametrize("codec", ["lz4", "none"])
def test_every_chunk_has_the_bytes_that_zarr_python_writes(
    codec: str, session_store: Store, plain_store: Store, session_chips: Chips, tmp_path: Path
) -> None:
    """LZ4 may choose other matches; then the stated length and the decoded bytes are equal. (A shard may hold its
    chunks in any order, and zarr-python uses another one.)"""
    store = session_store if codec == "lz4" else plain_store
    layout = store.layout
    zarr_store.create_chips(tmp_path / "z", layout, 300)
    zarr.open_group(tmp_path / "z")["tiles"][...] = session_chips.values
    for index, count in ((0, 256), (1, 44)):
        chunks = []
        for root in (store.path, tmp_path / "z"):
            path = zarr_store.shard_path(root, index)
            data = path.read_bytes()
            offsets, sizes = shard.read_index(path, layout, count)
            chunks.append([data[at : at + size] for at, size in zip(offsets.flat, sizes.flat, strict=True)])
        if codec == "none":
            assert chunks[0] == chunks[1]
        for ours, theirs in zip(*chunks, strict=True):
            assert ours[:4] == theirs[:4]
            assert ours[-4:] == struct.pack("<I", google_crc32c.value(ours[:-4]))
            if codec == "lz4":
                assert numcodecs.lz4.decompress(ours[:-4]) == numcodecs.lz4.decompress(theirs[:-4])


def test_labels_and_sums_are_exact(session_chips: Chips, session_store: Store) -> None:
    expected = [[int(c in tags.split()) for c in ("a", "b", "c")] for tags in session_chips.tags]
    assert np.array_equal(session_store.labels, expected)
    values = session_chips.values.astype(object)
    assert np.array_equal(session_store.band_sum, values.sum(axis=(2, 3)).astype(np.uint64))
    assert np.array_equal(session_store.band_sumsq, (values**2).sum(axis=(2, 3)).astype(np.uint64))
    some = np.array([0, 3, 7, 299])
    mean, std = session_store.band_statistics(some)
    floats = session_chips.values[some].astype(np.float64)
    assert np.allclose(mean, floats.mean(axis=(0, 2, 3)), rtol=1e-14)
    assert np.allclose(std, floats.std(axis=(0, 2, 3)), rtol=1e-12)


def test_sums_of_the_largest_values_are_exact() -> None:
    layout = plan_layout(bands=("a",), height=256, width=256, dtype="uint16", codec="lz4")
    chip = np.full((1, 256, 256), 65535, np.uint16)
    total, squares = band_sums(chip, layout)
    assert int(total[0]) == 65535 * 65536
    assert int(squares[0]) == 65535**2 * 65536


@pytest.mark.parametrize(("height", "width"), [(17, 13), (1, 1), (97, 350), (300, 300), (256, 4)])
@pytest.mark.parametrize("codec", ["lz4", "none"])
def test_chips_of_any_size_are_exact(tmp_path: Path, height: int, width: int, codec: str) -> None:
    chips = write_chips(tmp_path / "tif", count=5, bands=2, height=height, width=max(width, 2))
    store = to_store(chips, tmp_path / "s.zarr", codec=codec)
    assert np.array_equal(zarr.open_group(store.path)["tiles"][...], chips.values)
    assert store.layout.bands == ("band1", "band2")


def test_jobs_do_not_change_a_byte(session_chips: Chips, session_store: Store, tmp_path: Path) -> None:
    other = to_store(session_chips, tmp_path / "two.zarr", jobs=2)
    assert other.fingerprint == session_store.fingerprint
    assert tree(other.path) == tree(session_store.path)


def test_a_second_run_does_nothing_and_prints_so(
    chips: Chips, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = to_store(chips, tmp_path / "s.zarr")
    before = {path: path.stat().st_mtime_ns for path in store.path.rglob("*")}
    to_store(chips, tmp_path / "s.zarr")
    assert "Nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in store.path.rglob("*")} == before


def test_the_planet_preset_reads_the_folder_from_kaggle(tmp_path: Path) -> None:
    chips = write_chips(tmp_path / "kaggle" / "train-tif-v2", count=3)
    rows = [("t_0", "clear primary"), ("t_1", "haze"), ("t_2", "water clear clear")]
    write_csv(tmp_path / "kaggle" / "train_v2.csv", rows)
    convert(conversion(data=tmp_path / "kaggle", preset="planet", store=tmp_path / "s.zarr"))
    store = open_store(tmp_path / "s.zarr")
    assert store.layout.bands == BANDS
    assert (store.classes[0], store.classes[5], store.classes[-1]) == ("clear", "artisinal_mine", "water")
    assert store.labels.sum(axis=1).tolist() == [2, 1, 2]
    assert np.array_equal(zarr.open_group(store.path)["tiles"][...], chips.values)
