"""Stores equal what was written, are read by plain zarr, and nothing bad goes in or is left behind."""

import errno
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from unittest import mock

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
from preprocess.files import locked
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


def test_codec_none_and_uint8_hold_the_same_values(plain_store: Store, session_chips: Chips, uint8_store: Store,
                                                   uint8_chips: Chips) -> None:  # fmt: skip
    assert np.array_equal(zarr.open_group(plain_store.path)["tiles"][...], session_chips.values)
    assert np.array_equal(zarr.open_group(uint8_store.path)["tiles"][...], uint8_chips.values)
    assert uint8_store.layout.bands == ("red", "green", "blue")


@pytest.mark.parametrize("codec", ["lz4", "none"])
def test_every_chunk_has_the_bytes_that_zarr_python_writes(
    codec: str, session_store: Store, plain_store: Store, session_chips: Chips, tmp_path: Path
) -> None:
    """But for LZ4's choice of matches: there the stated length and the decoded bytes are the same. (The chunks' order
    inside a shard is free, and zarr-python's is another.)"""
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
def test_any_size(tmp_path: Path, height: int, width: int, codec: str) -> None:
    chips = write_chips(tmp_path / "tif", count=5, bands=2, height=height, width=max(width, 2))
    store = to_store(chips, tmp_path / "s.zarr", codec=codec)
    assert np.array_equal(zarr.open_group(store.path)["tiles"][...], chips.values)
    assert store.layout.bands == ("band1", "band2")


def test_jobs_do_not_change_a_byte(session_chips: Chips, session_store: Store, tmp_path: Path) -> None:
    other = to_store(session_chips, tmp_path / "two.zarr", jobs=2)
    assert other.fingerprint == session_store.fingerprint
    assert tree(other.path) == tree(session_store.path)


def test_a_second_run_does_nothing_and_says_so(
    chips: Chips, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = to_store(chips, tmp_path / "s.zarr")
    before = {path: path.stat().st_mtime_ns for path in store.path.rglob("*")}
    to_store(chips, tmp_path / "s.zarr")
    assert "Nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in store.path.rglob("*")} == before


def test_a_store_with_a_missing_shard_is_not_called_whole(chips: Chips, tmp_path: Path, refused: Callable) -> None:
    store = to_store(chips, tmp_path / "s.zarr")
    zarr_store.shard_path(store.path, 0).unlink()
    assert "the shard is missing" in refused(lambda: to_store(chips, store.path))


def test_changed_sources_are_named_and_not_mixed(chips: Chips, tmp_path: Path, refused: Callable) -> None:
    store = to_store(chips, tmp_path / "s.zarr")
    before = tree(store.path)
    path = chips.folder / "t_3.tif"
    os.utime(path, ns=(1, 1))
    assert f"size or time of 1 source files, first {path}" in refused(lambda: to_store(chips, store.path))
    assert "CODEC: lz4, now none" in refused(lambda: to_store(chips, store.path, codec="none"))
    assert "BANDS: blue,green,red,nir, now a,b,c,d" in refused(
        lambda: to_store(chips, store.path, bands=("a", "b", "c", "d"))
    )
    write_csv(chips.csv, [(f"t_{index}", "a") for index in range(12)])
    assert "classes: a,b,c, now a" in refused(lambda: to_store(chips, store.path))
    write_csv(chips.csv, [(f"t_{index}", tags) for index, tags in enumerate(chips.tags[:-1])])
    assert "number of chips: 12, now 11" in refused(lambda: to_store(chips, store.path))
    assert tree(store.path) == before


def interrupted(chips: Chips, store: Path, monkeypatch: pytest.MonkeyPatch, after: int, **settings: object) -> None:
    """Convert until `after` shards are written, then fail."""
    from preprocess import convert as module

    real, count = module.convert_shard, [0]

    def failing(task: object) -> int:
        if count[0] == after:
            raise KeyboardInterrupt
        count[0] += 1
        return real(task)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(module, "convert_shard", failing)
        with pytest.raises(KeyboardInterrupt):
            to_store(chips, store, **settings)


def test_a_half_store_is_refused_and_goes_on(
    session_chips: Chips, session_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / "s.zarr"
    interrupted(session_chips, path, monkeypatch, after=1)
    assert not path.exists()
    text = refused(lambda: open_store(path))
    assert "1 shards are written" in text
    assert "continues where it stopped" in text
    again = to_store(session_chips, path)
    assert "256 of 300 chips are done" in capsys.readouterr().out
    assert tree(again.path) == tree(session_store.path)
    assert not zarr_store.partial_path(path).exists()


def test_a_half_store_with_other_settings_is_refused(
    session_chips: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    path = tmp_path / "s.zarr"
    interrupted(session_chips, path, monkeypatch, after=1)
    assert "CODEC: lz4, now none" in refused(lambda: to_store(session_chips, path, codec="none"))
    assert not path.exists()


def test_a_source_that_changed_after_its_shard_was_written_is_converted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chips = write_chips(tmp_path / "tif", count=260)
    path = tmp_path / "s.zarr"
    interrupted(chips, path, monkeypatch, after=1)
    new = np.moveaxis(chips.values[5][:, ::-1], 0, -1)
    tifffile.imwrite(chips.folder / "t_5.tif", new, photometric="minisblack", planarconfig=1)
    os.utime(chips.folder / "t_5.tif", ns=(5, 5))
    to_store(chips, path)
    assert "t_5.tif" in capsys.readouterr().out
    assert np.array_equal(zarr.open_group(path)["tiles"][5], np.moveaxis(new, -1, 0))


def test_a_torn_shard_is_written_again(
    session_chips: Chips, session_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.zarr"
    interrupted(session_chips, path, monkeypatch, after=1)
    torn = zarr_store.shard_path(zarr_store.partial_path(path) / "store", 0)
    torn.write_bytes(torn.read_bytes()[:-7])
    assert tree(to_store(session_chips, path).path) == tree(session_store.path)


def test_two_conversions_at_once_are_refused(chips: Chips, tmp_path: Path, refused: Callable) -> None:
    path = tmp_path / "s.zarr"
    zarr_store.partial_path(path).mkdir()
    with locked(zarr_store.partial_path(path), "conversion"):
        assert "another conversion" in refused(lambda: to_store(chips, path))


def test_another_conversion_that_ends_first_is_seen(
    chips: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends between the question whether the store is there and the lock."""
    from preprocess import convert as module

    path, real = tmp_path / "s.zarr", module.locked

    def late(root: Path, work: str) -> object:
        monkeypatch.setattr(module, "locked", real)
        to_store(chips, path)
        return real(root, work)

    monkeypatch.setattr(module, "locked", late)
    to_store(chips, path)
    assert "Nothing to do" in capsys.readouterr().out
    assert not zarr_store.partial_path(path).exists()


def test_a_kill_after_the_last_rename_leaves_nothing_that_harms(
    chips: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from preprocess import convert as module

    path = tmp_path / "s.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "rmtree", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            to_store(chips, path)
    shutil.rmtree(path)  # and the user starts anew
    to_store(chips, path)
    assert np.array_equal(zarr.open_group(path)["tiles"][...], chips.values)
    assert not zarr_store.partial_path(path).exists()


def test_files_that_a_killed_writer_left_do_not_stay_in_the_store(
    session_chips: Chips, session_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.zarr"
    interrupted(session_chips, path, monkeypatch, after=1)
    store = zarr_store.partial_path(path) / "store"
    zarr_store.shard_path(store, 0).with_name(".0.4711").write_bytes(b"half a shard")
    (store / "zarr.d22741e79f794686ab4b36071fa1b40f.partial").write_bytes(b"")
    assert tree(to_store(session_chips, path).path) == tree(session_store.path)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 torn"])
def test_a_torn_progress_file_is_written_again(
    session_chips: Chips, session_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    path = tmp_path / "s.zarr"
    interrupted(session_chips, path, monkeypatch, after=1)
    (zarr_store.partial_path(path) / "progress" / "0.npz").write_bytes(data)
    assert tree(to_store(session_chips, path).path) == tree(session_store.path)


def test_a_torn_plan_is_a_line(
    session_chips: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    path = tmp_path / "s.zarr"
    interrupted(session_chips, path, monkeypatch, after=1)
    (zarr_store.partial_path(path) / "plan.json").write_bytes(b"")
    assert "plan.json: damaged" in refused(lambda: to_store(session_chips, path))


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"data": Path("/no/such/folder")}, "expected a folder of TIFFs, found nothing"),
        ({"labels": Path("/no/such.csv")}, "expected a CSV file, found nothing"),
        ({"labels": None}, "LABELS is not set"),
        ({"codec": "zip"}, "CODEC=zip: expected lz4 or none"),
        ({"jobs": 0}, "JOBS=0"),
        ({"store": Path(__file__)}, "test_convert.py: is a file. Choose another name"),
        ({"preset": "mars"}, "PRESET=mars: expected planet."),
        ({"bands": ("a", "b")}, "expected 2 bands (a, b), found 4"),
        ({"bands": ("a", "a", "b", "c")}, "a different name for each band"),
        ({"classes": ("a", "b", "c", "a")}, "CLASSES=a,b,c,a: expected a different name for each class"),
        ({"classes": ("a", "b", "c", "")}, "CLASSES=a,b,c,: expected a different name for each class"),
        ({"classes": ("a", "b")}, "expected one of the classes a, b, found tag 'c'"),
        ({"preset": "planet"}, "expected one of the classes clear"),
        ({"store": Path("/proc/x/chips.zarr")}, "the folder cannot be made"),
    ],
)
def test_refusals_of_arguments(chips: Chips, tmp_path: Path, refused: Callable, settings: dict, found: str) -> None:
    arguments = {"data": chips.folder, "labels": chips.csv, "store": tmp_path / "s.zarr", **settings}
    assert found in refused(lambda: convert(conversion(**arguments)))
    assert not (tmp_path / "s.zarr").exists()


def test_the_planet_preset_knows_kaggles_folder(tmp_path: Path) -> None:
    chips = write_chips(tmp_path / "kaggle" / "train-tif-v2", count=3)
    rows = [("t_0", "clear primary"), ("t_1", "haze"), ("t_2", "water clear clear")]
    write_csv(tmp_path / "kaggle" / "train_v2.csv", rows)
    convert(conversion(data=tmp_path / "kaggle", preset="planet", store=tmp_path / "s.zarr"))
    store = open_store(tmp_path / "s.zarr")
    assert store.layout.bands == BANDS
    assert (store.classes[0], store.classes[5], store.classes[-1]) == ("clear", "artisinal_mine", "water")
    assert store.labels.sum(axis=1).tolist() == [2, 1, 2]
    assert np.array_equal(zarr.open_group(store.path)["tiles"][...], chips.values)


def test_missing_chips(chips: Chips, tmp_path: Path, refused: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    for index in (2, 5, 7, 11):
        (chips.folder / f"t_{index}.tif").unlink()
    text = refused(lambda: to_store(chips, tmp_path / "s.zarr"))
    assert "4 of 12 chips of the CSV are missing" in text
    assert "(first: t_2, t_5, t_7)" in text
    assert "ALLOW_MISSING=1" in text
    store = to_store(chips, tmp_path / "s.zarr", allow_missing=True)
    assert "4 of 12" in capsys.readouterr().out
    kept = [0, 1, 3, 4, 6, 8, 9, 10]
    assert np.array_equal(store.csv_row, kept)
    assert np.array_equal(zarr.open_group(store.path)["tiles"][...], chips.values[kept])


def test_no_chip_at_all(chips: Chips, tmp_path: Path, refused: Callable) -> None:
    (tmp_path / "empty").mkdir()
    request = conversion(data=tmp_path / "empty", labels=chips.csv, store=tmp_path / "s.zarr", allow_missing=True)
    assert "No chip is left" in refused(lambda: convert(request))


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(
    ("values", "found"),
    [
        (np.zeros((16, 17, 4), np.uint16), "found (4, 16, 17) uint16"),
        (np.zeros((16, 16, 3), np.uint16), "found (3, 16, 16) uint16"),
        (np.zeros((16, 16, 4), np.uint8), "found (4, 16, 16) uint8"),
    ],
)
def test_a_chip_unlike_the_others(
    session_chips: Chips, tmp_path: Path, refused: Callable, values: np.ndarray, found: str, jobs: int
) -> None:
    chips = write_chips(tmp_path / "tif", count=300)
    tifffile.imwrite(chips.folder / "t_280.tif", values, photometric="minisblack", planarconfig="contig")
    text = refused(lambda: to_store(chips, tmp_path / "s.zarr", jobs=jobs))
    assert "t_280.tif: expected (4, 16, 16) uint16" in text
    assert found in text
    assert not (tmp_path / "s.zarr").exists()


def test_a_damaged_chip_is_named_and_the_rest_is_kept(tmp_path: Path, refused: Callable) -> None:
    chips = write_chips(tmp_path / "tif", count=300)
    bad, whole = chips.folder / "t_290.tif", (chips.folder / "t_290.tif").read_bytes()
    bad.write_bytes(whole[:-9])
    assert "t_290.tif" in refused(lambda: to_store(chips, tmp_path / "s.zarr"))
    bad.write_bytes(whole)
    assert np.array_equal(zarr.open_group(to_store(chips, tmp_path / "s.zarr").path)["tiles"][...], chips.values)


def test_what_is_no_tiff(chips: Chips, tmp_path: Path, refused: Callable) -> None:
    (chips.folder / "t_4.tif").write_text("hello")
    text = refused(lambda: to_store(chips, tmp_path / "s.zarr"))
    assert "t_4.tif" in text
    assert "not a TIFF" in text


@pytest.mark.parametrize("name", ["t_0.tif", "t_4.tif"])
def test_a_chip_that_is_a_folder(chips: Chips, tmp_path: Path, refused: Callable, name: str) -> None:
    (chips.folder / name).unlink()
    (chips.folder / name).mkdir()
    assert f"{name}: expected a TIFF file, found a folder" in refused(lambda: to_store(chips, tmp_path / "s.zarr"))


def test_a_first_chip_that_may_not_be_read(chips: Chips, tmp_path: Path, refused: Callable) -> None:
    denied = PermissionError(13, "Permission denied")  # raised here, since root may read anything
    with mock.patch("preprocess.plan.tiff.read", side_effect=denied):
        text = refused(lambda: to_store(chips, tmp_path / "s.zarr"))
    assert "t_0.tif: expected a readable file, found Permission denied" in text


def test_a_full_disk_is_one_line_and_goes_on(
    chips: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from preprocess import write
    from preprocess.console import run

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(write, "write_atomic", full)  # of the progress file
        with pytest.raises(SystemExit) as end:
            run(lambda: to_store(chips, tmp_path / "s.zarr") and 0)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no space left on the disk")
    assert error.count("\n") == 1
    assert not (tmp_path / "s.zarr").exists()
    assert np.array_equal(zarr.open_group(to_store(chips, tmp_path / "s.zarr").path)["tiles"][...], chips.values)


def test_a_really_full_disk(chips: Chips, tmp_path: Path) -> None:
    """On a file system of 1 MiB, in a process of its own."""
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "x", small]).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        big = write_chips(tmp_path / "big", count=200, height=64, width=64)
        command = ["convert", f"DATA={big.folder}", f"LABELS={big.csv}", f"STORE={small / 's.zarr'}", "JOBS=2"]
        ended = run_preprocess(*map(str, command))
        assert ended.returncode == 2
        assert "no space left on the disk" in ended.stderr
        assert "Traceback" not in ended.stderr
        assert not (small / "s.zarr").exists()
    finally:
        subprocess.run(["umount", small], check=True)


def run_preprocess(*arguments: str) -> subprocess.CompletedProcess[str]:
    import sys

    root = Path(__file__).resolve().parents[1]
    return subprocess.run([sys.executable, "-m", "preprocess", *arguments], cwd=root, capture_output=True, text=True)


def test_one_line_and_exit_code_2_on_the_command_line(tmp_path: Path) -> None:
    ended = run_preprocess("convert", f"DATA={tmp_path / 'no'}", f"STORE={tmp_path / 's.zarr'}")
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "expected a folder of TIFFs" in ended.stderr
    assert run_preprocess("convert").returncode == 2
    assert run_preprocess("info", f"STORE={tmp_path}").returncode == 2


def test_what_is_no_store(tmp_path: Path, refused: Callable, session_store: Store) -> None:
    assert "found nothing" in refused(lambda: open_store(tmp_path / "no.zarr"))
    (tmp_path / "file").write_text("x")
    assert "found a file" in refused(lambda: open_store(tmp_path / "file"))
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    assert "another Zarr group" in refused(lambda: open_store(tmp_path / "other.zarr"))
    meta = json.loads((session_store.path / "zarr.json").read_text())
    for key, value, found in (
        ("complete", False, "the store is incomplete"),
        ("version", 9, "version 1 to 2, found 9"),
    ):
        path = tmp_path / f"{key}.zarr"
        path.mkdir()
        changed = {**meta, "attributes": {**meta["attributes"], key: value}}
        (path / "zarr.json").write_text(json.dumps(changed))
        assert found in refused(lambda path=path: open_store(path))


def first_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def one_file_each(folder: Path, values: list[np.ndarray], **options: object) -> Chips:
    """Chips a, b, ... written with tifffile's options."""
    folder.mkdir()
    names = [chr(ord("a") + index) for index in range(len(values))]
    for name, value in zip(names, values, strict=True):
        tifffile.imwrite(folder / f"{name}.tif", value, **options)  # type: ignore[arg-type]
    write_csv(folder / "tags.csv", [(name, "x") for name in names])
    return Chips(folder, folder / "tags.csv", np.zeros((0, 0)), ["x"] * len(names))


@pytest.fixture
def three() -> list[np.ndarray]:
    return [np.random.default_rng(seed).integers(0, 2**16, (16, 12, 3), dtype=np.uint16) for seed in range(3)]


@pytest.mark.parametrize("photometric", ["minisblack", "cielab"])
def test_three_samples_that_no_file_calls_colours_are_unnamed(
    tmp_path: Path, three: list[np.ndarray], photometric: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chips = one_file_each(tmp_path / "tif", three, photometric=photometric, planarconfig="contig")
    assert to_store(chips, tmp_path / "s.zarr").layout.bands == ("band1", "band2", "band3")
    assert f"{tmp_path}/s.zarr: the bands have no names. Training needs names, such as BANDS=blue,green,red,nir." in (
        first_lines(capsys)
    )


@pytest.mark.parametrize(
    ("names", "offer"),
    [
        (("B02", "B03", "B04"), "and the files have names: BANDS=B02,B03,B04."),
        (("Band 1", "green", "red"), "and the files have names: BANDS='Band 1,green,red'."),
        (("a,b", "c", "d"), "and the files have the names a,b, c, d, which BANDS cannot hold."),
        (
            ("\x1b[31mred", "$(id)", "x"),
            "and the files have the names \\x1b[31mred, $(id), x, which BANDS cannot hold.",
        ),
        (("same", "same", "x"), "and the files have the names same, same, x, which BANDS cannot hold."),
    ],
)
def test_band_names_of_the_files_are_offered_and_escaped(
    tmp_path: Path, three: list[np.ndarray], names: tuple[str, ...], offer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    items = "".join(
        f'<Item name="DESCRIPTION" sample="{index}" role="description">{name}</Item>'
        for index, name in enumerate(names)
    )
    tags = [(42112, 2, 0, f"<GDALMetadata>{items}</GDALMetadata>", True)]
    chips = one_file_each(tmp_path / "tif", three, photometric="rgb", extratags=tags)
    assert to_store(chips, tmp_path / "s.zarr").layout.bands == ("band1", "band2", "band3")
    assert f"{tmp_path}/s.zarr: the bands have no names. Training needs names, {offer}" in first_lines(capsys)


def test_bands_that_the_first_file_calls_colours_are_called_nothing_else_by_another(
    tmp_path: Path, three: list[np.ndarray], refused: Callable
) -> None:
    chips = one_file_each(tmp_path / "tif", three, photometric="rgb")
    tifffile.imwrite(chips.folder / "b.tif", three[1], photometric="cielab")
    assert "b.tif: expected red, green and blue samples" in refused(lambda: to_store(chips, tmp_path / "s.zarr"))
    assert to_store(chips, tmp_path / "s.zarr", bands=("red", "green", "blue")).num_chips == 3
    tifffile.imwrite(chips.folder / "b.tif", three[1], photometric="minisblack", planarconfig="contig")
    assert to_store(chips, tmp_path / "t.zarr").layout.bands == ("red", "green", "blue")


def test_files_in_which_0_is_white_and_black_are_not_mixed(
    tmp_path: Path, three: list[np.ndarray], refused: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    chips = one_file_each(tmp_path / "tif", [value[..., 0] for value in three], photometric="miniswhite")
    store = to_store(chips, tmp_path / "s.zarr")
    assert np.array_equal(zarr.open_group(store.path)["tiles"][:, 0], np.stack([value[..., 0] for value in three]))
    assert f"{chips.folder}/a.tif: the files define 0 as white. Their values are stored unchanged." in first_lines(
        capsys
    )
    tifffile.imwrite(chips.folder / "c.tif", three[2][..., 0], photometric="minisblack")
    assert "c.tif: expected 0 as white" in refused(lambda: to_store(chips, tmp_path / "t.zarr"))


def test_nodata_is_said_by_the_conversion_and_by_info(
    tmp_path: Path, three: list[np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    from preprocess.info import info

    tags = [(42113, 2, 0, "65535", True)]
    store = to_store(one_file_each(tmp_path / "tif", three, photometric="rgb", extratags=tags), tmp_path / "s.zarr")
    line = f"{store.path}: the files mark 65535 as nodata. It counts as a value in the statistics."
    assert line in first_lines(capsys)
    assert store.source["nodata"] == "65535"
    info(store.path, "course")
    assert "nodata       65535 (marked by the files; counts as a value in mean and std)" in first_lines(capsys)


@pytest.fixture
def pages() -> list[np.ndarray]:
    """(rows, columns, bands), which tifffile writes as one page per row."""
    return [np.random.default_rng(seed).integers(0, 2**16, (20, 24, 5), dtype=np.uint16) for seed in range(3)]


def test_rows_written_as_pages_are_read_by_the_number_of_bands_and_said(
    tmp_path: Path, pages: list[np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    chips = one_file_each(tmp_path / "tif", pages, photometric="minisblack")
    store = to_store(chips, tmp_path / "s.zarr", bands=tuple("abcde"))
    assert np.array_equal(zarr.open_group(store.path)["tiles"][...], np.moveaxis(np.stack(pages), -1, 1))
    assert store.source["axes"] == "YXS"
    line = "20 pages of 24 x 5 are read as rows of 5 bands of 20 x 24. AXES=SYX reads 20 bands of 24 x 5."
    assert f"{chips.folder}/a.tif: {line}" in first_lines(capsys)
    to_store(chips, tmp_path / "s.zarr", bands=tuple("abcde"))
    assert "Nothing to do" in capsys.readouterr().out


def test_axes_name_the_stored_dimensions(tmp_path: Path, pages: list[np.ndarray], refused: Callable) -> None:
    chips = one_file_each(tmp_path / "tif", pages, photometric="minisblack")
    rows = to_store(chips, tmp_path / "rows.zarr", axes="YXS")
    assert np.array_equal(zarr.open_group(rows.path)["tiles"][...], np.moveaxis(np.stack(pages), -1, 1))
    bands = to_store(chips, tmp_path / "bands.zarr", axes="SYX")
    assert np.array_equal(zarr.open_group(bands.path)["tiles"][...], np.stack(pages))
    assert "AXES: YXS, now SYX" in refused(lambda: to_store(chips, rows.path, axes="SYX"))
    assert "AXES=xyz: expected YXS or SYX" in refused(lambda: to_store(chips, tmp_path / "t.zarr", axes="xyz"))


def test_a_number_of_bands_that_another_order_would_give_names_axes(
    tmp_path: Path, pages: list[np.ndarray], refused: Callable
) -> None:
    chunky = one_file_each(tmp_path / "c", pages, photometric="minisblack", planarconfig="contig")
    many = tuple(f"b{index}" for index in range(20))
    assert "AXES=SYX reads 20 bands of 24 x 5" in refused(lambda: to_store(chunky, tmp_path / "s.zarr", bands=many))
    planes = one_file_each(tmp_path / "p", pages, photometric="minisblack", planarconfig="separate")
    five = tuple("abcde")
    assert "AXES=YXS reads 5 bands of 20 x 24" in refused(lambda: to_store(planes, tmp_path / "s.zarr", bands=five))


def test_a_chip_whose_header_claims_another_size_is_named_with_the_size_of_the_others(
    session_chips: Chips, tmp_path: Path, refused: Callable
) -> None:
    chips = write_chips(tmp_path / "tif", count=3)
    tifffile.imwrite(chips.folder / "t_1.tif", np.zeros((4000, 4000, 4), np.uint16), photometric="minisblack",
                     planarconfig="contig", compression="zstd")  # fmt: skip
    text = refused(lambda: to_store(chips, tmp_path / "s.zarr"))
    assert f"t_1.tif: expected (4, 16, 16) uint16 (bands, height, width) as in {chips.folder}/t_0.tif" in text
