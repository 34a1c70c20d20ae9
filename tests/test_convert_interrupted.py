"""A conversion that was interrupted resumes and writes the same bytes."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from helpers.chips import Chips, to_store, write_chips
from helpers.commands import python
from helpers.files import tree

from preprocess import zarr_store
from preprocess.files import locked
from preprocess.zarr_store import Store, open_store


def interrupted(chips: Chips, store: Path, monkeypatch: pytest.MonkeyPatch, after: int, **settings: object) -> None:
    """Convert until `after` shards are written, then fail."""
    from preprocess import convert as module

    real, count = module.convert_shards, [0]

    def failing(task: object) -> int:
        if count[0] == after:
            raise KeyboardInterrupt
        count[0] += 1
        return real(task)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(module, "convert_shards", failing)
        with pytest.raises(KeyboardInterrupt):
            to_store(chips, store, **settings)


def test_an_incomplete_store_is_refused_and_its_conversion_resumes(
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


def test_resuming_with_other_settings_is_refused(
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


def test_a_truncated_shard_is_written_again(
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


def test_another_conversion_that_finishes_first_is_noticed(
    chips: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It finishes after this conversion has looked for the store and before this one has the lock."""
    from preprocess import partial_store as module

    path, real = tmp_path / "s.zarr", module.locked

    def late(root: Path, work: str) -> object:
        monkeypatch.setattr(module, "locked", real)
        to_store(chips, path)
        return real(root, work)

    monkeypatch.setattr(module, "locked", late)
    to_store(chips, path)
    assert "Nothing to do" in capsys.readouterr().out
    assert not zarr_store.partial_path(path).exists()


def test_a_kill_after_the_last_rename_does_not_disturb_the_next_conversion(
    chips: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from preprocess import partial_store as module

    path = tmp_path / "s.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "rmtree", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            to_store(chips, path)
    shutil.rmtree(path)  # the user deletes the store and converts again
    to_store(chips, path)
    assert np.array_equal(zarr.open_group(path)["tiles"][...], chips.values)
    assert not zarr_store.partial_path(path).exists()


def test_temporary_files_of_a_killed_writer_are_removed_from_the_store(
    session_chips: Chips, session_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.zarr"
    interrupted(session_chips, path, monkeypatch, after=1)
    store = zarr_store.partial_path(path) / "store"
    zarr_store.shard_path(store, 0).with_name(".0.4711").write_bytes(b"half a shard")
    (store / "zarr.d22741e79f794686ab4b36071fa1b40f.partial").write_bytes(b"")
    assert tree(to_store(session_chips, path).path) == tree(session_store.path)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 torn"])
def test_a_damaged_progress_file_is_written_again(
    session_chips: Chips, session_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    path = tmp_path / "s.zarr"
    interrupted(session_chips, path, monkeypatch, after=1)
    (zarr_store.partial_path(path) / "progress" / "0.npz").write_bytes(data)
    assert tree(to_store(session_chips, path).path) == tree(session_store.path)


def test_a_damaged_plan_is_refused_in_one_line(
    session_chips: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable
) -> None:
    path = tmp_path / "s.zarr"
    interrupted(session_chips, path, monkeypatch, after=1)
    (zarr_store.partial_path(path) / "plan.json").write_bytes(b"")
    assert "plan.json: damaged" in refused(lambda: to_store(session_chips, path))


def test_a_full_disk_is_one_line_and_the_conversion_resumes(
    chips: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from preprocess import targets
    from preprocess.console import run

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(targets, "write_atomic", full)  # this writes the progress file
        with pytest.raises(SystemExit) as end:
            run(lambda: to_store(chips, tmp_path / "s.zarr") and 0)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no space left on the disk")
    assert error.count("\n") == 1
    assert not (tmp_path / "s.zarr").exists()
    assert np.array_equal(zarr.open_group(to_store(chips, tmp_path / "s.zarr").path)["tiles"][...], chips.values)


def test_a_full_file_system_is_one_line(chips: Chips, tmp_path: Path) -> None:
    """A conversion in a separate process, on a file system of 1 MiB."""
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "x", small]).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        big = write_chips(tmp_path / "big", count=200, height=64, width=64)
        command = ["convert", f"DATA={big.folder}", f"LABELS={big.csv}", f"STORE={small / 's.zarr'}", "JOBS=2"]
        ended = python("-m", "preprocess", *command)
        assert ended.returncode == 2
        assert "no space left on the disk" in ended.stderr
        assert "Traceback" not in ended.stderr
        assert not (small / "s.zarr").exists()
    finally:
        subprocess.run(["umount", small], check=True)
