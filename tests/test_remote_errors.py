"""What can be wrong with a bucket, its server and the environment: one line that says what to set; no traceback."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.buckets import Bucket, bucket_server, proxy
from helpers.chips import BANDS, Chips
from helpers.commands import Ended, here

from preprocess.zarr_store import Store, open_store


@pytest.fixture(scope="module")
def bucket(session_store: Store) -> Iterator[Bucket]:
    with bucket_server() as bucket:
        bucket.upload(session_store.local_path, "made.zarr")
        yield bucket


def to_zarr(chips: Chips, **words: object) -> Ended:
    given = {
        "DATA": chips.folder,
        "LABELS": chips.csv,
        "STORE": "s3://chips/x.zarr",
        "BANDS": ",".join(BANDS),
        "JOBS": 1,
    }
    return here("preprocess", "zarr", *(f"{name}={value}" for name, value in {**given, **words}.items()))


COMMANDS: dict[str, Callable[[Chips], Ended]] = {
    "DATA": lambda chips: to_zarr(chips, DATA="s3://chips/tif", STORE="x.zarr"),
    "LABELS": lambda chips: to_zarr(chips, LABELS="s3://chips/tags.csv", STORE="x.zarr"),
    "STORE": lambda chips: to_zarr(chips),
    "info": lambda chips: here("preprocess", "info", "STORE=s3://chips/made.zarr"),
    "verify": lambda chips: here("preprocess", "verify", "STORE=s3://chips/made.zarr"),
    "train": lambda chips: here("train", "TASK=1", "STORE=s3://chips/made.zarr", "RUN=run"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("403", 2, "). Access is denied. Check the keys, and that they may read, list and write there."),
        ("503", 75, "the object store still fails ("),
        ("reset", 75, "the object store cannot be reached ("),
        ("301", 2, "AWS_REGION is us-east-1. Set it to the region of the bucket."),
    ],
)
def test_a_server_that_refuses_everything_is_one_line(
    bucket: Bucket, chips: Chips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, fault: str, code: int,
    words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with proxy(bucket, lambda number: fault) as server:
        ended = COMMANDS[command](chips)
    assert ended.returncode == code, ended.stderr
    assert ended.stderr.startswith("error: s3://chips/")
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert len(server.requests) <= 4  # a wrong address is refused after the first try and three more
    assert not (tmp_path / "x.zarr").exists()


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"AWS_ALLOW_HTTP": None}, 2, "The server's address begins with http://. Set AWS_ALLOW_HTTP=true."),
        (
            {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None, "AWS_METADATA_ENDPOINT": "http://127.0.0.1:9"},
            2,
            "There are no keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true",
        ),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            75,
            "Check the network and AWS_ENDPOINT_URL=http://127.0.0.1:9,",
        ),
    ],
)
def test_a_variable_that_is_missing_or_wrong_is_named(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str | None], code: int, words: str
) -> None:
    for name, value in changes.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    ended = here("preprocess", "info", "STORE=s3://chips/made.zarr")
    assert ended.returncode == code
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            {"STORE": "s3://nowhere/x.zarr"},
            "s3://nowhere: expected a bucket, found none. Check its name and AWS",
        ),
        ({"DATA": "s3://nowhere/x"}, "s3://nowhere: expected a bucket, found none."),
        ({"LABELS": "s3://nowhere/x.csv"}, "s3://nowhere: expected a bucket, found none."),
        (
            {"STORE": "ftp://host/x.zarr"},
            "ftp://host/x.zarr: expected s3://, gs://, az:// or https://, found",
        ),
        ({"DATA": "ftp://host/x"}, "ftp://host/x: expected s3://, gs://, az:// or https://, found"),
    ],
)
def test_a_bucket_that_is_not_there_is_named(
    bucket: Bucket, chips: Chips, words: dict[str, str], text: str
) -> None:  # fmt: skip
    ended = to_zarr(chips, **words)
    assert ended.returncode == 2
    assert text in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_an_error_in_a_worker_process_is_the_same_line(bucket: Bucket, chips: Chips) -> None:
    with proxy(bucket, lambda number: "403" if number > 20 else None):
        ended = to_zarr(chips, DATA=bucket.upload(chips.folder, "many"), JOBS=2)
    assert ended.returncode == 2
    assert "Access is denied" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_store_that_fails_while_it_is_read_is_no_damage(bucket: Bucket, refused: Callable[..., str]) -> None:
    with proxy(bucket, lambda number: "403"):
        text = refused(lambda: open_store("s3://chips/made.zarr"))
    assert "Access is denied" in text
    assert "Convert again" not in text
