"""Files: only regular ones are opened; writes are atomic; a lock ends with its process."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from preprocess.files import atomic_file, locked, locked_folder, open_regular
from train.checkpoint_files import sweep


def test_a_regular_file_and_a_link_to_one_are_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"abc"


def test_other_kinds_of_files_are_refused_without_waiting(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for name, kind in (("folder", "folder"), ("pipe", "named pipe"), ("device", "device"), ("socket", "socket")):
            before = len(list(Path("/proc/self/fd").iterdir()))
            with pytest.raises(OSError, match=f"a {kind}, expected a regular file") as error:
                open_regular(tmp_path / name)
            assert error.value.filename == str(tmp_path / name)
            assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_dangling_link_is_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nothing")
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "link")


def test_two_writers_of_one_file_never_share_a_temporary_name(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a") as one, atomic_file(tmp_path / "a") as other:
        assert one.name != other.name
        one.write(b"one")
        other.write(b"other")
    assert (tmp_path / "a").read_bytes() == b"one"  # it was renamed last
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_only_the_files_of_killed_writers_are_removed(tmp_path: Path) -> None:
    for name in (".hidden", ".e1.safetensors.x", "kept.12", ".metrics.jsonl.0123456789abcdeg"):
        (tmp_path / name).touch()
    before = sorted(tmp_path.iterdir())
    (tmp_path / ".run.json.4711").touch()  # a name of earlier versions
    child = os.fork()
    if not child:
        with atomic_file(tmp_path / "model.safetensors") as file:
            file.write(b"half")
            file.flush()
            os._exit(9)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == len(before) + 2
    sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


HOLD = """
import sys, time
from pathlib import Path
from preprocess.files import locked, locked_folder
with {lock}:
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("lock", "refusal"),
    [
        ("locked(Path(sys.argv[1]), 'conversion')", "another conversion is writing it. Wait for it, or stop it."),
        ("locked_folder(Path(sys.argv[1]), 'it is in use.')", "it is in use."),
    ],
)
def test_a_lock_holds_between_processes_and_ends_with_a_killed_one(
    tmp_path: Path, lock: str, refusal: str, refused: Callable[..., str]
) -> None:
    lock_of: Callable[[], AbstractContextManager[None]] = {
        "locked": lambda: locked(tmp_path, "conversion"),
        "locked_folder": lambda: locked_folder(tmp_path, "it is in use."),
    }[lock.partition("(")[0]]

    def lock_here() -> None:
        with lock_of():
            pass

    holder = [sys.executable, "-c", HOLD.format(lock=lock), str(tmp_path)]
    with subprocess.Popen(holder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        assert refused(lock_here).endswith(refusal)
        process.kill()
        process.wait()
    lock_here()
