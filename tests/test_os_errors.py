"""What the operating system refuses is one line: files of other kinds, too few descriptors, failing disks."""

import os
import socket
from pathlib import Path

import pytest

from preprocess.files import open_regular


def test_a_regular_file_and_a_link_to_one_are_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"abc"


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for name, kind in (("folder", "folder"), ("pipe", "named pipe"), ("device", "device"), ("socket", "socket")):
            before = len(os.listdir("/proc/self/fd"))
            with pytest.raises(OSError, match=f"a {kind}, expected a regular file") as error:
                open_regular(tmp_path / name)
            assert error.value.filename == str(tmp_path / name)
            assert len(os.listdir("/proc/self/fd")) == before


def test_a_link_that_leads_nowhere_is_missing(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nothing")
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "link")
