"""az:// and gs:// against third-party servers with these protocols: the bytes of the disk, resume, conditions, errors.

CONTRIBUTING says how to get the servers. Without them these tests are skipped.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from helpers.chips import BANDS, Chips, conversion, write_chips
from helpers.emulators import Emulated, emulator
from helpers.files import tree
from helpers.rasters import corners, names, raster, windows_store, write_labels, write_raster

from pipeline.inputs import raw_inputs
from pipeline.loader import eval_loader
from preprocess import remote
from preprocess.addresses import Address
from preprocess.commands import ConversionSettings
from preprocess.convert import convert
from preprocess.plan import Plan
from preprocess.verify import verify
from preprocess.zarr_store import Store, open_store

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["az", "gs"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulated]:
    with emulator(request.param, tmp_path_factory.mktemp("emulator")) as server:
        yield server


def settings_for(server: Emulated, chips: Chips, name: str, **changes: object) -> ConversionSettings:
    store = Address(f"{server.scheme}://chips/{name}")
    return conversion(**{"data": chips.folder, "labels": chips.csv, "store": store, "bands": BANDS, **changes})


def test_a_store_has_the_bytes_of_a_local_conversion(
    server: Emulated, session_chips: Chips, session_store: Store
) -> None:
    convert(settings_for(server, session_chips, "same.zarr"))
    assert server.tree("same.zarr") == tree(session_store.local_path)
    assert server.tree("same.zarr.partial") == {}
    store = open_store(f"{server.scheme}://chips/same.zarr")
    assert verify(Address(f"{server.scheme}://chips/same.zarr"), jobs=1) == 0
    chips = np.arange(store.num_chips)
    for one, other in zip(
        *(eval_loader(each, chips, raw_inputs(each, BANDS, chips), batch_size=50).epoch(0)
          for each in (store, session_store)), strict=True,
    ):  # fmt: skip
        assert one.images_nchw.equal(other.images_nchw)


def test_from_a_bucket_to_a_bucket(server: Emulated, tmp_path: Path) -> None:
    chips = write_chips(tmp_path / "chips", count=20)
    data = Address(server.upload(chips.folder, "source a%20b"))
    words = {"data": data, "labels": data / "tags.csv"}
    convert(settings_for(server, chips, "both.zarr", **words))
    convert(settings_for(server, chips, "both.zarr", **words, store=tmp_path / "disk.zarr"))
    assert server.tree("both.zarr") == tree(tmp_path / "disk.zarr")


@pytest.mark.parametrize("fatal", ["tiles/c/1/0/0/0", "progress/1.npz", "labels/c/0/0"])
def test_a_stopped_conversion_resumes(
    server: Emulated, session_chips: Chips, session_store: Store, capsys: pytest.CaptureFixture[str], fatal: str
) -> None:
    name, write = f"stopped-{fatal.replace('/', '-')}.zarr", remote.Objects.write

    def stop(self: remote.Objects, key: str, data: bytes) -> None:
        if self.name(key).endswith(fatal):
            raise KeyboardInterrupt
        write(self, key, data)

    with mock.patch.object(remote.Objects, "write", stop), pytest.raises(KeyboardInterrupt):
        convert(settings_for(server, session_chips, name))
    convert(settings_for(server, session_chips, name))
    assert f"resuming: {300 if fatal == 'labels/c/0/0' else 256} of 300 chips are done" in capsys.readouterr().out
    assert server.tree(name) == tree(session_store.local_path)
    assert server.tree(f"{name}.partial") == {}


def test_a_second_conversion_with_other_settings_is_refused_and_a_condition_is_kept(
    server: Emulated, session_chips: Chips, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    with mock.patch.object(remote.Objects, "write", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        convert(settings_for(server, session_chips, "two.zarr"))
    assert "conditional PUT" not in capsys.readouterr().out
    other = settings_for(server, session_chips, "two.zarr", codec="none")
    assert "started with other settings" in refused(lambda: convert(other))
    objects = remote.Objects(f"{server.scheme}://chips/conditions")
    assert [objects.create("a", data) for data in (b"1", b"2")] == [True, False]
    assert [objects.replace("a", b"1", data) for data in (b"3", b"4")] == [True, False]
    objects.write("b", b"")
    objects.remove(["no object", "a", "nor this", "b"])
    assert list(objects.list()) == []


def test_a_chip_that_changes_after_the_listing_is_named(
    server: Emulated, tmp_path: Path, refused: Callable[..., str]
) -> None:
    chips = write_chips(tmp_path / "chips")
    data = Address(server.upload(chips.folder, "changes"))

    def change(plan: Plan) -> None:
        server.store.put("changes/t_7.tif", (chips.folder / "t_4.tif").read_bytes(), use_multipart=False)

    settings = settings_for(server, chips, "changed.zarr", data=data)
    assert refused(lambda: convert(settings, change)) == (
        f"{data}/t_7.tif: expected the file as listed, found a changed file. Run the same command again."
    )
    convert(settings)
    assert open_store(f"{server.scheme}://chips/changed.zarr").num_chips == 12


def test_windows_of_rasters_give_the_store_of_the_disk(server: Emulated, tmp_path: Path) -> None:
    write_raster(tmp_path / "in/a.tif", raster(0, 150, 330), tile=(64, 48), compression="deflate")
    write_labels(tmp_path / "in", names("a", corners(150, 330, 32, 32)))
    words = {"window": 32, "bands": ("red", "green", "blue")}
    disk = windows_store(tmp_path / "in", tmp_path / "disk.zarr", **words)
    other = windows_store(Address(server.upload(tmp_path / "in", "rasters")), tmp_path / "other.zarr", **words)
    assert other.fingerprint == disk.fingerprint


def test_what_is_wrong_is_one_line_with_the_variables_of_the_scheme(
    server: Emulated, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chips = write_chips(tmp_path / "chips", count=3)
    scheme = server.scheme
    nothing = settings_for(server, chips, "x.zarr", data=Address(f"{scheme}://chips/nothing"))
    assert refused(lambda: convert(nothing)) == (
        f"DATA={scheme}://chips/nothing: expected a folder of TIFFs, found no object below this address."
    )
    no_labels = settings_for(server, chips, "x.zarr", labels=Address(f"{scheme}://chips/no.csv"))
    assert f"{scheme}://chips/no.csv: expected an object, found none" in refused(lambda: convert(no_labels))
    if scheme == "az":  # fake-gcs-server answers 500 if there is no bucket, and takes any keys
        assert "az://none: expected a bucket, found none. Check its name and AZURE_STORAGE_ENDPOINT=http" in refused(
            lambda: remote.Objects("az://none").write("a", b"")
        )
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "aaaa")
        text = refused(lambda: convert(settings_for(server, chips, "x.zarr")))
        assert "Access is denied. Check the keys" in text
    else:
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "none.json"))
        text = refused(lambda: convert(settings_for(server, chips, "x.zarr")))
        assert "none.json: No such file" in text
        assert "GOOGLE_* in the environment" in text
