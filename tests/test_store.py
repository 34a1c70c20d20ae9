"""A store proves itself when it is opened: what the conversion did not write is one line that names the file."""

import json
import os
import shutil
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs.zstd
import numpy as np
import pytest
import zarr
from helpers.chips import BANDS, Chips, to_store, write_chips, write_csv
from hypothesis import given
from hypothesis import strategies as st

from pipeline.chunks import ChunkReader
from preprocess import info, shard, verify, zarr_store
from preprocess.arrays import MAX_JSON_BYTES
from preprocess.band_statistics import band_sums
from preprocess.codecs import CODECS
from preprocess.console import UserError
from preprocess.files import atomic_file
from preprocess.header import sha256_of_json
from preprocess.layout import DTYPES, Layout, layout_from, plan_layout
from preprocess.shard import ForeignShardError
from preprocess.zarr_store import Store, open_store

ARRAYS = ("names", "labels", "csv_row", "band_sum", "band_sumsq", "checksum", "source_size", "source_mtime_ns",
          "shard_digest")  # fmt: skip
CHUNKS = {name: f"{name}/c/0/0" if name in ("labels", "band_sum", "band_sumsq") else f"{name}/c/0" for name in ARRAYS}
FILES = ["zarr.json", "tiles/zarr.json", *(f"{name}/zarr.json" for name in ARRAYS), *CHUNKS.values()]
FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def copy(session_store: Store, tmp_path: Path) -> Path:
    return Path(shutil.copytree(session_store.path, tmp_path / "copy.zarr"))


@pytest.fixture(params=["session_store", "plain_store"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of an LZ4 store, and of one without compression, whose shards' indices are all alike."""
    return Path(shutil.copytree(request.getfixturevalue(request.param).path, tmp_path / "copy.zarr"))


def read_everything(path: Path) -> np.ndarray:
    store = open_store(path)
    layout = store.layout
    pixels = np.empty((store.num_chips, len(layout.bands), layout.height, layout.width), layout.dtype)
    ChunkReader(store, layout.bands).decode(np.arange(store.num_chips), pixels)
    return pixels


def attributes(path: Path, change: Callable[[dict[str, Any]], None], *, prove: bool = False) -> None:
    """Edit the group's attributes; with `prove`, as somebody would who also recomputes their SHA-256."""
    group = json.loads((path / "zarr.json").read_text())
    attrs = group["attributes"]
    change(attrs)
    if prove:
        attrs.pop("attributes_sha256")
        attrs["attributes_sha256"] = sha256_of_json(attrs)
    (path / "zarr.json").write_text(json.dumps(group))


def test_what_was_written_is_what_plain_zarr_reads(session_store: Store, session_chips: Chips) -> None:
    group = zarr.open_group(session_store.path, mode="r")
    for name in ARRAYS:
        values = np.asarray(group[name][...])
        assert np.array_equal(values, session_store.read(name)), name
    assert np.array_equal(np.asarray(group["tiles"][...]), session_chips.values)


@pytest.mark.parametrize("key", FILES)
@pytest.mark.parametrize("damage", ["deleted", "emptied", "a folder", "a pipe", "too large", "cut"])
def test_a_file_that_is_not_what_was_written_is_named(copy: Path, refused: Callable, key: str, damage: str) -> None:
    path = copy / key
    data = path.read_bytes()
    path.unlink()
    if damage == "emptied":
        path.touch()
    elif damage == "a folder":
        path.mkdir()
    elif damage == "a pipe":
        os.mkfifo(path)
    elif damage == "too large":
        with open(path, "wb") as file:
            file.truncate(MAX_JSON_BYTES + 1)
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    assert f"copy.zarr/{key}" in refused(lambda: open_store(copy))


@pytest.mark.parametrize("name", ARRAYS)
def test_a_small_array_that_zarr_changed_is_named(copy: Path, refused: Callable, name: str) -> None:
    array = zarr.open_group(copy, mode="r+")[name]
    values = np.asarray(array[...])
    values.flat[0] = "u_0" if name == "names" else values.flat[0] ^ 1
    array[...] = values
    text = refused(lambda: open_store(copy))
    assert f"copy.zarr/{CHUNKS[name]}: expected the array {name} that the conversion wrote, found another." in text


def test_zeros_are_written_so_a_missing_chunk_is_always_damage(tmp_path: Path, refused: Callable) -> None:
    store = to_store(write_chips(tmp_path / "tif", count=1), tmp_path / "one.zarr")
    assert store.csv_row.tolist() == [0]
    (tmp_path / "one.zarr/csv_row/c/0").unlink()
    assert "one.zarr/csv_row/c/0: the file is missing" in refused(lambda: open_store(tmp_path / "one.zarr"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_csv_rows", 301),
        ("num_tiles", 299),
        ("classes", ["b", "a", "c"]),
        ("fingerprint", "0" * 64),
        ("source", {"a": 1}),
    ],
)
def test_an_attribute_that_was_changed_is_noticed(copy: Path, refused: Callable, field: str, value: object) -> None:
    attributes(copy, lambda attrs: attrs.update({field: value}))
    assert "the attributes are not those that the conversion wrote" in refused(lambda: open_store(copy))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("height", -16), ("height", 1 << 62), ("height", 16.0), ("width", True), ("chunk_rows", 5),
        ("chunk_rows", 0), ("shard_tiles", -8), ("shard_tiles", 1 << 21), ("dtype", "uint64"), ("codec", "zip"),
        ("bands", []), ("bands", ["a", "a", "b", "c"]), ("bands", "blue"), ("more", 1),
    ],
)  # fmt: skip
def test_a_layout_that_cannot_be_is_refused_even_when_it_is_proved(
    copy: Path, refused: Callable, field: str, value: object
) -> None:
    attributes(copy, lambda attrs: attrs["layout"].update({field: value}), prove=True)
    named = "expected the fields" if field == "more" else field
    assert f"copy.zarr/zarr.json: layout: {named}" in refused(lambda: open_store(copy))


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_csv_rows", 10**12), ("num_csv_rows", 299), ("num_csv_rows", "300"), ("num_tiles", 0),
     ("num_tiles", 862_000_000), ("classes", []), ("classes", ["a", "a", "b"]),
     ("arrays", {}), ("arrays", None), ("source", [])],
)  # fmt: skip
def test_a_size_is_checked_before_memory_is_asked_for(copy: Path, refused: Callable, field: str, value: object) -> None:
    attributes(copy, lambda attrs: attrs.update({field: value}), prove=True)
    assert "copy.zarr/zarr.json: " in refused(lambda: open_store(copy))


CODEC_NAMES = sorted(CODECS)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([*DTYPES, *CODEC_NAMES]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
GOOD = {
    "bands": ["a", "b"],
    "height": 64,
    "width": 64,
    "dtype": "uint16",
    "codec": "lz4",
    "chunk_rows": 32,
    "shard_tiles": 8,
}


@given(st.dictionaries(st.sampled_from([*GOOD, "other"]), JSON, max_size=3))
def test_a_layout_from_json_is_valid_or_refused(changes: dict[str, Any]) -> None:
    try:
        layout = layout_from({**GOOD, **changes})
    except UserError:
        return
    assert layout.chunk_rows * layout.chunks_per_band == layout.height
    assert len(layout.bands) * layout.height * layout.width * layout.itemsize == layout.chip_bytes <= 1 << 30
    assert layout_from(json.loads(json.dumps({**vars(layout), "bands": list(layout.bands)}))) == layout


@given(
    st.integers(1, 20), st.integers(1, 600), st.integers(1, 600), st.sampled_from(DTYPES), st.sampled_from(CODEC_NAMES)
)  # fmt: skip
def test_every_chip_has_a_layout(bands: int, height: int, width: int, dtype: str, codec: str) -> None:
    layout = plan_layout(
        bands=tuple(f"b{i}" for i in range(bands)), height=height, width=width, dtype=dtype, codec=codec
    )
    assert layout.height % layout.chunk_rows == 0
    assert layout.shard_tiles == 1 or layout.shard_tiles * layout.chip_bytes <= 64 * 1024 * 1024


def test_a_metadata_file_is_compared_with_the_layout(copy: Path, refused: Callable) -> None:
    path = copy / "tiles/zarr.json"
    path.write_text(path.read_text().replace('"uint16"', '"uint32"'))
    text = refused(lambda: open_store(copy))
    assert (
        'tiles/zarr.json: expected data_type "uint16", which follows from the store\'s layout, found "uint32"' in text
    )
    assert verify.verify(copy, jobs=1) == 1


def test_two_shards_that_were_swapped_are_named_before_anything_is_read(either: Path, refused: Callable) -> None:
    # Of 256 and 44 chips: swapped indices differ in length only where the shards are of the same size.
    small = shutil.copytree(either, either.with_name("small.zarr"))
    one, other = (zarr_store.shard_path(small, number) for number in (0, 1))
    os.rename(one, small / "x")
    os.rename(other, one)
    os.rename(small / "x", other)
    text = refused(lambda: read_everything(small))
    assert "small.zarr/tiles/c/0/0/0/0" in text


@pytest.mark.parametrize("codec", CODECS)
def test_a_shard_of_another_place_store_or_version_is_named(
    tmp_path: Path, refused: Callable, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], codec: str
) -> None:
    monkeypatch.setattr("preprocess.layout.MAX_SHARD_CHIPS", 4)
    chips = write_chips(tmp_path / "tif", count=12)
    path = Path(to_store(chips, tmp_path / "s.zarr", codec=codec).path)
    foreign = Path(to_store(write_chips(tmp_path / "tif2", count=12, seed=1), tmp_path / "f.zarr", codec=codec).path)
    shards = [zarr_store.shard_path(path, number) for number in range(3)]
    whole = [file.read_bytes() for file in shards]
    older = bytearray(whole[1])  # one pixel of its first chip was another
    if codec == "none":
        older[0] ^= 1
        older[512:516] = struct.pack("<I", google_crc32c.value(bytes(older[:512])))
        digest = shard.tail_bytes(open_store(path).layout)
        older[-digest : -digest + 8] = bytes(8)  # the version before had a digest of its own
    for number, data in ((0, whole[1]), (2, zarr_store.shard_path(foreign, 2).read_bytes()), (1, bytes(older))):
        if data == whole[number]:
            continue
        shards[number].write_bytes(data)
        with pytest.raises(ForeignShardError, match=f"tiles/c/{number}/0/0/0: expected the shard that was converted"):
            read_everything(path)
        assert "expected the shard that was converted for this place" in refused(lambda: info.info(path, "course"))
        assert verify.verify(path, jobs=1) >= 2  # the shard, and its chips
        assert "is altered" in capsys.readouterr().out
        shards[number].write_bytes(whole[number])
    read_everything(path)


@pytest.mark.parametrize("pair", [(2**63 - 8, 64), (2**64 - 2, 8), (0, 2**63), (2**62, 2**62), (0, 3), (2**40, 100)])
def test_no_offset_of_an_index_reaches_a_kernel_unchecked(
    copy: Path, refused: Callable, capsys: pytest.CaptureFixture[str], pair: tuple[int, int]
) -> None:
    layout = open_store(copy).layout
    file = zarr_store.shard_path(copy, 1)
    data = bytearray(file.read_bytes())
    start = len(data) - shard.index_bytes(layout)
    data[start : start + 16] = struct.pack("<QQ", *pair)
    data[-4:] = struct.pack("<I", google_crc32c.value(bytes(data[start:-4])))
    file.write_bytes(data)
    assert "the shard's index" in refused(lambda: read_everything(copy))
    assert verify.verify(copy, jobs=1) == 1
    assert "tiles/c/1/0/0/0: the shard's index" in capsys.readouterr().out


def test_bytes_that_no_chunk_owns_are_damage(
    either: Path, refused: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = open_store(either).layout
    file = zarr_store.shard_path(either, 1)
    data = file.read_bytes()
    start = len(data) - shard.tail_bytes(layout)
    file.write_bytes(data[:start] + b"more" + data[start:])
    assert "bytes of chunks before the index, found others" in refused(lambda: read_everything(either))
    assert verify.verify(either, jobs=1) == 1


def test_verify_goes_on_after_a_damaged_array_and_a_damaged_shard(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("names", "checksum", "shard_digest"):
        (copy / CHUNKS[name]).unlink()
    zarr_store.shard_path(copy, 0).write_bytes(b"")
    data = bytearray(zarr_store.shard_path(copy, 1).read_bytes())
    data[10] ^= 1
    zarr_store.shard_path(copy, 1).write_bytes(data)
    assert verify.verify(copy, jobs=1) == 5
    text = capsys.readouterr().out
    for part in (
        "names/c/0: the file is missing",
        "checksum/c/0",
        "shard_digest/c/0",
        "tiles/c/0/0/0/0: expected a shard",
    ):
        assert part in text
    assert "chip number 256 (number 256)" in text


def test_a_store_keeps_what_the_conversion_noted_about_its_source(session_store: Store, tmp_path: Path) -> None:
    path = Path(shutil.copytree(session_store.path, tmp_path / "copy.zarr"))
    arrays = {name: session_store.read(name) for name in ARRAYS}
    source = {"nodata": 65535.0, "labels": {"separator": ","}}
    zarr_store.finish(path, session_store.layout, session_store.classes, 300, arrays, source)
    again = open_store(path)
    assert again.source == source
    assert again.fingerprint == session_store.fingerprint


def test_the_fingerprint_changes_with_everything_that_decides_a_result(tmp_path: Path) -> None:
    chips = write_chips(tmp_path / "tif")
    first = to_store(chips, tmp_path / "a.zarr")
    seen = {first.fingerprint}
    assert to_store(chips, tmp_path / "n.zarr", codec="none").fingerprint == first.fingerprint
    for number, settings in enumerate(({"bands": BANDS[::-1]}, {"classes": ("c", "b", "a")})):
        seen.add(to_store(chips, tmp_path / f"s{number}.zarr", **settings).fingerprint)
    rows = [(f"t_{index}", tags) for index, tags in enumerate(chips.tags)]
    for number, changed in enumerate(([*rows, ("gone", "a")], rows[:-1], rows[::-1])):
        write_csv(chips.csv, changed)
        seen.add(to_store(chips, tmp_path / f"c{number}.zarr", allow_missing=True).fingerprint)
    assert len(seen) == 6


def test_names_that_claim_a_huge_count_ask_for_no_memory(tmp_path: Path, refused: Callable) -> None:
    path = Path(shutil.copytree(FIXTURES / "v1/store.zarr", tmp_path / "v1.zarr"))
    file = path / "names/c/0"
    data = bytearray(numcodecs.zstd.decompress(file.read_bytes()))
    data[:4] = struct.pack("<I", 862_000_000)
    file.write_bytes(numcodecs.zstd.compress(bytes(data), 0))
    assert "expected 40 names, found 862000000" in refused(lambda: open_store(path))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("names", "names/c/0"),
        ("labels", "names, labels, csv_row or checksum has changed"),
        ("band_sum", "band_sum/c/0/0"),
    ],
)
def test_version_1_says_what_it_can_prove(tmp_path: Path, refused: Callable, name: str, expected: str) -> None:
    path = Path(shutil.copytree(FIXTURES / "v1/store.zarr", tmp_path / "v1.zarr"))
    assert open_store(path).version == 1
    if name == "labels":
        array = zarr.open_group(path, mode="r+")[name]
        values = np.asarray(array[...])
        values.flat[0] ^= 1
        array[...] = values
    else:
        (path / CHUNKS[name]).unlink()
    assert expected in refused(lambda: open_store(path))


def test_a_later_version_is_refused(copy: Path, refused: Callable) -> None:
    attributes(copy, lambda attrs: attrs.update({"version": 3}))
    assert "expected a store of version 1 to 2, found 3" in refused(lambda: open_store(copy))


def test_two_writers_of_one_file_never_share_a_temporary_name(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a") as one, atomic_file(tmp_path / "a") as other:
        assert one.name != other.name
        one.write(b"one")
        other.write(b"other")
    assert (tmp_path / "a").read_bytes() == b"one"  # the last to be renamed
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_two_threads_have_sums_of_their_own() -> None:
    layout = Layout(**{**GOOD, "bands": ("a", "b")})  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    chips = rng.integers(0, 65536, (2, 2, 64, 64)).astype(np.uint16)
    expected = [chip.sum(axis=(1, 2), dtype=np.uint64) for chip in chips]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(300):
            if not np.array_equal(band_sums(chips[index], layout)[0], expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
