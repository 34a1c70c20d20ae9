"""Machines for tests: network namespaces with an address and a host name each, joined by a bridge, whose cables can be
cut. They share this machine's disk, cores and clock.

In: names. Out: a `Network`, which runs commands in them. At its end all processes in it are killed, and the namespaces
are removed; those of a test that was killed are removed by the next one.
"""

import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_PREFIX = "canopy-test"
_NAMES = Path("/etc/netns")  # `ip netns exec` shows the files of a folder here in place of those in /etc
_SWITCH = "switch"


class NoNetwork(Exception):
    """This machine cannot make network namespaces. The text says why."""


class Network:
    """Hosts by name. Each knows the names of the others, and cannot reach anything else."""

    def __init__(self, *names: str) -> None:
        self._id = f"{_PREFIX}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._started: list[subprocess.Popen[str]] = []
        self.addresses = {name: f"10.77.0.{number}" for number, name in enumerate(names, 1)}
        try:
            _ip("netns", "add", self._space(_SWITCH))
            _ip("-n", self._space(_SWITCH), "link", "add", "name", _SWITCH, "type", "bridge")
            _ip("-n", self._space(_SWITCH), "link", "set", _SWITCH, "up")
            for name in names:
                self._add(name)
        except BaseException:
            self.close()
            raise

    def start(self, host: str, command: list[str], **more: Any) -> "subprocess.Popen[str]":
        """Start a command on a host. `more` is for Popen."""
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', host, *command]
        process = subprocess.Popen(["ip", "netns", "exec", self._space(host), *named], text=True, **more)
        self._started.append(process)
        return process

    def run(self, host: str, command: list[str], **more: Any) -> "subprocess.CompletedProcess[str]":
        """Run a command on a host to its end, and keep what it prints."""
        process = self.start(host, command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
        stdout, stderr = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def cut(self, host: str) -> None:
        """Cut the cable of a host. Nothing says so to either end: packets are lost."""
        self._cable(host, "down")

    def join(self, host: str) -> None:
        """Mend the cable of a host."""
        self._cable(host, "up")

    def cut_for(self, host: str, seconds: float) -> None:
        """Cut the cable of a host, wait, and mend it."""
        self.cut(host)
        time.sleep(seconds)
        self.join(host)

    def close(self) -> None:
        """Kill all processes, and remove everything."""
        _remove(self._id)
        for process in self._started:
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream:
                    stream.close()

    def _add(self, name: str) -> None:
        space, port = self._space(name), f"port-{self.addresses[name].rpartition('.')[2]}"
        folder = _NAMES / space
        folder.mkdir(parents=True)
        lines = {"localhost": "127.0.0.1", **self.addresses}
        (folder / "hosts").write_text("".join(f"{address} {host}\n" for host, address in lines.items()))
        _ip("netns", "add", space)
        _ip("link", "add", "eth0", "netns", space, "type", "veth", "peer", "name", port, "netns", self._space(_SWITCH))
        _ip("-n", self._space(_SWITCH), "link", "set", port, "master", _SWITCH, "up")
        _ip("-n", space, "address", "add", f"{self.addresses[name]}/24", "dev", "eth0")
        for link in ("lo", "eth0"):
            _ip("-n", space, "link", "set", link, "up")

    def _cable(self, host: str, state: str) -> None:
        port = f"port-{self.addresses[host].rpartition('.')[2]}"
        _ip("-n", self._space(_SWITCH), "link", "set", port, state)

    def _space(self, name: str) -> str:
        return f"{self._id}-{name}"


@contextmanager
def network(*names: str) -> Iterator[Network]:
    """Hosts of these names.

    Raises:
        NoNetwork: this machine cannot make them.
    """
    if os.geteuid():
        raise NoNetwork("network namespaces need root")
    for tool in ("ip", "unshare", "hostname"):
        if shutil.which(tool) is None:
            raise NoNetwork(f"network namespaces need the program {tool}")
    _sweep()
    try:
        made = Network(*names)
    except subprocess.CalledProcessError as error:
        raise NoNetwork(f"{' '.join(error.cmd)}: {error.stderr.strip()}") from error
    try:
        yield made
    finally:
        made.close()


def spaces() -> list[str]:
    """The network namespaces of tests on this machine."""
    listed = [line.split()[0] for line in _ip("netns", "list").splitlines() if line]
    return [name for name in listed if name.startswith(f"{_PREFIX}-")]


def _sweep() -> None:
    """Remove what tests left that were killed."""
    for name in {space.rpartition("-")[0] for space in spaces()}:
        if not Path(f"/proc/{name.removeprefix(_PREFIX).split('-')[1]}").exists():
            _remove(name)


def _remove(name: str) -> None:
    for space in [space for space in spaces() if space.startswith(f"{name}-")]:
        while pids := _ip("netns", "pids", space).split():
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.01)
        _ip("netns", "delete", space)
        shutil.rmtree(_NAMES / space, ignore_errors=True)
    with suppress(OSError):
        _NAMES.rmdir()


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout
