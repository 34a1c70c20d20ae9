"""Errors of the operating system are one line: too little memory, few descriptors, killed workers, failing disks."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from helpers.chips import Chips
from helpers.commands import here
from helpers.made_runs import write_run

from pipeline.inputs import raw_inputs
from pipeline.loader import eval_loader
from preprocess import console
from preprocess.files import locked, named_errors
from preprocess.workers import run_tasks
from preprocess.zarr_store import Store


def command(call: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> tuple[object, list[str]]:
    """Exit code and lines on stderr of a command that makes this call."""

    def main() -> int:
        call()
        return 0

    with pytest.raises(SystemExit) as ended:
        console.run(main)
    return ended.value.code, capsys.readouterr().err.splitlines()


def fail(error: BaseException) -> None:
    raise error


MACHINE = [
    "EMFILE", "ENFILE", "EIO", "ESTALE", "EACCES", "EPERM", "EROFS", "EISDIR", "ENOTDIR", "ELOOP", "ENAMETOOLONG",
    "ENOMEM", "ENOENT", "ETIMEDOUT", "ENOTCONN", "EFBIG", "EAGAIN", "EBUSY", "ENOTEMPTY", "EEXIST",
]  # fmt: skip


@pytest.mark.parametrize("name", MACHINE)
def test_an_error_of_the_machine_gives_path_reason_and_advice(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = getattr(errno, name)
    ended, (line,) = command(lambda: fail(OSError(code, os.strerror(code), b"/a/b\n")), capsys)
    assert ended == 2
    path, reason, advice = line.removeprefix("error: ").partition(f": {os.strerror(code)}. ")
    assert path == "/a/b\\n"
    assert reason
    assert advice.endswith(".")


def test_both_paths_of_a_rename_are_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    ended, (line,) = command(lambda: (tmp_path / "file").rename(tmp_path / "folder"), capsys)
    assert ended == 2
    assert line.startswith(f"error: {tmp_path}/file -> {tmp_path}/folder: Is a directory. ")


def test_too_little_memory_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    ended, (line,) = command(lambda: fail(MemoryError("Unable to allocate 3 TiB")), capsys)
    assert ended == 2
    assert line.startswith("error: not enough memory (Unable to allocate 3 TiB). ")


@pytest.mark.parametrize("error", [OSError(errno.EBADF, "x"), OSError(errno.EINVAL, "x"), OSError("x"), KeyError("x")])
def test_an_error_in_the_program_stays_a_traceback(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        console.run(lambda: fail(error))  # type: ignore[arg-type,return-value]
    assert raised.value is error


@pytest.mark.parametrize("raised_again", [True, False])
def test_an_error_in_a_thread_is_one_line(capsys: pytest.CaptureFixture[str], raised_again: bool) -> None:
    """Also if it is raised again in the main thread with a path, as TensorBoard's writer does."""
    error = OSError(errno.EIO, "Input/output error")

    def start_and_fail() -> None:
        thread = threading.Thread(target=fail, args=(error,))
        thread.start()
        thread.join()
        if raised_again:
            with named_errors("/a"):
                raise error

    before = threading.excepthook
    ended, (line,) = command(start_and_fail, capsys)
    assert ended == 2
    assert line.startswith(f"error: {'/a: ' if raised_again else ''}Input/output error. ")
    assert threading.excepthook is before


def test_a_share_without_locks_is_not_reported_as_another_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    def hold() -> None:
        with locked(tmp_path / "s.zarr.partial", "conversion"):
            pass

    monkeypatch.setattr("fcntl.flock", refuse)
    ended, (line,) = command(hold, capsys)
    assert ended == 2
    assert line.startswith(f"error: {tmp_path}/s.zarr.partial/lock: No locks available. ")


@pytest.mark.parametrize("name", ["reproduce", "report", "curves", "export"])
def test_a_run_folder_that_cannot_be_written_is_refused_at_once_with_exit_code_2(
    name: str, session_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1 of reproduce means another result. Root may write everywhere, so the system's call is replaced."""
    run = write_run(tmp_path / "run", session_store)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def refuse(self: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))

    monkeypatch.setattr(Path, "touch", refuse)
    ended = here("analysis", name, f"RUN={run}")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr == (
        f"error: {run}: expected a folder that can be written, found: Read-only file system. Nothing was done. Copy "
        f"the run, for example with `cp -r {run} runs/copy`, and use RUN=runs/copy.\n"
    )
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def read_task(path: str) -> bytes:
    return Path(path).read_bytes()


def kill_task(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_an_error_in_a_worker_process_keeps_its_number_and_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    with pytest.raises(IsADirectoryError) as error:
        list(run_tasks(read_task, [str(tmp_path / "file"), str(tmp_path)], jobs=2))
    assert (error.value.errno, error.value.filename) == (errno.EISDIR, str(tmp_path))


def test_a_killed_worker_is_one_line(refused: Callable[..., str]) -> None:
    assert "a worker process was killed" in refused(lambda: list(run_tasks(kill_task, list(range(8)), jobs=2)))


def test_too_many_jobs_for_the_open_files_are_refused_at_the_start(refused: Callable[..., str]) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, before[1]))
    try:
        text = refused(lambda: list(run_tasks(read_task, ["a", "b"], jobs=90)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert text == (
        "JOBS=90: expected at least 294 open files, found a limit of 200 (`ulimit -n`). Raise it, or use JOBS=58."
    )


@pytest.mark.parametrize("engine", ["direct", "dali"])
def test_the_loader_does_not_change_the_error_of_a_failing_disk(
    session_store: Store, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    error = OSError(errno.EIO, "Input/output error", "/a")
    chips = np.arange(session_store.num_chips)
    loader = eval_loader(
        session_store, chips, raw_inputs(session_store, ("red",), chips), batch_size=20, engine=engine
    )  # fmt: skip
    monkeypatch.setattr("pipeline.shards.map_file", mock.Mock(side_effect=error))
    with pytest.raises(OSError, match="Input/output error") as raised:
        list(loader.epoch(0))
    assert raised.value.filename == "/a"
    loader.close()


SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
static int refused(int fd) {
    char link[64], path[4096], *name = getenv("FAILING");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t count = readlink(link, path, sizeof path - 1);
    if (count < 0 || !name) return 0;
    path[count] = 0;
    if (!strstr(path, name)) return 0;
    errno = atoi(getenv("ERRNO"));
    return 1;
}
#define CALL(name, params, args) ssize_t name params { \
    static ssize_t (*real) params; \
    if (refused(fd)) return -1; \
    if (!real) real = dlsym(RTLD_NEXT, #name); \
    return real args; }
CALL(read, (int fd, void *to, size_t count), (fd, to, count))
CALL(write, (int fd, const void *from, size_t count), (fd, from, count))
CALL(preadv, (int fd, const struct iovec *to, int count, off_t at), (fd, to, count, at))
CALL(preadv64, (int fd, const struct iovec *to, int count, off64_t at), (fd, to, count, at))
CALL(preadv2, (int fd, const struct iovec *to, int count, off_t at, int flags), (fd, to, count, at, flags))
CALL(preadv64v2, (int fd, const struct iovec *to, int count, off64_t at, int flags), (fd, to, count, at, flags))
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library for LD_PRELOAD: reads and writes of files whose path contains $FAILING fail with $ERRNO."""
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("no gcc")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    subprocess.run([gcc, "-shared", "-fPIC", "-o", folder / "shim.so", folder / "shim.c", "-ldl"], check=True)
    return folder / "shim.so"


@pytest.mark.parametrize(
    ("failing", "code", "reason", "jobs"),
    [
        pytest.param("tags.csv", errno.EIO, "tags.csv", "1", marks=pytest.mark.slow),
        pytest.param("t_0.tif", errno.ESTALE, "t_0.tif", "1", marks=pytest.mark.slow),
        pytest.param("t_290.tif", errno.EIO, "t_290.tif", "2", marks=pytest.mark.slow),
        ("temporary/.1.", errno.EIO, "tiles/c/1/0/0/0", "2"),
        pytest.param("progress/", errno.EIO, "progress/", "1", marks=pytest.mark.slow),
        ("store/names", errno.EIO, "s.zarr.partial/store", "1"),
    ],
)
def test_a_disk_that_fails_during_a_conversion_is_one_line_and_the_next_try_succeeds(
    session_chips: Chips, shim: Path, tmp_path: Path, failing: str, code: int, reason: str, jobs: str
) -> None:
    arguments = [
        sys.executable, "-m", "preprocess", "zarr", f"DATA={session_chips.folder}", f"LABELS={session_chips.csv}",
        f"STORE={tmp_path / 's.zarr'}", "BANDS=a,b,c,d", f"JOBS={jobs}",
    ]  # fmt: skip
    faults = {"LD_PRELOAD": str(shim), "FAILING": failing, "ERRNO": str(code)}
    ended = subprocess.run(arguments, capture_output=True, text=True, env=os.environ | faults, check=False)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert reason in line
    assert os.strerror(code) in line
    assert not (tmp_path / "s.zarr").exists()
    assert subprocess.run(arguments, capture_output=True, check=False).returncode == 0
