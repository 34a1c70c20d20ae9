"""CLUSTER=...: conversions and verifications by Dask workers give the same bytes and lines as those of one machine."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.chips import BANDS, Chips, conversion, to_store, write_chips
from helpers.commands import python
from helpers.files import tree

from preprocess.cluster_run import LIMITS
from preprocess.cluster_setting import ClusterAddress, cluster_address
from preprocess.commands import ZarrSettings
from preprocess.convert import convert
from preprocess.engine import open_engine
from preprocess.files import partial_path


def test_a_store_of_two_local_workers_has_the_same_bytes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """And nothing of what Dask says is printed."""
    chips = write_chips(tmp_path / "tif", count=1300, height=8, width=8)
    whole = tree(Path(to_store(chips, tmp_path / "whole.zarr").path))
    settings = conversion(data=chips.folder, labels=chips.csv, store=tmp_path / "s.zarr", bands=BANDS)
    capfd.readouterr()
    convert(settings, cluster="local:2")
    printed = capfd.readouterr()
    assert (len(printed.out.splitlines()), printed.err) == (1, "")
    assert tree(tmp_path / "s.zarr") == whole
    assert not partial_path(tmp_path / "s.zarr").exists()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("tcp://host:8786", ClusterAddress(address="tcp://host:8786")),
        ("tls://10.0.0.1:8786", ClusterAddress(address="tls://10.0.0.1:8786")),
        ("folder/scheduler.json", ClusterAddress(file=Path("folder/scheduler.json"))),
        ("local:8", ClusterAddress(local=8)),
    ],
)
def test_a_cluster_is_an_address_a_file_or_local_workers(text: str, place: ClusterAddress) -> None:
    assert cluster_address(text) == place


@pytest.mark.parametrize("text", ["local", "local:0", "local:-1", "tcp://host", "host:8786", "http://host:1", "x.yaml"])
def test_another_text_is_refused(text: str, refused: Callable[..., str]) -> None:
    line = refused(lambda: ZarrSettings.from_words(["DATA=x", f"CLUSTER={text}"], "zarr"))
    assert f"CLUSTER={text}: expected tcp://host:8786, scheduler.json or local:8" in line


@pytest.mark.parametrize("word", ["JOBS=2", "SHARDS=1/2"])
def test_what_has_no_effect_beside_cluster_is_refused(word: str, refused: Callable[..., str]) -> None:
    line = refused(lambda: ZarrSettings.from_words(["DATA=x", "CLUSTER=local:2", word], "zarr"))
    assert line == f"{word.partition('=')[0] if word[0] == 'J' else word} has no effect with CLUSTER; leave it out."


def test_without_dask_one_line_says_how_to_install_it(chips: Chips, refused: Callable[..., str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "distributed", None)
        settings = ZarrSettings.from_words([f"DATA={chips.folder}", "CLUSTER=local:2"], "zarr")
        line = refused(settings.check)
    assert line.startswith("CLUSTER=local:2: Dask is not installed here. ")
    assert "`.venv/bin/pip install -c constraints.txt distributed`" in line


def test_a_file_of_a_scheduler_that_does_not_come_is_one_line(
    tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LIMITS, "connect_s", 0.3)
    line = refused(lambda: open_engine(str(tmp_path / "scheduler.json"), jobs=1).__enter__())
    assert line == (
        f"CLUSTER={tmp_path / 'scheduler.json'}: expected the file of a scheduler, found nothing for 0 s. `dask "
        f"scheduler --scheduler-file {tmp_path / 'scheduler.json'}` starts one."
    )


def test_dask_is_not_imported_without_cluster(chips: Chips, tmp_path: Path) -> None:
    code = (
        "import sys; from canopy.main import dispatch; "
        f"dispatch('preprocess', ['zarr', 'DATA={chips.folder}', 'LABELS={chips.csv}', 'STORE={tmp_path / 's.zarr'}',"
        " 'BANDS=blue,green,red,nir', 'JOBS=1']); print({'dask', 'distributed'} & set(sys.modules))"
    )
    assert python("-c", code).stdout.endswith("set()\n")
