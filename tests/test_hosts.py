"""Two machines train as one, a network apart: the same run as two processes on one machine, to the bit, also if a
cable is cut. The machines are network namespaces (`helpers.hosts`)."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from helpers.chips import to_store, write_chips
from helpers.commands import ROOT, here, python
from helpers.hosts import Network, NoNetwork, network, spaces
from tiny import EVERY_STEP, outcome

from preprocess.zarr_store import Store

NODES = ("node0", "node1")
BUCKET = "store"
# One thread per process, so that each adds in the same order as its neighbour on one machine.
ENVIRONMENT = {
    **os.environ, "OMP_NUM_THREADS": "1", "AWS_ENDPOINT_URL": f"http://{BUCKET}:5000", "AWS_ALLOW_HTTP": "true",
    "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1",
}  # fmt: skip
TIMEOUT = "RANK_TIMEOUT_MINUTES=0.25"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
UPLOAD = ROOT / "tests" / "helpers" / "upload.py"


@pytest.fixture
def hosts() -> Iterator[Network]:
    """Three machines: two that train, and one for a server."""
    try:
        with network(*NODES, BUCKET) as made:
            yield made
    except NoNetwork as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    chips = write_chips(tmp_path_factory.mktemp("hosts") / "tif", count=361)
    return to_store(chips, chips.folder.parent / "chips.zarr")


def settings(store: object) -> list[str]:
    return ["TASK=4", f"STORE={store}", "GPU=cpu", "EPOCHS=3", "BATCH=20", "WEIGHTS=none", "EMA=0.9"]


@pytest.fixture(scope="module")
def one_machine(store: Store) -> Path:
    """The folder with the logs and the run of two processes on this machine."""
    place = store.path.parent / "one"
    words = [str(ROOT / "tests" / "rank_run.py"), str(place), "0", *settings(store.path), f"RUN={place / 'run'}"]
    ended = subprocess.run([*TORCHRUN, "--nproc-per-node", "2", "--", *words], cwd=ROOT, env=ENVIRONMENT,
                           capture_output=True, text=True)  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return place


def start(hosts: Network, commands: Sequence[list[str]]) -> "list[subprocess.Popen[str]]":
    """Start a command on each of the nodes."""
    return [
        hosts.start(node, command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for node, command in zip(NODES, commands, strict=True)
    ]


def torchrun(place: Path, stop: int, *words: str) -> list[list[str]]:
    """For each node the command that runs `rank_run.py` there, in one process."""
    ranks = [str(ROOT / "tests" / "rank_run.py"), str(place), str(stop), *words]
    return [
        [*TORCHRUN, "--nnodes", "2", "--node-rank", str(node), "--master-addr", NODES[0], "--master-port", "29500",
         "--", *ranks]
        for node in range(2)
    ]  # fmt: skip


def canopy(*words: str) -> list[list[str]]:
    """For each node the same training, started by canopy's own command."""
    start = [sys.executable, "-m", "train", "NODES=2", f"HEAD={NODES[0]}:29500"]
    return [[*start, f"NODE={node}", *words] for node in range(2)]


def wait_for(condition: Callable[[], object], processes: "Sequence[subprocess.Popen[Any]]") -> None:
    while not condition():
        assert all(process.poll() is None for process in processes), [process.communicate() for process in processes]
        time.sleep(0.01)


def lost(rank: int) -> str:
    return (
        f"error: rank {rank}: no answer from another process of this run for 0.25 minutes (RANK_TIMEOUT_MINUTES=0.25)."
    )


def check_equal(place: Path, one_machine: Path) -> None:
    """Weights, scores, and every chip and loss of both ranks."""
    assert outcome(place / "run") == outcome(one_machine / "run")
    for rank in range(2):
        assert (place / f"{rank}.log").read_text() == (one_machine / f"{rank}.log").read_text()


def test_hosts_know_each_other_by_name_until_a_cable_is_cut(hosts: Network, tmp_path: Path) -> None:
    def answer() -> str:
        fetch = "import urllib.request as r; print(r.urlopen('http://node1:8000/word', timeout=1).read().decode())"
        return hosts.run("node0", [sys.executable, "-c", fetch]).stdout

    (tmp_path / "word").write_text("here")
    server = hosts.start("node1", [sys.executable, "-m", "http.server", "8000", "-d", str(tmp_path)],
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    while answer() != "here\n":
        assert server.poll() is None
    hosts.cut("node1")
    assert answer() == ""
    hosts.join("node1")
    assert answer() == "here\n"


def test_nothing_of_the_hosts_is_left_after_a_failure() -> None:
    endless = []

    def fail() -> None:
        with network("a", "b") as made:
            endless.append(made.start("a", ["sleep", "1000"]))
            raise ZeroDivisionError

    try:
        with pytest.raises(ZeroDivisionError):
            fail()
    except NoNetwork as reason:
        pytest.skip(str(reason))
    assert endless[0].returncode == -9
    assert not [space for space in spaces() if space.split("-")[2] == str(os.getpid())]


@pytest.mark.slow
def test_two_machines_train_what_one_machine_trains(hosts: Network, store: Store, one_machine: Path) -> None:
    place = store.path.parent / "two"
    for process in start(hosts, torchrun(place, 0, *settings(store.path), f"RUN={place / 'run'}")):
        _, stderr = process.communicate()
        assert process.returncode == 0, stderr
    check_equal(place, one_machine)


@pytest.mark.slow
def test_a_short_cut_changes_nothing(hosts: Network, store: Store, one_machine: Path) -> None:
    place = store.path.parent / "short"
    processes = start(hosts, torchrun(place, -17, *settings(store.path), f"RUN={place / 'run'}"))
    wait_for((place / "waits").exists, processes)
    hosts.cut("node1")
    (place / "waits").unlink()
    time.sleep(3)
    assert len((place / "0.log").read_text().splitlines()) < 20  # of 36: it waits
    hosts.join("node1")
    for process in processes:
        _, stderr = process.communicate()
        assert process.returncode == 0, stderr
    check_equal(place, one_machine)


@pytest.mark.slow
def test_both_machines_read_a_store_in_object_storage(hosts: Network, store: Store, one_machine: Path) -> None:
    place = store.path.parent / "s3"
    server = hosts.start(BUCKET, [sys.executable, "-m", "moto.server", "-H", "0.0.0.0", "-p", "5000"],
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    uploaded = hosts.run(BUCKET, [sys.executable, str(UPLOAD), str(store.path)], env=ENVIRONMENT)
    assert uploaded.returncode == 0, uploaded.stderr
    for process in start(hosts, torchrun(place, 0, *settings("s3://chips/chips.zarr"), f"RUN={place / 'run'}")):
        _, stderr = process.communicate()
        assert process.returncode == 0, stderr
    assert server.poll() is None
    check_equal(place, one_machine)


@pytest.mark.slow
def test_two_processes_need_few_files_and_no_shared_memory(hosts: Network, store: Store, one_machine: Path) -> None:
    place = store.path.parent / "small"
    words = [str(ROOT / "tests" / "rank_run.py"), str(place), "0", *settings(store.path), f"RUN={place / 'run'}"]
    command = [*TORCHRUN, "--nproc-per-node", "2", "--", *words]
    small = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && ulimit -n 256 && exec "$0" "$@"'
    ended = hosts.run(NODES[0], ["unshare", "--mount", "sh", "-c", small, *command], cwd=ROOT, env=ENVIRONMENT)
    assert ended.returncode == 0, ended.stderr
    check_equal(place, one_machine)


@pytest.mark.slow
def test_after_a_cut_for_ever_the_run_is_resumed(hosts: Network, store: Store, one_machine: Path) -> None:
    """The cable is cut in the second epoch. Both ranks end by themselves; the resumed run is as without a cut."""
    place = store.path.parent / "ever"
    words = [*settings(store.path), *EVERY_STEP, TIMEOUT, f"RUN={place / 'run'}"]
    processes = start(hosts, torchrun(place, -17, *words))
    wait_for((place / "waits").exists, processes)
    hosts.cut("node1")
    (place / "waits").unlink()
    for rank, process in enumerate(processes):
        _, stderr = process.communicate(timeout=250)
        assert stderr.count(lost(rank)) == 1
        assert stderr.count("exitcode  : 75") == 1  # torchrun's own exit code is 1
    hosts.join("node1")
    for process in start(hosts, torchrun(place, 0, f"RESUME={place / 'run'}")):
        _, stderr = process.communicate()
        assert process.returncode == 0, stderr
    assert outcome(place / "run") == outcome(one_machine / "run")


@pytest.mark.slow
def test_after_a_cut_the_commands_end_with_75_and_one_line(hosts: Network, store: Store, tmp_path: Path) -> None:
    words = f"TASK=1 STORE={store.path} GPU=cpu EPOCHS=1000 BATCH=20 WEIGHTS=none RUN={tmp_path / 'run'}".split()
    processes = start(hosts, canopy(*words, TIMEOUT))
    wait_for(lambda: list((tmp_path / "run").glob("checkpoints/e*")), processes)
    hosts.cut("node1")
    for rank, process in enumerate(processes):
        stdout, stderr = process.communicate(timeout=250)
        assert process.returncode == 75
        assert stderr == f"{lost(rank)}\n"
        assert stdout.count("To resume it") == 1 - rank


@pytest.mark.slow
@pytest.mark.parametrize("node", [0, 1])
def test_a_machine_that_has_finished_waits_a_limited_time_for_one_that_hangs(node: int) -> None:
    """The launcher of the other machine is stopped while its process still runs. Torchrun waits 300 s for it; on
    machine 1 it waits for ever."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    hangs = [*TORCHRUN, "--nnodes", "2", "--node-rank", str(1 - node), "--rdzv-id", "canopy", "--master-addr",
             "127.0.0.1", "--master-port", port, "--no-python", "sleep", "1000"]  # fmt: skip
    ends = (
        "import sys; from train.commands import MachineWords; from train.launch import launch; "
        f"machines = MachineWords(nodes=2, node={node}, head='127.0.0.1:{port}'); "
        "sys.exit(launch(1, ['--help'], machines, timeout_s=1.0))"
    )
    with (
        subprocess.Popen(hangs, start_new_session=True, cwd=ROOT) as other,
        subprocess.Popen([sys.executable, "-c", ends], start_new_session=True, cwd=ROOT) as finished,
    ):
        try:
            wait_for(lambda: runs(other, b"sleep") and runs(finished, b"-m\0train"), [other, finished])
            os.kill(other.pid, signal.SIGSTOP)
            assert finished.wait(timeout=250) == 0
            assert other.poll() is None
        finally:
            for process in (other, finished):
                for child in (*children(process), process.pid):  # torchrun gives each child a session of its own
                    with suppress(ProcessLookupError):
                        os.killpg(child, signal.SIGKILL)


def children(process: "subprocess.Popen[bytes]") -> list[int]:
    """The numbers of a process's children."""
    with suppress(FileNotFoundError):
        return [*map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())]
    return []


def runs(process: "subprocess.Popen[bytes]", words: bytes) -> bool:
    """Whether a process has a child with these words in its command."""
    with suppress(FileNotFoundError):
        return any(words in Path(f"/proc/{child}/cmdline").read_bytes() for child in children(process))
    return False


@pytest.mark.slow
def test_a_port_in_use_is_refused(store: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        head = f"127.0.0.1:{server.getsockname()[1]}"
        words = ["TASK=1", f"STORE={store.path}", "GPU=cpu", "BATCH=20", "NODES=2", "NODE=0", f"HEAD={head}"]
        refused = python("-m", "train", *words)
    assert refused.returncode == 2
    assert refused.stderr == f"error: HEAD={head}: expected a free port, found one in use. Choose another.\n"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("NODES=2",), "NODES=2: NODE is missing. On each of two machines: NODES=2 NODE=0 (or 1) HEAD=node0:29500."),
        (("NODES=2", "NODE=0"), "NODES=2: HEAD is missing."),
        (("NODE=0",), "NODES=1: NODE is given."),
        (("NODES=2", "NODE=2", "HEAD=a:1"), "NODE=2: expected 0 to 1 with NODES=2."),
        (("NODES=2", "NODE=1", "HEAD=a:65536"), "HEAD=a:65536: expected name:port, such as node0:29500."),
        (("NODES=2", "NODE=1", "HEAD=a"), "HEAD=a: expected name:port, such as node0:29500."),
    ],
)
def test_settings_of_machines_that_do_not_fit_are_refused(words: tuple[str, ...], error: str, store: Store) -> None:
    refused = here("train", "TASK=1", f"STORE={store.path}", *words)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"error: {error}")
