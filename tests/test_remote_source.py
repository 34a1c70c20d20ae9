"""Chips and labels in object storage: the same store as from disk, few requests, and changes are noticed."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.buckets import Bucket, bucket_server, proxy
from helpers.chips import BANDS, conversion, write_chips
from helpers.doc_blocks import ROOT
from helpers.files import tree
from helpers.pictures import colours, encoded
from helpers.published import write_bigearthnet
from PIL import Image

from canopy.main import dispatch
from preprocess import remote_chips
from preprocess.addresses import Address
from preprocess.convert import convert
from preprocess.plan import Plan
from preprocess.remote_files import etag_number
from preprocess.zarr_store import open_store


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with bucket_server() as bucket:
        yield bucket


def compare(bucket: Bucket, tmp_path: Path, data: Path, labels: Path | None, **settings: object) -> None:
    """Convert a folder from disk and from the bucket: all but the times of the files must be equal."""
    address = Address(bucket.upload(data, tmp_path.name))
    remote_labels = address / labels.relative_to(data) if labels and labels.is_file() else labels
    convert(conversion(data=data, labels=labels, store=tmp_path / "disk.zarr", **settings))
    convert(conversion(data=address, labels=remote_labels, store=tmp_path / "bucket.zarr", **settings))
    disk, remote = (tree(tmp_path / f"{name}.zarr") for name in ("disk", "bucket"))
    assert {key for key in disk if disk[key] != remote[key]} == {"source_mtime_ns/c/0", "zarr.json"}
    stores = [open_store(tmp_path / f"{name}.zarr") for name in ("disk", "bucket")]
    assert stores[0].fingerprint == stores[1].fingerprint


def test_tiffs_and_a_csv_give_the_store_of_the_disk(bucket: Bucket, tmp_path: Path) -> None:
    chips = write_chips(tmp_path / "chips")
    compare(bucket, tmp_path, chips.folder, chips.csv, bands=BANDS)


def test_the_command_of_the_page_converts_a_bucket(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs/formats.md").read_text()
    line = next(line for line in page.splitlines() if line.startswith("make zarr DATA=s3://"))
    chips = write_chips(tmp_path / "chips")
    bucket.client.create_bucket(Bucket="bucket")
    for path in chips.folder.iterdir():
        bucket.client.upload_file(str(path), "bucket", f"chips/{path.name}" if path.suffix == ".tif" else path.name)
    monkeypatch.chdir(tmp_path)
    assert dispatch("", [*line.split()[1:], "JOBS=1"]) == 0
    assert open_store("s3://bucket/chips.zarr").num_chips == 12


def test_pictures_in_class_folders_give_the_store_of_the_disk(bucket: Bucket, tmp_path: Path) -> None:
    for index, (name, form) in enumerate((("Forest/a.png", "PNG"), ("River/b.JPG", "JPEG"), ("River/c.png", "PNG"))):
        path = tmp_path / "chips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(colours(index), form))
    compare(bucket, tmp_path, tmp_path / "chips", Path("folders"))


def test_a_file_per_band_and_parquet_give_the_store_of_the_disk(bucket: Bucket, tmp_path: Path) -> None:
    write_bigearthnet(tmp_path / "chips")
    compare(bucket, tmp_path, tmp_path / "chips", None, preset="bigearthnet")


def test_json_lines_and_names_in_another_case_give_the_store_of_the_disk(bucket: Bucket, tmp_path: Path) -> None:
    chips = write_chips(tmp_path / "chips")
    labels = tmp_path / "chips/tags.jsonl"
    rows = [{"image_name": f"T_{index}.TIF", "tags": tags.split()} for index, tags in enumerate(chips.tags)]
    labels.write_text("\n".join(map(json.dumps, rows)))
    compare(bucket, tmp_path, chips.folder, labels, bands=BANDS)


def test_a_conversion_lists_once_and_gets_each_chip_once(bucket: Bucket, tmp_path: Path) -> None:
    chips = write_chips(tmp_path / "chips")
    address = Address(bucket.upload(chips.folder, tmp_path.name))
    with proxy(bucket) as counted:
        convert(conversion(data=address, labels=address / "tags.csv", store=tmp_path / "s.zarr", bands=BANDS))
    listings = [path for _, path in counted.requests if "list-type" in path]
    gets = Counter(path.rpartition("/")[2] for _, path in counted.requests if "list-type" not in path)
    assert len(listings) == 1
    assert {method for method, _ in counted.requests} == {"GET"}
    # The first chip is also read for the plan: its values and its metadata.
    assert gets == Counter({"tags.csv": 1, "t_0.tif": 3} | {f"t_{index}.tif": 1 for index in range(1, 12)})


def test_the_time_of_a_chip_is_a_number_made_from_its_etag(bucket: Bucket, tmp_path: Path) -> None:
    chips = write_chips(tmp_path / "chips", count=3)
    address = Address(bucket.upload(chips.folder, tmp_path.name))
    convert(conversion(data=address, labels=chips.csv, store=tmp_path / "s.zarr", bands=BANDS))
    heads = [bucket.client.head_object(Bucket="chips", Key=f"{tmp_path.name}/t_{index}.tif") for index in range(3)]
    store = open_store(tmp_path / "s.zarr")
    assert store.source_mtime_ns.tolist() == [etag_number(head["ETag"]) for head in heads]
    assert store.source_size.tolist() == [head["ContentLength"] for head in heads]


def test_azure_lists_an_etag_without_the_quotes_of_its_get() -> None:
    assert etag_number('"0x8D1"') == etag_number("0x8D1") != etag_number("0x8D2")


@pytest.mark.parametrize("hidden", [(), ("if-match",)])
def test_a_chip_that_changes_after_the_listing_is_refused(
    bucket: Bucket, tmp_path: Path, refused: Callable[..., str], hidden: tuple[str, ...]
) -> None:
    chips = write_chips(tmp_path / "chips")
    address = Address(bucket.upload(chips.folder, tmp_path.name))

    def change(plan: Plan) -> None:
        other = chips.folder / "t_4.tif"
        bucket.client.upload_file(str(other), "chips", f"{tmp_path.name}/t_7.tif")

    settings = conversion(data=address, labels=chips.csv, store=tmp_path / "s.zarr", bands=BANDS)
    with proxy(bucket) as server:
        server.hidden = hidden  # a server that does not know the condition sends the new chip
        text = refused(lambda: convert(settings, change))
    assert text == f"{address}/t_7.tif: expected the file as listed, found a changed file. Run the same command again."
    # t_7.tif is requested again to find all bad chips of the shard.
    assert [status for status in server.statuses if status >= 400] == ([] if hidden else [412, 412])
    convert(settings)
    assert open_store(tmp_path / "s.zarr").num_chips == 12


def test_a_second_conversion_notices_unchanged_and_changed_chips(
    bucket: Bucket, tmp_path: Path, refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    chips = write_chips(tmp_path / "chips", count=3)
    address = Address(bucket.upload(chips.folder, tmp_path.name))
    settings = conversion(data=address, labels=chips.csv, store=tmp_path / "s.zarr", bands=BANDS)
    convert(settings)
    convert(settings)
    assert "Nothing to do" in capsys.readouterr().out
    bucket.client.upload_file(str(chips.folder / "t_0.tif"), "chips", f"{tmp_path.name}/t_1.tif")
    assert f"size or time of 1 source files, first {address}/t_1.tif" in refused(lambda: convert(settings))


def test_files_ahead_of_the_encoder_fit_into_a_fixed_memory(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(20):
        bucket.client.put_object(Bucket="chips", Key=f"ahead/{index}", Body=bytes(1000))
    monkeypatch.setattr(remote_chips, "AHEAD_BYTES", 5000)
    names = [f"s3://chips/ahead/{index}" for index in range(20)]
    with proxy(bucket) as counted:
        files = remote_chips.RemoteFiles()
        files.begin(names, 1000)
        for opened, name in enumerate(names[:10], start=1):
            with files.open(name) as file:
                assert len(file.read()) == 1000
            assert len(counted.requests) <= opened + 5
        del files
    assert np.unique([path for _, path in counted.requests]).size == len(counted.requests)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"data": "s3://chips/nothing"}, "expected a folder of TIFFs, found no object below this address"),
        ({"labels": "s3://chips/no.csv"}, "s3://chips/no.csv: expected an object, found none"),
        ({"window": 8}, "s3://chips/one/a.tif: expected a valid TIFF, found a file that is damaged"),
    ],
)
def test_what_is_missing_is_named(
    bucket: Bucket, tmp_path: Path, refused: Callable[..., str], words: dict[str, object], text: str
) -> None:
    bucket.client.put_object(Bucket="chips", Key="one/a.tif", Body=b"II")
    (tmp_path / "tags.csv").write_text("image_name,tags\na,x\n")
    settings = {"data": "s3://chips/one", "labels": tmp_path / "tags.csv", "store": tmp_path / "s.zarr", **words}
    values = {name: Address(value) if "://" in str(value) else value for name, value in settings.items()}
    assert text in refused(lambda: convert(conversion(**values)))
    assert not (tmp_path / "s.zarr").exists()


def test_a_damaged_picture_is_named(bucket: Bucket, tmp_path: Path, refused: Callable[..., str]) -> None:
    Image.fromarray(colours(0)).save(tmp_path / "a.png")
    bucket.client.put_object(Bucket="chips", Key="bad/a.png", Body=(tmp_path / "a.png").read_bytes()[:-40])
    (tmp_path / "tags.csv").write_text("image_name,tags\na,x\n")
    settings = conversion(data=Address("s3://chips/bad"), labels=tmp_path / "tags.csv", store=tmp_path / "s.zarr")
    assert refused(lambda: convert(settings)).startswith("s3://chips/bad/a.png: expected a valid PNG or JPEG, found")


@pytest.mark.parametrize("name", ["a b", "ü", "x%20y", "c#1", "q?", "p+p", "sub.folder/k=v&w", "[1]*"])
def test_any_name_of_a_key_is_read(bucket: Bucket, tmp_path: Path, name: str) -> None:
    chips = write_chips(tmp_path / "chips", count=1)
    bucket.client.upload_file(str(chips.folder / "t_0.tif"), "chips", f"names {name}/{name}.tif")
    (tmp_path / "tags.csv").write_text(f"image_name,tags\n{name},a\n")
    data = Address(f"s3://chips/names {name}")
    convert(conversion(data=data, labels=tmp_path / "tags.csv", store=tmp_path / "s.zarr", bands=BANDS))
    assert open_store(tmp_path / "s.zarr").names.tolist() == [name]
