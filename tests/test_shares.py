"""SHARDS=i/n, and the small tasks into which a conversion is divided."""

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers.chips import BANDS, Chips, conversion, to_store, write_chips
from helpers.files import tree
from hypothesis import given
from hypothesis import strategies as st

from preprocess.convert import convert
from preprocess.files import locked, partial_path, shared_lock, write_new
from preprocess.packed_texts import PackedTexts
from preprocess.partial_store import prepare
from preprocess.plan import Plan, make_plan
from preprocess.plan_file import WorkPlan, plan_path, read_plan, shard_runs
from preprocess.shares import Share
from preprocess.write import convert_shards
from preprocess.zarr_store import Store


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Chips, Store]:
    """1,300 chips in six shards, and their store."""
    folder = tmp_path_factory.mktemp("many")
    chips = write_chips(folder / "tif", count=1300, height=8, width=8)
    return chips, to_store(chips, folder / "whole.zarr")


def convert_share(chips: Chips, store: Path, share: Share | None, **settings: object) -> None:
    words = {"data": chips.folder, "labels": chips.csv, "store": store, "bands": BANDS}
    convert(conversion(**{**words, **settings}), share=share)


def planned(chips: Chips, store: Path) -> Plan:
    return make_plan(conversion(data=chips.folder, labels=chips.csv, store=store, bands=BANDS))


def prepared(chips: Chips, store: Path) -> tuple[Path, WorkPlan]:
    """A store of which no shard is done: NAME.partial and its plan."""
    root = partial_path(store)
    root.mkdir()
    return root, prepare(root, planned(chips, store), alone=True)


@pytest.mark.parametrize("order", [(1, 2, 3, 4), (3, 1, 4, 2)])
def test_shares_in_any_order_and_the_plain_command_end_in_the_same_bytes(
    many: tuple[Chips, Store], tmp_path: Path, order: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    chips, whole = many
    for number in order:
        convert_share(chips, tmp_path / "s.zarr", Share(number, 4))
        assert not (tmp_path / "s.zarr").exists()
    assert "6 of 6 shards of the store are done" in capsys.readouterr().out
    convert_share(chips, tmp_path / "s.zarr", None)
    assert "1300 of 1300 chips are done" in capsys.readouterr().out
    assert tree(tmp_path / "s.zarr") == tree(Path(whole.path))
    assert not partial_path(tmp_path / "s.zarr").exists()


@pytest.mark.slow
def test_shares_at_the_same_time_end_in_the_same_bytes(many: tuple[Chips, Store], tmp_path: Path) -> None:
    chips, whole = many
    command = [
        sys.executable, "-m", "preprocess", "zarr", f"DATA={chips.folder}", f"LABELS={chips.csv}",
        f"STORE={tmp_path / 's.zarr'}", "BANDS=blue,green,red,nir", "JOBS=1",
    ]  # fmt: skip
    shares = [
        subprocess.Popen([*command, f"SHARDS={number}/4"], cwd=Path(__file__).parents[1]) for number in range(1, 5)
    ]
    assert [share.wait() for share in shares] == [0, 0, 0, 0]
    subprocess.run(command, cwd=Path(__file__).parents[1], check=True)
    assert tree(tmp_path / "s.zarr") == tree(Path(whole.path))


def test_a_share_with_other_files_is_refused(tmp_path: Path, refused: Callable) -> None:
    chips = write_chips(tmp_path / "tif", count=300)
    convert_share(chips, tmp_path / "s.zarr", Share(1, 2))
    (chips.folder / "t_7.tif").write_bytes((chips.folder / "t_7.tif").read_bytes() + b"\0")
    text = refused(lambda: convert_share(chips, tmp_path / "s.zarr", Share(2, 2)))
    assert "size or time of 1 source files, first" in text
    assert "t_7.tif" in text


def test_a_share_with_other_settings_is_refused(chips: Chips, tmp_path: Path, refused: Callable) -> None:
    convert_share(chips, tmp_path / "s.zarr", Share(1, 2))
    text = refused(lambda: convert_share(chips, tmp_path / "s.zarr", Share(2, 2), codec="none"))
    assert "CODEC: lz4, now none" in text


def test_a_conversion_and_a_share_exclude_each_other(chips: Chips, tmp_path: Path, refused: Callable) -> None:
    store = tmp_path / "s.zarr"
    with shared_lock(partial_path(store), "conversion"):
        assert "another conversion" in refused(lambda: to_store(chips, store))
        convert_share(chips, store, Share(1, 1))
    with locked(partial_path(store), "conversion"):
        assert "another conversion" in refused(lambda: convert_share(chips, store, Share(1, 1)))


def test_a_new_unfinished_file_stays_if_shares_have_worked_in_the_folder(chips: Chips, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    convert_share(chips, store, Share(1, 2))
    other_host = partial_path(store) / "temporary" / ".0.0123456789abcdef"
    other_host.write_bytes(b"half")
    prepare(partial_path(store), planned(chips, store), alone=True)
    assert other_host.exists()
    to_store(chips, store)
    assert not partial_path(store).exists()


def test_two_threads_of_one_process_convert_with_right_sums(many: tuple[Chips, Store], tmp_path: Path) -> None:
    chips, whole = many
    root, work = prepared(chips, tmp_path / "s.zarr")
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(convert_shards, shard_runs(root, work, list(range(6)), workers=2)))
    convert_share(chips, tmp_path / "s.zarr", None)
    assert tree(tmp_path / "s.zarr") == tree(Path(whole.path))


def test_a_shard_written_twice_at_the_same_time_is_the_same_shard(many: tuple[Chips, Store], tmp_path: Path) -> None:
    chips, whole = many
    root, work = prepared(chips, tmp_path / "s.zarr")
    runs = shard_runs(root, work, list(range(6)), workers=2)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(convert_shards, [run for run in runs for _ in range(2)]))
    assert list((root / "temporary").iterdir()) == []
    convert_share(chips, tmp_path / "s.zarr", None)
    assert tree(tmp_path / "s.zarr") == tree(Path(whole.path))


def test_a_writer_that_is_late_leaves_nothing_in_the_complete_store(chips: Chips, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    root, work = prepared(chips, store)
    (run,) = shard_runs(root, work, [0], workers=1)
    whole = tree(Path(to_store(chips, store).path))
    with pytest.raises(OSError, match="No such file"):
        convert_shards(run)
    assert tree(store) == whole
    assert not root.exists()


def test_a_task_is_small(many: tuple[Chips, Store], tmp_path: Path) -> None:
    root, work = prepared(many[0], tmp_path / "s.zarr")
    (run, *_) = shard_runs(root, work, list(range(6)), workers=1)
    assert len(pickle.dumps(run)) - len(str(root)) < 160


@given(
    left=st.sets(st.integers(0, 3000), max_size=300), workers=st.integers(1, 64),
)  # fmt: skip
def test_every_shard_is_in_exactly_one_run(left: set[int], workers: int) -> None:
    plan = small_plan()
    runs = shard_runs(Path("x"), plan, sorted(left), workers=workers)
    assert [shard for run in runs for shard in run.shards] == sorted(left)


@given(num_shards=st.integers(0, 10_000), count=st.integers(1, 200))
def test_the_shares_have_every_shard_once(num_shards: int, count: int) -> None:
    shares = [Share(number, count).of(num_shards) for number in range(1, count + 1)]
    assert [shares[0].start, shares[-1].stop] == [0, num_shards]
    assert all(before.stop == after.start for before, after in pairwise(shares))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=20))
def test_packed_texts_are_the_texts(texts: list[str]) -> None:
    packed = PackedTexts.of(texts)
    assert list(packed) == texts
    assert packed[1:3] == tuple(texts[1:3])


def test_a_file_name_that_is_not_utf8_stays_as_it_is() -> None:
    names = ["tif/\udcff_1.tif", "tif/\udcff_2.tif"]
    assert list(PackedTexts.of(names)) == names


def small_plan() -> WorkPlan:
    from preprocess.chip_reader import ChipFiles
    from preprocess.expected import Expected
    from preprocess.layout import plan_layout

    layout = plan_layout(bands=("a",), height=8, width=8, dtype="uint8", codec="lz4")
    return WorkPlan(
        layout=layout, files=ChipFiles(expected=(Expected(shape=(1, 8, 8)),)), folder="/here",
        paths=PackedTexts.of(["a.tif", "b.tif"]), size=np.array([1, 2]), mtime_ns=np.array([3, 4]),
    )  # fmt: skip


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    plan = small_plan()
    (tmp_path / "plan.npz").write_bytes(plan.encode())
    read = read_plan(tmp_path / "plan.npz")
    assert (read.layout, read.files, list(read.paths)) == (plan.layout, plan.files, list(plan.paths))
    assert read.task(tmp_path, 0).paths == ("/here/a.tif", "/here/b.tif")
    assert read.encode() == plan.encode()


@pytest.mark.parametrize("change", ["torn", "another"])
def test_a_damaged_or_replaced_plan_is_one_line(chips: Chips, tmp_path: Path, refused: Callable, change: str) -> None:
    root, work = prepared(chips, tmp_path / "s.zarr")
    (run,) = shard_runs(root, work, [0], workers=1)
    other = replace(work, mtime_ns=work.mtime_ns + 1)
    plan_path(root).write_bytes(other.encode() if change == "another" else work.encode()[:-50])
    text = refused(lambda: convert_shards(run))
    assert ("damaged" if change == "torn" else "has replaced the plan") in text


def test_of_two_writers_of_a_new_file_the_first_wins(tmp_path: Path) -> None:
    assert write_new(tmp_path / "f", b"one")
    assert not write_new(tmp_path / "f", b"two")
    assert tree(tmp_path) == {"f": b"one"}


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/4/2", " 1/4"])
def test_a_share_that_is_none_is_refused(text: str, refused: Callable) -> None:
    from preprocess.commands import ZarrSettings

    found = refused(lambda: ZarrSettings.from_words(["DATA=x", f"SHARDS={text}"], "zarr"))
    assert re.fullmatch(r"SHARDS=.*: expected a share such as 1/4 \(the first of four\).*", found)


def test_all_bad_chips_are_listed_and_the_other_shards_are_done(
    tmp_path: Path, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    chips = write_chips(tmp_path / "tif", count=600, height=8, width=8)
    bad = [*range(3, 27), 599]
    for index in bad:
        (chips.folder / f"t_{index}.tif").write_bytes(b"no TIFF")
    first = refused(lambda: to_store(chips, tmp_path / "s.zarr"))
    assert first.startswith(f"{chips.folder / 't_3.tif'}: expected ")
    count, *listed, more = capsys.readouterr().out.splitlines()
    assert count == f"{tmp_path / 's.zarr'}: 25 chips cannot be used:"
    assert [line.partition(": expected")[0] for line in listed] == [
        f"bad: {chips.folder / f't_{index}.tif'}" for index in bad[1:20]
    ]
    assert more == "... and 5 more"
    assert [path.name for path in (partial_path(tmp_path / "s.zarr") / "progress").iterdir()] == ["1.npz"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_after_a_bad_chip_is_replaced_the_same_command_ends_in_the_same_bytes(
    many: tuple[Chips, Store], tmp_path: Path, refused: Callable[..., str], jobs: int
) -> None:
    chips, whole = many
    path, status = chips.folder / "t_700.tif", (chips.folder / "t_700.tif").stat()
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    assert "t_700.tif" in refused(lambda: convert_share(chips, tmp_path / "s.zarr", None, jobs=jobs))
    path.write_bytes(good)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    convert_share(chips, tmp_path / "s.zarr", None, jobs=jobs)
    assert tree(tmp_path / "s.zarr") == tree(Path(whole.path))
