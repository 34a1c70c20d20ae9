"""A conversion by Dask workers on several machines makes the bytes that one machine makes, also if a cable is cut. The
machines are network namespaces (`helpers.hosts`). Chips are read from a bucket; the store is in the bucket or on a
common disk."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.buckets import bucket_server
from helpers.chips import Chips, write_chips
from helpers.commands import ROOT, here
from helpers.files import tree
from helpers.hosts import Network, NoNetwork, network

pytestmark = pytest.mark.slow
HOSTS = ("node", "scheduler", "worker0", "worker1", "bucket")
WORDS = ("DATA=s3://chips/tif", "LABELS=s3://chips/tif/tags.csv", "BANDS=blue,green,red,nir")
LOST_S = 12  # Dask's time-out of a connection: 30 s by default, 11 s at least
ENVIRONMENT = {
    **os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": f"{LOST_S}s",
    "AWS_ENDPOINT_URL": "http://bucket:5000", "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1",
}  # fmt: skip


DOWNLOAD = """
import boto3, pathlib, sys
from helpers.buckets import Bucket
for name, data in Bucket(boto3.client("s3"), "").tree(sys.argv[1]).items():
    path = pathlib.Path(sys.argv[2]) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
"""


@dataclass(frozen=True)
class Machines:
    """A scheduler, two workers and a bucket with chips, a host for the command, and a folder on their common disk.

    At its first shard, `worker1` makes the file `marker` and waits until it is gone.
    """

    hosts: Network
    folder: Path
    in_bucket: bool

    @property
    def marker(self) -> Path:
        return self.folder / "marker"

    def python(self, host: str, *words: object, **more: str) -> "subprocess.Popen[str]":
        """Start a Python program on a host. What it prints goes to a file, which is not read while it runs."""
        with open(self.folder / f"{host}.log", "w") as log:
            command = [sys.executable, *map(str, words)]
            return self.hosts.start(host, command, cwd=ROOT, env={**ENVIRONMENT, **more}, stdout=log, stderr=log)

    def start_worker(self, host: str, *words: object, **more: str) -> "subprocess.Popen[str]":
        words = ("--host", self.hosts.addresses[host], "--nthreads", 1, "--no-nanny", "--no-dashboard", *words)
        return self.python(host, "-m", "distributed.cli.dask_worker", "tcp://scheduler:8786", *words, **more)

    def start_command(self) -> "subprocess.Popen[str]":
        words = (*WORDS, f"STORE={self.store}", "CLUSTER=tcp://scheduler:8786")
        return self.python("node", "-m", "preprocess", "zarr", *words)

    def convert(self) -> "subprocess.Popen[str]":
        """Start the conversion, and wait until worker 1 has begun."""
        converts = self.start_command()
        while not self.marker.exists():
            assert converts.poll() is None, self.log("node")
            time.sleep(0.01)
        return converts

    @property
    def store(self) -> str:
        """Where the conversion writes."""
        return f"s3://chips/{self.folder.name}" if self.in_bucket else str(self.folder / "chips.zarr")

    def tree(self) -> dict[str, bytes]:
        """Every file of the store."""
        if not self.in_bucket:
            return tree(Path(self.store))
        command = [sys.executable, "-c", DOWNLOAD, self.folder.name, str(self.folder / "copy")]
        downloaded = self.hosts.run("bucket", command, cwd=ROOT, env=ENVIRONMENT)
        assert downloaded.returncode == 0, downloaded.stderr
        return tree(self.folder / "copy")

    def log(self, host: str) -> str:
        return (self.folder / f"{host}.log").read_text()


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Chips:
    """Four shards."""
    return write_chips(tmp_path_factory.mktemp("hosts") / "tif", count=780, height=8, width=8)


@pytest.fixture(scope="module")
def whole(chips: Chips) -> dict[str, bytes]:
    """The store of the same objects, made by the processes of one machine."""
    store = chips.folder.parent / "whole.zarr"
    with bucket_server() as bucket:
        bucket.upload(chips.folder, "tif")
        ended = here("preprocess", "zarr", *WORDS, f"STORE={store}", "JOBS=2")
    assert ended.returncode == 0, ended.stderr
    return tree(store)


@pytest.fixture(scope="module")
def hosts(chips: Chips) -> Iterator[Network]:
    """The hosts, with the chips in the bucket."""
    try:
        with network(*HOSTS) as made:
            command = [sys.executable, "-m", "moto.server", "-H", "0.0.0.0", "-p", "5000"]
            made.start("bucket", command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            upload = [sys.executable, str(ROOT / "tests" / "helpers" / "upload.py"), str(chips.folder)]
            uploaded = made.run("bucket", upload, env=ENVIRONMENT)
            assert uploaded.returncode == 0, uploaded.stderr
            yield made
    except NoNetwork as reason:
        pytest.skip(str(reason))


@pytest.fixture(params=["disk", "bucket"])
def machines(hosts: Network, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Machines]:
    """A scheduler and two workers, which end with the test."""
    made = Machines(hosts, tmp_path, request.param == "bucket")
    scheduler = ("-m", "distributed.cli.dask_scheduler", "--host", hosts.addresses["scheduler"], "--port", 8786)
    started = [
        made.python("scheduler", *scheduler, "--no-dashboard"),
        made.start_worker("worker0"),
        made.start_worker("worker1", "--preload", "helpers.wait_point", WAIT_MARKER=str(made.marker)),
    ]
    yield made
    for process in started:
        process.kill()
        process.wait()
    for host in HOSTS:
        hosts.join(host)


def test_hosts_make_the_bytes_that_one_machine_makes(machines: Machines, whole: dict[str, bytes]) -> None:
    converts = machines.convert()
    machines.marker.unlink()
    assert converts.wait() == 0, machines.log("node")
    assert machines.tree() == whole


@pytest.mark.parametrize("seconds", [LOST_S / 2, 2 * LOST_S])
def test_a_worker_that_is_cut_off_for_a_time_changes_no_byte(
    machines: Machines, whole: dict[str, bytes], seconds: float
) -> None:
    converts = machines.convert()
    machines.hosts.cut("worker1")
    machines.marker.unlink()
    time.sleep(seconds)
    machines.hosts.join("worker1")
    assert converts.wait() == 0, machines.log("node")
    assert machines.tree() == whole


def test_the_tasks_of_a_worker_that_is_cut_off_for_ever_move_to_another(
    machines: Machines, whole: dict[str, bytes]
) -> None:
    converts = machines.convert()
    machines.hosts.cut("worker1")
    machines.marker.unlink()
    assert converts.wait() == 0, machines.log("node")
    assert machines.tree() == whole


def test_without_the_scheduler_the_command_ends_and_the_same_command_resumes(
    machines: Machines, whole: dict[str, bytes]
) -> None:
    converts = machines.convert()
    machines.hosts.cut("scheduler")
    machines.marker.unlink()
    assert converts.wait() == 75
    assert machines.log("node").splitlines()[-1] == (
        "error: Dask's scheduler is lost. Start it again; the same command resumes."
    )
    machines.hosts.join("scheduler")
    machines.start_worker("worker0")
    again = machines.start_command()
    assert again.wait() == 0, machines.log("node")
    assert machines.tree() == whole
