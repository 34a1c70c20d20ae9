"""`make predict` of chips in object storage: the scores of the disk to the bit, few requests, bad chips are named."""

import csv
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.buckets import Bucket, bucket_server, proxy
from helpers.chips import to_store, write_chips
from helpers.commands import train
from helpers.predictions import read

from analysis.predict import predict
from canopy.main import dispatch
from preprocess.addresses import Address, Location
from preprocess.sources import forget_objects


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with bucket_server() as bucket:
        yield bucket


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run of Task 1, and its 40 chips with their scores."""
    folder = tmp_path_factory.mktemp("remote_predict")
    chips = write_chips(folder / "tif", count=40, height=32, width=32)
    to_store(chips, folder / "chips.zarr")
    ended = train(folder / "chips.zarr", folder / "run", "EPOCHS=1", "BATCH=16", "CROP_SHARE=1", "TEST_BATCH=10")
    assert ended.returncode == 0, ended.stderr
    assert score(folder / "run", chips.folder, folder / "disk.csv") == 0
    return SimpleNamespace(run=folder / "run", tif=chips.folder, scores=read(folder / "disk.csv"), disk=folder)


def score(run: Path, data: Location, out: Path) -> int:
    return predict(run, data, out, bands=None, gpu="cpu", tta=False)


def uploaded(bucket: Bucket, folder: Path, name: str) -> Address:
    return Address(bucket.upload(folder, name))


def test_chips_in_a_bucket_get_the_scores_of_the_disk(bucket: Bucket, trained: SimpleNamespace, tmp_path: Path) -> None:
    assert score(trained.run, uploaded(bucket, trained.tif, tmp_path.name), tmp_path / "out.csv") == 0
    for suffix in ("", "_submission"):
        names = f"disk{suffix}.csv", f"out{suffix}.csv"
        assert (trained.disk / names[0]).read_bytes() == (tmp_path / names[1]).read_bytes()


def test_a_prediction_lists_once_and_gets_each_chip_once(
    bucket: Bucket, trained: SimpleNamespace, tmp_path: Path
) -> None:
    data = uploaded(bucket, trained.tif, tmp_path.name)
    with proxy(bucket) as counted:
        score(trained.run, data, tmp_path / "out.csv")
    paths = Counter(path.rpartition("/")[2] for _, path in counted.requests if "list-type" not in path)
    assert len(counted.requests) == 41
    assert paths == Counter(f"t_{index}.tif" for index in range(40))


def test_the_command_of_the_page_scores_a_bucket(
    bucket: Bucket, trained: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.client.create_bucket(Bucket="bucket")
    for path in trained.tif.glob("*.tif"):
        bucket.client.upload_file(str(path), "bucket", f"new/{path.name}")
    (tmp_path / "runs").mkdir()
    shutil.copytree(trained.run, tmp_path / "runs/task4")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[1] / "docs/formats.md").read_text()
    line = next(line for line in page.splitlines() if line.startswith("make predict") and "s3://" in line)
    assert dispatch("", line.split()[1:]) == 0
    assert read(tmp_path / "predictions.csv") == trained.scores


def test_a_damaged_and_a_deleted_chip_are_named_and_the_others_keep_their_scores(
    bucket: Bucket, trained: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = uploaded(bucket, trained.tif, tmp_path.name)
    bucket.client.put_object(Bucket="chips", Key=f"{tmp_path.name}/t_3.tif", Body=b"II")
    forget_objects(data, None)

    def keep_listing(*words: object) -> None:
        bucket.client.delete_object(Bucket="chips", Key=f"{tmp_path.name}/t_5.tif")
        shutil.copy(trained.tif / "t_0.tif", tmp_path / "t_0.tif")
        bucket.client.upload_file(str(tmp_path / "t_0.tif"), "chips", f"{tmp_path.name}/t_7.tif")

    monkeypatch.setattr("analysis.predict.forget_objects", keep_listing)
    assert score(trained.run, data, tmp_path / "out.csv") == 3
    with open(tmp_path / "out_bad.csv", newline="") as file:
        bad = {row["image_name"]: row["reason"] for row in csv.DictReader(file)}
    assert bad.keys() == {"t_3", "t_5", "t_7"}
    assert bad["t_3"].startswith(f"{data}/t_3.tif: expected a valid TIFF, found a file that is damaged")
    assert bad["t_5"] == f"{data}/t_5.tif: expected a readable file, found No such object."
    assert bad["t_7"] == (
        f"{data}/t_7.tif: expected the file as listed, found a changed file. Run the same command again."
    )
    good = {name: values for name, values in trained.scores.items() if name not in bad}
    assert read(tmp_path / "out.csv") == good


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("s3://chips/nothing", "DATA=s3://chips/nothing: expected a folder of TIFFs, found no object below"),
        ("s3://other/chips", "s3://other: expected a bucket, found none"),
        ("ftp://chips/x", "ftp://chips/x: expected s3://, gs://, az:// or https://, found something else"),
    ],
)
def test_a_wrong_address_is_refused_in_one_line(
    bucket: Bucket, trained: SimpleNamespace, tmp_path: Path, refused: Callable[..., str], data: str, text: str
) -> None:
    assert text in refused(lambda: score(trained.run, Address(data), tmp_path / "out.csv"))
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_refuses_a_chip_ends_the_prediction_and_the_next_one_resumes(
    bucket: Bucket, trained: SimpleNamespace, tmp_path: Path, refused: Callable[..., str]
) -> None:
    data = uploaded(bucket, trained.tif, tmp_path.name)
    with proxy(bucket, lambda number: "403" if number > 15 else None):
        assert "Access is denied" in refused(lambda: score(trained.run, data, tmp_path / "out.csv"))
    assert not (tmp_path / "out.csv").exists()
    assert score(trained.run, data, tmp_path / "out.csv") == 0
    assert read(tmp_path / "out.csv") == trained.scores
