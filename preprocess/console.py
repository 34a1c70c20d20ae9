"""What every command shares: one-line errors, progress, plain words on the terminal.

In: exceptions and counts. Out: lines on stdout and stderr, exit codes. Knows nothing of chips or models.
"""

import errno
import functools
import io
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NoReturn

from preprocess.silence import is_silent

# A terminal of 80 columns cuts the end: that is the unit of the rate, never a training's note.
BAR = "{desc} {percentage:3.0f}%|{bar}| {remaining} left{postfix}, {rate_fmt}"
LOG_EVERY_S = 10.0  # a line of progress in a log file, where there is no terminal to redraw


# Characters that count as printable though nothing is seen of them: fillers and variation selectors. (Unicode's
# Default_Ignorable_Code_Point; the rest of them, such as zero-width spaces, is not printable for Python either.)
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


class UserError(Exception):
    """Something the user can put right. Its text is one line: what, expected, found, what to do."""

    exit_code = 2


class IncompleteError(UserError):
    """The command did what it could; some tasks failed, and the text names them."""

    exit_code = 1


class StoppedError(UserError):
    """The work stopped for a reason outside of the command, such as a lost scheduler; the same command resumes."""

    exit_code = 75


class AccessError(UserError):
    """A server refused a request. This says nothing about the file that was to be read, so no advice about it fits."""


class TemporaryError(AccessError):
    """A server or the network failed: the same command may work later."""

    exit_code = 75


class ArgumentError(UserError):
    """A wrong argument of a library function. The text begins with the argument: `batch_size=0: expected 1 or more.`

    A command that passes a setting on shows the setting's name instead: see `setting_names`. The reason therefore names
    no other argument.
    """

    def __init__(self, argument: str, value: object, reason: str) -> None:
        super().__init__(f"{argument}={value}: {reason}")
        self.argument, self.value, self.reason = argument, value, reason


@contextmanager
def setting_names(**names: str) -> Iterator[None]:
    """For commands: turn an ArgumentError into a UserError that names the setting, which is the argument in capitals
    unless `names` says otherwise (`batch_size="BATCH"`). A size (40, 32) is written 40x32, as settings are."""
    try:
        yield
    except ArgumentError as error:
        name, value = names.get(error.argument, error.argument.upper()), error.value
        shown = "x".join(map(str, value)) if isinstance(value, tuple) else value
        raise UserError(f"{name}={shown}: {error.reason}") from error


def say(text: str) -> None:
    """Print one line at once, escaped, above a progress bar if one is being drawn."""
    from tqdm import tqdm  # here, as below: worker processes, which start with each conversion, draw nothing

    if not is_silent():
        tqdm.write(one_line(text), file=sys.stdout)
        sys.stdout.flush()


@functools.cache
def say_once(text: str) -> None:
    """`say`, but a line that was printed before is not printed again in this process."""
    say(text)


def run(main: Callable[[], int]) -> NoReturn:
    """Run a command; turn what the user can mend into one line and exit code 2, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal in ASCII or Latin-1 shows `\u0107`, not a traceback
            stream.reconfigure(errors="backslashreplace")
    before, threading.excepthook = threading.excepthook, _thread_error
    ignored, sys.unraisablehook = sys.unraisablehook, _interrupt_again
    _thread_errors.clear()
    try:
        code = main()
        for text in dict.fromkeys(_thread_errors):
            code = 2
            _print_error(text)
    except UserError as error:
        code = error.exit_code
        _print_error(str(error))
    except KeyboardInterrupt:
        code = 130
        _be_quiet()
        print("stopped by Ctrl-C", file=sys.stderr)
    except BrokenPipeError:
        # `... | head` closed the pipe: nothing is wrong, and nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except (OSError, MemoryError) as error:
        line = machine_error(error)
        if line is None:
            raise
        code = 2
        _print_error(line)
    finally:
        threading.excepthook = before
        if sys.unraisablehook is _interrupt_again:
            sys.unraisablehook = ignored
    sys.exit(code)


def _interrupt_again(unraisable: Any) -> None:
    """Python prints and ignores a Ctrl-C that comes within a callback of the garbage collector or a `__del__` (Dask and
    zarr have some). Send it again a moment later, as a signal: that wakes a main thread that sleeps."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        main = threading.main_thread().ident
        assert main is not None
        timer = threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT))
        timer.daemon = True
        timer.start()
    else:
        sys.__unraisablehook__(unraisable)


def _be_quiet() -> None:
    """Objects that Ctrl-C left half made, such as zarr's event loop, complain when Python ends. That is no error."""
    warnings.simplefilter("ignore")
    sys.unraisablehook = lambda unraisable: None


def _print_error(text: str) -> None:
    print(f"error: {one_line(text)}", file=sys.stderr)


_thread_errors: list[str] = []


def _thread_error(arguments: threading.ExceptHookArgs) -> None:
    """Keep what the system refused to a thread, such as TensorBoard's writer: it is printed at the end, unless the main
    thread raises it, too."""
    error = arguments.exc_value
    text = machine_error(error) if isinstance(error, OSError | MemoryError) else None
    if text is None:
        threading.__excepthook__(arguments)
    else:
        _thread_errors.append(text)


def machine_error(error: OSError | MemoryError) -> str | None:
    """What the operating system refused, in one line: path, reason, what to do.

    Returns:
        None for an error that a mistake in this program causes (a bad descriptor, a bad argument): raise it again, the
        traceback is needed.
    """
    if isinstance(error, MemoryError):
        return f"not enough memory{f' ({error})' if str(error) else ''}. {_LESS_MEMORY}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" ({error.filename})" if error.filename else ""
        return f"no space left on the disk{where}. Free some and run the same command again."
    if not advice(error):
        return None
    names = [name for name in (error.filename, error.filename2) if name is not None]
    where = " -> ".join(str(name) if isinstance(name, int) else os.fsdecode(name) for name in names)
    return f"{f'{where}: ' if where else ''}{error.strerror}. {advice(error)}"


# Of the machine, not of one file: the next file would fail, too.
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def advice(error: OSError) -> str:
    """What to do about an error of the operating system; "" where nothing is known."""
    return _ADVICE.get(error.errno or 0, "")


_LESS_MEMORY = "End other programs, or use fewer JOBS or WORKERS, a smaller BATCH, or CACHE=none."
_SHARE = "The network share failed. Mount it again and run the same command."
_OTHER_PLACE = "Choose another place."
_ADVICE = {
    errno.EMFILE: "This process may not open more files. Raise the limit (`ulimit -n 4096`), or use fewer JOBS.",
    errno.ENFILE: "The machine has too many open files. End other programs and run the same command again.",
    errno.EIO: "The disk or the network share failed (`dmesg` may say more). Copy the data to another disk.",
    errno.EREMOTEIO: _SHARE, errno.ESTALE: _SHARE, errno.ENOTCONN: _SHARE, errno.ETIMEDOUT: _SHARE,
    errno.EHOSTDOWN: _SHARE, errno.ENOLINK: _SHARE, errno.ENODEV: _SHARE,
    errno.ENXIO: "Put a file in its place.",
    errno.EACCES: "Check the permissions of the file and of its folders (`ls -l`).",
    errno.EPERM: "Check the owner, the permissions and the attributes of the file (`ls -l`, `lsattr`).",
    errno.EROFS: f"The file system is read-only. {_OTHER_PLACE}",
    errno.EISDIR: "Remove the folder, or choose another name.",
    errno.ENOTDIR: "Expected a folder, found a file. Remove it, or choose another name.",
    errno.ENOENT: "The file or its folder is missing. Check that nothing else removes or renames it.",
    errno.EEXIST: "It exists already. Remove it, or choose another name.",
    errno.ENOTEMPTY: "Another program writes into this folder. Stop it and run the same command again.",
    errno.ELOOP: "Its symbolic links lead back to themselves. Correct the links.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EXDEV: f"The two places are on different disks. {_OTHER_PLACE}",
    errno.EFBIG: f"The file system or `ulimit -f` does not allow a file of this size. {_OTHER_PLACE}",
    errno.EMLINK: f"The file system does not allow so many entries in a folder. {_OTHER_PLACE}",
    errno.EBUSY: "Another program uses it. Stop that program and run the same command again.",
    errno.ETXTBSY: "Another program uses it. Stop that program and run the same command again.",
    errno.ENOMEM: f"Not enough memory. {_LESS_MEMORY}",
    errno.EAGAIN: "The machine allows no more processes or threads (`ulimit -u`). Use fewer JOBS or WORKERS.",
    errno.ENOLCK: f"The file system has no locks. {_OTHER_PLACE}",
    errno.EOPNOTSUPP: f"The file system cannot do this. {_OTHER_PLACE}",
}  # fmt: skip


def is_plain(text: str) -> bool:
    """Whether every character is seen as it is: no control, direction, zero-width or other invisible character."""
    return text.isprintable() and not _INVISIBLE.search(text)


def one_line(text: str) -> str:
    """The text with every line break and every character that is not seen as it is written as an escape: `\\n`,
    `\\x1b`, `\\u200f`. For names, tags and paths wherever a person reads them."""
    return text if is_plain(text) else "".join(c if is_plain(c) else ascii(c)[1:-1] for c in text)


class Progress:
    """A bar with rate and ETA on a terminal; a plain line every 10 s (`every_s`) elsewhere.

    `unit` is what is counted, in the plural ("chips"). `megabytes`: of one of them, to show MB/s; 0: not shown. Use as
    a context manager.
    """

    def __init__(
        self, label: str, *, total: int, unit: str, done: int = 0, every_s: float | None = None, megabytes: float = 0
    ) -> None:
        from tqdm import tqdm

        self._every_s = LOG_EVERY_S if every_s is None else every_s
        self._megabytes = megabytes
        self._label, self._total, self._unit = label, total, unit
        self._done, self._done_before = done, done
        self._started_s = self._last_line_s = time.monotonic()
        self._bar = (
            tqdm(
                total=total, initial=done, desc=label, unit=f" {unit}", dynamic_ncols=True, leave=False, bar_format=BAR
            )
            if sys.stderr.isatty() and not is_silent()
            else None
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, count: int, note: str = "") -> None:
        """Count `count` more as done; `note` is shown behind the bar."""
        self._done += count
        if self._megabytes:
            note = f"{self._rate() * self._megabytes:.0f} MB/s{', ' + note if note else ''}"
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(one_line(note), refresh=False)
            self._bar.update(count)
        elif time.monotonic() - self._last_line_s >= self._every_s and not is_silent():
            self._last_line_s = time.monotonic()
            print(one_line(self._line(note)), flush=True)

    def _rate(self) -> float:
        return (self._done - self._done_before) / max(time.monotonic() - self._started_s, 1e-9)

    def _line(self, note: str) -> str:
        rate = self._rate()
        left_s = (self._total - self._done) / rate if rate else float("inf")
        share, speed = 100 * self._done // max(self._total, 1), f"{rate:.{0 if rate >= 10 else 1}f}"
        text = f"{self._label}: {self._done}/{self._total} {self._unit} ({share} %), {speed} {self._unit}/s"
        return f"{text}, {left_s:.0f} s left{'; ' + note if note else ''}"
