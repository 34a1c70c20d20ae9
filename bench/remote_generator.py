"""A generator in a process of its own, in any Python: messages go there, yielded values come back.

In: "module:function" and arguments. Out: `Remote`. `python -m bench.remote_generator FD` is the other end, started as a
plain command, so that a row can run in the environment of its library. Exceptions come back as text, since that library
may not be installed here.
"""

import importlib
import os
import subprocess
import sys
import warnings
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


class RemoteError(Exception):
    """An exception raised in the other process; `kind` is the name of its class."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind, self.text = kind, text


class Remote:
    """The near end. `function` ("module:name") makes the generator there; `first` is the first yielded value.

    cores: how many cores it may use, set before anything is imported; None: all.

    Raises:
        RemoteError: the generator raised an exception.
    """

    def __init__(self, function: str, *arguments: Any, python: Path | None = None, cores: int | None = None) -> None:
        self._pipe, other = Pipe()
        # The output of a peer's library would mix with our lines; its exceptions come through the pipe.
        output = subprocess.DEVNULL if python else None
        self._process = subprocess.Popen(
            [python or sys.executable, "-m", "bench.remote_generator", str(other.fileno())],
            pass_fds=[other.fileno()], cwd=Path(__file__).parents[1], stdin=subprocess.DEVNULL, stdout=output,
            stderr=output,
        )  # fmt: skip
        other.close()
        try:
            self._pipe.send((function, arguments, cores))
            self.first = self._answer()
        except BaseException:
            self.close()
            raise

    def ask(self, message: Any) -> Any:
        """Send a message into the generator; returns the next yielded value."""
        self._pipe.send(message)
        return self._answer()

    def close(self) -> None:
        """Close the pipe and wait for the process, which ends when the pipe closes."""
        self._pipe.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answer(self) -> Any:
        try:
            kind, value = self._pipe.recv()
        except EOFError:
            raise RemoteError("ProcessEnded", f"exit code {self._process.wait()}") from None
        if kind != "ok":
            raise RemoteError(kind, value)
        return value


def main() -> None:
    """Serve one generator until the pipe closes."""
    pipe = Connection(int(sys.argv[1]))
    # Plain zarr-python is the reference and a peer here; the store's codecs are chosen knowingly (zarr_store).
    warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3 specification")
    try:
        function, arguments, cores = pipe.recv()
        if cores is not None:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
        module, _, name = function.partition(":")
        generator = getattr(importlib.import_module(module), name)(*arguments)
        pipe.send(("ok", next(generator)))
        while True:
            pipe.send(("ok", generator.send(pipe.recv())))
    except (EOFError, BrokenPipeError, StopIteration):
        pass
    except Exception as error:
        pipe.send((type(error).__name__, str(error)))
        raise
    finally:
        sys.stdout.flush()
        # Without the interpreter's own shutdown: a peer's threads and atexit handlers may hang in it.
        os._exit(0)


if __name__ == "__main__":
    main()
