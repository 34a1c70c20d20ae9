"""run.json, metrics.jsonl and results.npz: a file that is altered, damaged or another run's gives one line."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import ROOT, here, train
from hypothesis import given
from hypothesis import strategies as st
from run_files import commands, one_line, refused_by_all, rewrite
from tiny import Steps, outcome, run_with_val, tiny_networks

from analysis.finished_run import load_run
from train.contract.metrics import read_metrics
from train.contract.record import read_record
from train.record import check_inputs
from train.setup import Data, open_data

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


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


def test_the_contract_needs_no_torch() -> None:
    code = "import sys, train.contract.results, train.contract.verdict, train.contract.checkpoint\n"
    code += "print([m for m in ('torch', 'zarr', 'nvidia', 'sklearn') if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


@pytest.mark.parametrize("name", ["mean", "std"])
def test_a_changed_digit_of_the_inputs_is_refused_everywhere(run: Path, name: str) -> None:
    text = (run / "run.json").read_text()
    number = re.search(rf'"{name}": \[\s+(\d)', text)
    assert number
    at = number.start(1)
    (run / "run.json").write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])
    refused_by_all(run, f"{run / 'run.json'}: inputs changed since the run wrote it")


def test_a_changed_digit_of_version_1_is_refused_where_the_store_proves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 1 has no digests, so mean and std are computed again and compared."""
    monkeypatch.chdir(ROOT)
    for folder in ("run", "stopped"):
        run = Path(shutil.copytree(f"tests/fixtures/v1/{folder}", tmp_path / folder))
        record = json.loads((run / "run.json").read_text())
        record["inputs"]["mean"][1] += 1.0
        (run / "run.json").write_text(json.dumps(record))
    for name, *words in commands(tmp_path / "run")[:-1]:
        if name in ("predict", "export", "reproduce"):
            (tmp_path / "tif").mkdir(exist_ok=True)
            shutil.copy(ROOT / "pyproject.toml", tmp_path / "tif" / "a.tif")
            ended = here("", name, *words)
            assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended
            assert "run.json" in ended.stderr
            assert "mean" in ended.stderr
    ended = here("train", f"RESUME={tmp_path / 'stopped'}")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "run.json says inputs.mean [" in ended.stderr


def leaves(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(found for name, item in inner for found in leaves(item, (*place, name)))]


@given(st.data())
def test_any_other_value_in_run_json_is_one_line(whole: Path, data: st.DataObject) -> None:
    text = (whole / "run.json").read_text()
    values = json.loads(text)
    place = data.draw(st.sampled_from([place for place in leaves(values) if place]))
    parent = values
    for name in place[:-1]:
        parent = parent[name]
    before, after = parent[place[-1]], data.draw(JSON)
    if data.draw(st.booleans()):
        parent.pop(place[-1])
    else:
        parent[place[-1]] = after
    folder = whole.parent / "edited"
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps(values))
    line = one_line(lambda: read_record(folder))
    same = json.dumps(values, sort_keys=True) == json.dumps(json.loads(text), sort_keys=True)
    assert (line == "") == same, (place, before, after)
    assert same or "run.json" in line


@given(st.data())
def test_a_sealed_value_is_read_or_is_one_line(whole: Path, data: st.DataObject) -> None:
    """All JSON values are checked, so the only error is a line, whoever wrote the file."""
    run = whole.parent / "sealed"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(whole, run)
    values = json.loads((run / "run.json").read_text())
    place = data.draw(st.sampled_from([place for place in leaves(values) if place and place[0] != "sha256"]))
    after = data.draw(JSON)

    def change(record: dict[str, Any]) -> None:
        parent: Any = record
        for name in place[:-1]:
            parent = parent[name]
        parent[place[-1]] = after

    try:
        rewrite(run, record=change)
    except (ValueError, TypeError, KeyError, AttributeError):
        return  # NaN cannot be sealed
    line = one_line(lambda: load_run(run))
    assert line == "" or "run.json" in line


@given(st.data())
def test_any_changed_bytes_of_metrics_jsonl_are_one_line_or_the_same_epochs(whole: Path, data: st.DataObject) -> None:
    text = bytearray((whole / "metrics.jsonl").read_bytes())
    at = data.draw(st.integers(0, len(text) - 1))
    text[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    folder = whole.parent / "lines"
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_bytes(text)
    record = read_record(whole)
    expected = read_metrics(whole, record)
    line = one_line(lambda: read_metrics(folder, record))
    if line:
        assert "metrics.jsonl" in line
    else:
        epochs = read_metrics(folder, record)
        assert epochs == expected[: len(epochs)]


@pytest.mark.parametrize("name", ["epochs", "order", "foreign"])
def test_lines_that_are_not_of_this_run_in_this_order_are_refused(run: Path, tmp_path: Path, name: str) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    if name == "foreign":
        other = Path(shutil.copytree(run, tmp_path / "other"))
        rewrite(other, record=lambda values: values.update(id="0" * 32))
        text = (other / "metrics.jsonl").read_text()
    else:
        text = "".join(lines[:2] if name == "epochs" else [lines[1], lines[0], lines[2]])
    (run / "metrics.jsonl").write_text(text)
    assert "metrics.jsonl" in one_line(lambda: load_run(run))


@pytest.mark.parametrize("behind", ["metrics.jsonl", "results.npz"])
def test_a_run_killed_between_two_files_is_read_with_a_line_and_can_be_resumed(
    whole: Path, tmp_path: Path, behind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """publish() writes results.npz first. After a resume from an older checkpoint it may be the shorter file."""
    store, run = whole.parent / "chips.zarr", tmp_path / "run"
    settings = ("EPOCHS=3", "BATCH=8", "VAL=0.2", "CHECKPOINT_MINUTES=1e-9")
    copies: dict[int, bytes] = {}

    def act(step: int) -> None:
        if (run / behind).exists():
            copies[step] = (run / behind).read_bytes()
        if step == 11:
            os.kill(os.getpid(), signal.SIGTERM)

    with Steps(act).watch:
        assert train(store, run, *settings).returncode == 75
    (run / behind).write_bytes(copies[5])
    epochs = {"metrics.jsonl": (1, 2), "results.npz": (2, 1)}[behind]
    load_run(run)
    message = f"metrics.jsonl holds {epochs[0]} epochs, results.npz {epochs[1]}: the run was killed in between"
    assert message in capsys.readouterr().out
    ended = here("train", f"RESUME={run}")
    assert ended.returncode == 0, ended.stderr
    assert outcome(run) == outcome(whole)
    load_run(run)


def test_files_of_two_runs_are_refused(run: Path, whole: Path, tmp_path: Path) -> None:
    """Two runs with the same settings differ only in their ids."""
    other = Path(shutil.copytree(whole, tmp_path / "other"))
    rewrite(other, record=lambda values: values.update(id="0" * 32))
    for name in ("run.json", "metrics.jsonl", "results.npz"):
        mixed = Path(shutil.copytree(run, tmp_path / f"mixed {name}"))
        shutil.copy(other / name, mixed / name)
        assert one_line(lambda: load_run(mixed))  # noqa: B023
    load_run(other)


@given(st.data())
def test_a_value_in_a_run_json_of_version_1_is_read_or_is_one_line(data: st.DataObject) -> None:
    """There types and ranges are checked, no digests. What resume and predict compare gives one line, too."""
    run = ROOT / "tests/fixtures/v1/run"
    values = json.loads((run / "run.json").read_text())
    place = data.draw(st.sampled_from([place for place in leaves(values) if place]))
    parent = values
    for name in place[:-1]:
        parent = parent[name]
    parent[place[-1]] = data.draw(JSON)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "run.json").write_text(json.dumps(values))
        line = one_line(lambda: read_record(Path(folder)))
        assert line == "" or "run.json" in line
        if line == "":
            record = read_record(Path(folder))
            one_line(lambda: check_inputs(record, record.config, v1_data(), "RESUME=run"))


@functools.cache
def v1_data() -> Data:
    record = read_record(ROOT / "tests/fixtures/v1/run")
    return open_data(record.config.replace(store=str(ROOT / "tests/fixtures/v1/store.zarr")))
