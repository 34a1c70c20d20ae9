"""Opening a store checks it: if something is not what the conversion wrote, one line names the file."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numcodecs.zstd
import numpy as np
import pytest
import zarr
from helpers.chips import BANDS, Chips, to_store, write_chips, write_csv

from preprocess import verify, zarr_store
from preprocess.arrays import MAX_JSON_BYTES
from preprocess.header import sha256_of_json
from preprocess.zarr_store import Store, open_store

ARRAYS = ("names", "labels", "csv_row", "band_sum", "band_sumsq", "checksum", "source_size", "source_mtime_ns",
          "shard_digest")  # fmt: skip
CHUNKS = {name: f"{name}/c/0/0" if name in ("labels", "band_sum", "band_sumsq") else f"{name}/c/0" for name in ARRAYS}
FILES = ["zarr.json", "tiles/zarr.json", *(f"{name}/zarr.json" for name in ARRAYS), *CHUNKS.values()]
FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def copy(session_store: Store, tmp_path: Path) -> Path:
    return Path(shutil.copytree(session_store.path, tmp_path / "copy.zarr"))


def attributes(path: Path, change: Callable[[dict[str, Any]], None], *, rehash: bool = False) -> None:
    """Edit the group's attributes; with `rehash`, their SHA-256 is computed again."""
    group = json.loads((path / "zarr.json").read_text())
    attrs = group["attributes"]
    change(attrs)
    if rehash:
        attrs.pop("attributes_sha256")
        attrs["attributes_sha256"] = sha256_of_json(attrs)
    (path / "zarr.json").write_text(json.dumps(group))


def test_plain_zarr_reads_what_the_conversion_wrote(session_store: Store, session_chips: Chips) -> None:
    group = zarr.open_group(session_store.path, mode="r")
    for name in ARRAYS:
        values = np.asarray(group[name][...])
        assert np.array_equal(values, session_store.read(name)), name
    assert np.array_equal(np.asarray(group["tiles"][...]), session_chips.values)


@pytest.mark.parametrize("key", FILES)
@pytest.mark.parametrize("damage", ["deleted", "emptied", "a folder", "a pipe", "too large", "cut"])
def test_a_damaged_or_missing_file_is_named(copy: Path, refused: Callable, key: str, damage: str) -> None:
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


def test_zeros_are_written_too_so_a_missing_chunk_is_always_damage(tmp_path: Path, refused: Callable) -> None:
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
def test_a_changed_attribute_is_noticed(copy: Path, refused: Callable, field: str, value: object) -> None:
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
def test_an_impossible_layout_is_refused_even_with_a_matching_sha256(
    copy: Path, refused: Callable, field: str, value: object
) -> None:
    attributes(copy, lambda attrs: attrs["layout"].update({field: value}), rehash=True)
    start = "expected the fields" if field == "more" else field
    assert f"copy.zarr/zarr.json: layout: {start}" in refused(lambda: open_store(copy))


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_csv_rows", 10**12), ("num_csv_rows", 299), ("num_csv_rows", "300"), ("num_tiles", 0),
     ("num_tiles", 862_000_000), ("classes", []), ("classes", ["a", "a", "b"]),
     ("arrays", {}), ("arrays", None), ("source", [])],
)  # fmt: skip
def test_a_size_is_checked_before_memory_is_allocated(copy: Path, refused: Callable, field: str, value: object) -> None:
    attributes(copy, lambda attrs: attrs.update({field: value}), rehash=True)
    assert "copy.zarr/zarr.json: " in refused(lambda: open_store(copy))


def test_a_metadata_file_is_compared_with_the_layout(copy: Path, refused: Callable) -> None:
    path = copy / "tiles/zarr.json"
    path.write_text(path.read_text().replace('"uint16"', '"uint32"'))
    text = refused(lambda: open_store(copy))
    assert (
        'tiles/zarr.json: expected data_type "uint16", which follows from the store\'s layout, found "uint32"' in text
    )
    assert verify.verify(copy, jobs=1) == 1


def test_verify_continues_after_a_damaged_array_and_a_damaged_shard(
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
    for finding in (
        "names/c/0: the file is missing",
        "checksum/c/0",
        "shard_digest/c/0",
        "tiles/c/0/0/0/0: expected a shard",
    ):
        assert finding in text
    assert "chip number 256 (number 256)" in text


def test_a_store_keeps_what_the_conversion_recorded_about_its_source(session_store: Store, tmp_path: Path) -> None:
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
    fingerprints = {first.fingerprint}
    assert to_store(chips, tmp_path / "n.zarr", codec="none").fingerprint == first.fingerprint
    for number, settings in enumerate(({"bands": BANDS[::-1]}, {"classes": ("c", "b", "a")})):
        fingerprints.add(to_store(chips, tmp_path / f"s{number}.zarr", **settings).fingerprint)
    rows = [(f"t_{index}", tags) for index, tags in enumerate(chips.tags)]
    for number, changed in enumerate(([*rows, ("gone", "a")], rows[:-1], rows[::-1])):
        write_csv(chips.csv, changed)
        fingerprints.add(to_store(chips, tmp_path / f"c{number}.zarr", allow_missing=True).fingerprint)
    assert len(fingerprints) == 6


def test_names_with_a_huge_count_allocate_no_memory(tmp_path: Path, refused: Callable) -> None:
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
def test_damage_to_a_store_of_version_1_is_named_where_it_can_be_detected(
    tmp_path: Path, refused: Callable, name: str, expected: str
) -> None:
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
    attributes(copy, lambda attrs: attrs.update({"version": 4}))
    assert "expected a store of version 1 to 3, found 4" in refused(lambda: open_store(copy))
