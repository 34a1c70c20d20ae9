"""Files of a run that are no valid JSON, no file, or arrays with another content: each gives one line."""

import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_files import one_line, read_arrays, refused_by_all, rewrite
from tiny import run_with_val, tiny_networks

from analysis.finished_run import load_run
from train.contract.fields import parse
from train.contract.record import read_record
from train.contract.results import read_results


@pytest.fixture(autouse=True)
def tiny() -> Iterator[None]:
    with tiny_networks():
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three epochs with a val split. Its store and chips are beside it."""
    return run_with_val(tmp_path_factory.mktemp("contract"))


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


ODD = {
    "a list": (b"[]", "expected the file to be an object, found a list"),
    "no object": (b"1", "expected the file to be an object, found 1"),
    "deep": (b"[" * 200_000, "nested too deeply"),
    "not UTF-8": (b'{"version": "\xff"}', "expected JSON"),
    "empty": (b"", "expected JSON"),
    "twice": (b'{"a": 1, "a": 2}', "the key 'a' occurs twice"),
    "NaN": (b'{"a": NaN}', "NaN is no JSON number"),
    "1e400": (b'{"a": 1e400}', "the number 1e400 is too large"),
    "huge": (b'{"a": ' + b"9" * 5000 + b"}", "is too large"),
    "newer": (b'{"version": 3}', "version 3; this code reads versions 1 to 2"),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_invalid_run_json_is_one_line(run: Path, kind: str) -> None:
    content, found = ODD[kind]
    (run / "run.json").write_bytes(content)
    refused_by_all(run, found)


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "results.npz", "model.safetensors"])
@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_folder_or_a_pipe_in_place_of_a_file_is_one_line(run: Path, name: str, kind: str) -> None:
    (run / name).unlink()
    if kind == "folder":
        (run / name).mkdir()
    else:
        os.mkfifo(run / name)
    shows = ("report", "curves") if name == "model.safetensors" else ()
    done = () if name == "run.json" else ("train",)
    refused_by_all(run, name, but=(*shows, *done))


def npy(shape: str, dtype: str = "<f4", data: bytes = b"") -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


@pytest.mark.parametrize(
    ("name", "data", "compression", "message"),
    [
        (
            "logits",
            npy("(1000000000000, 3)"),
            zipfile.ZIP_STORED,
            "logits claims (1000000000000, 3) float32 in 0 bytes",
        ),
        ("logits", npy("(-1, 3)"), zipfile.ZIP_STORED, "logits is float32"),
        ("logits", bytes(50_000_000), zipfile.ZIP_DEFLATED, "logits is compressed"),
        ("logits", npy("(1,)", "|O"), zipfile.ZIP_STORED, "logits is object"),
        ("logits", b"", zipfile.ZIP_STORED, "cannot be read"),
        ("logits", npy("(" * 3000), zipfile.ZIP_STORED, "cannot be read"),
        ("classes", npy("(3,)", "<U0"), zipfile.ZIP_STORED, "classes holds empty texts"),
        ("classes", npy("(3,)", "<U1", b"\xff" * 12), zipfile.ZIP_STORED, "results.npz"),
        ("more", npy("(0,)"), zipfile.ZIP_STORED, "expected no array 'more'"),
    ],
)
def test_an_array_with_a_false_header_is_one_line(
    run: Path, name: str, data: bytes, compression: int, message: str
) -> None:
    with zipfile.ZipFile(run / "results.npz") as archive:
        members = {entry: archive.read(entry) for entry in archive.namelist()}
    members[f"{name}.npy"] = data
    with zipfile.ZipFile(run / "results.npz", "w") as archive:
        for entry, content in members.items():
            archive.writestr(entry, content, compression if entry == f"{name}.npy" else zipfile.ZIP_STORED)
    record = read_record(run)
    assert message in one_line(lambda: read_results(run, record, None))


@pytest.mark.parametrize("name", ["trainlosses", "testlosses", "labels", "logits", "epoch", "fnames", "preds"])
def test_an_array_that_was_saved_again_with_another_value_is_refused(run: Path, name: str) -> None:
    arrays = read_arrays(run)
    values = arrays[name].copy()
    flat = values.reshape(-1)
    flat[0] = "other" if name == "fnames" else 1 - flat[0]
    np.savez(run / "results.npz", **{**arrays, name: values})  # type: ignore[arg-type]
    assert "results.npz" in one_line(lambda: load_run(run))


def test_earlier_results_are_refused_when_the_run_is_done(run: Path) -> None:
    arrays = read_arrays(run)
    shorter = {name: arrays[name][:2] for name in ("trainlosses", "testlosses", "testperfs")}
    rewrite(run, arrays={**shorter, "epoch": np.array(1)})
    assert "they are not of one run" in one_line(lambda: load_run(run))


@given(st.text())
def test_any_text_is_read_as_json_or_is_one_line(text: str) -> None:
    try:
        expected = json.loads(text)
    except (ValueError, RecursionError):
        assert one_line(lambda: parse(text, "file")).startswith("file: cannot be read, expected JSON")
    else:
        line = one_line(lambda: parse(text, "file"))
        assert line or json.dumps(parse(text, "file")) == json.dumps(expected)


def test_results_npz_is_still_what_numpy_reads(run: Path) -> None:
    with np.load(io.BytesIO((run / "results.npz").read_bytes()), allow_pickle=False) as archive:
        depends = json.loads(str(archive["depends_on"]))
        assert archive["labels"].dtype == np.uint8
    record = json.loads((run / "run.json").read_text())
    assert depends["identity"] == record["identity"]
    assert [json.loads(line)["digest"] for line in (run / "metrics.jsonl").read_text().splitlines()] == depends["lines"]
