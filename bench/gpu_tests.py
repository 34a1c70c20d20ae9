"""Run a test file with pytest in a child process, print its progress, and judge the outcome.

In: a test file. Out: lines on the terminal (one per test, and at least one every half minute), pytest's output in a
log, and a `Result` from pytest's JUnit report. A process that crashes or hangs leaves no report; then the events of
`gpu_events` name the test. `gpu_check` decides what follows from the result.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from preprocess.console import say

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 900.0  # per test: the longest test trains twice in separate processes
QUIET_S = 30.0


@dataclass(frozen=True, kw_only=True)
class Result:
    """Numbers of tests; ids of failed tests, in order; `problem`: how pytest itself failed, "" if it did not."""

    passed: int = 0
    skipped: int = 0
    failed: tuple[str, ...] = ()
    problem: str = ""


@dataclass
class _Progress:
    """State that the events have reported so far."""

    collected: int = 0
    done: int = 0
    passed: int = 0
    skipped: int = 0
    failed: list[str] = field(default_factory=list)
    current: str = ""
    current_began_s: float = field(default_factory=time.monotonic)
    last_line_s: float = field(default_factory=time.monotonic)

    def take(self, event: dict[str, str]) -> None:
        """Count an event and print a line when a test ends."""
        now = time.monotonic()
        if "collected" in event:
            self.collected = int(event["collected"])
        elif "began" in event:
            self.current, self.current_began_s = event["began"], now
        else:
            outcome, name = event["outcome"], _short(event["ended"])
            self.done += 1
            self.passed += outcome == "passed"
            self.skipped += outcome == "skipped"
            if outcome == "FAILED":
                self.failed.append(event["ended"])
            reason = f" ({event['reason']})" if event["reason"] else ""
            say(f"  {self.done}/{self.collected} {name}: {outcome}{reason}, {now - self.current_began_s:.1f} s")
            self.current, self.current_began_s, self.last_line_s = "", now, now

    def wait(self, quiet_s: float) -> None:
        """Print which test is still running, if nothing was printed for `quiet_s` seconds."""
        now = time.monotonic()
        if now - self.last_line_s >= quiet_s:
            name = _short(self.current) if self.current else "pytest"
            say(f"  {name} has been running for {now - self.current_began_s:.0f} s")
            self.last_line_s = now


def run_tests(path: Path, log: Path, *, limit_s: float = LIMIT_S, quiet_s: float = QUIET_S) -> Result:
    """Run the tests of one file.

    Args:
        path: the test file. Only this file and its conftest.py are imported.
        log: file for pytest's output.
        limit_s: a test that takes longer ends the whole run.
        quiet_s: after this time without a line, a line names the running test.
    """
    progress = _Progress()
    with tempfile.TemporaryDirectory(prefix="canopy-check-") as folder:
        report = Path(folder) / "report.xml"
        reader, writer = os.pipe()
        # The project's addopts make pytest quiet, so they are cleared; its other settings (warnings are errors) hold.
        # Installed plugins are not loaded.
        command = [
            sys.executable, "-m", "pytest", str(path), "-v", "--tb=short", "--color=no", "-o", "addopts=",
            "-p", "bench.gpu_events", "-p", "no:cacheprovider", f"--junitxml={report}",
        ]  # fmt: skip
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env={**os.environ, "CANOPY_TEST_EVENTS": str(writer), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
                pass_fds=(writer,), start_new_session=True,
            )  # fmt: skip
        os.close(writer)
        try:
            timed_out = _follow(reader, process, progress, limit_s, quiet_s)
        finally:
            os.close(reader)
            _end(process)
        return _judge(process.returncode, report, progress, limit_s if timed_out else 0.0)


def _follow(
    reader: int, process: "subprocess.Popen[bytes]", progress: _Progress, limit_s: float, quiet_s: float
) -> bool:
    """Read events until the process ends. Returns True if a test took longer than `limit_s`."""
    buffer = b""
    while True:
        ended = process.poll() is not None
        readable, _, _ = select.select([reader], [], [], 0.0 if ended else min(1.0, quiet_s))
        if readable:
            data = os.read(reader, 65536)
            buffer += data
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                progress.take(json.loads(line))
            if data:
                continue
        if ended:
            return False
        if time.monotonic() - progress.current_began_s > limit_s:
            return True
        progress.wait(quiet_s)
        if readable:  # the pipe has ended, the process not yet
            time.sleep(0.05)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Kill pytest and the trainings that its tests started: they are in its process group."""
    with suppress(ProcessLookupError):  # all processes of the group have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _judge(code: int, report: Path, progress: _Progress, limit_s: float) -> Result:
    where = f" in {_short(progress.current)}" if progress.current else ""
    try:
        result = read_report(report)
    except (OSError, ET.ParseError):
        how = f"ended with signal {-code}" if code < 0 else f"ended with code {code}"
        problem = f"no test ended for {limit_s:.0f} s{where}" if limit_s else f"pytest {how}{where}"
        return Result(
            passed=progress.passed, skipped=progress.skipped, failed=tuple(progress.failed), problem=problem
        )  # fmt: skip
    # 0: all passed; 1: some failed; 5: no test was collected. Other codes are pytest's own failures.
    if code not in (0, 1, 5) and not result.failed:
        return Result(passed=result.passed, skipped=result.skipped, problem=f"pytest ended with code {code}")
    return result


def read_report(path: Path) -> Result:
    """Read a JUnit report of pytest.

    Raises:
        OSError, ParseError: the file is missing or incomplete.
    """
    passed, skipped, failed = 0, 0, list[str]()
    for case in _cases(path):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            failed.append("::".join(name for name in (case.get("classname"), case.get("name")) if name))
        elif "skipped" in kinds:
            skipped += 1
        else:
            passed += 1
    return Result(passed=passed, skipped=skipped, failed=tuple(dict.fromkeys(failed)))


def _cases(path: Path) -> Iterator[ET.Element]:
    return ET.parse(path).getroot().iter("testcase")


def _short(nodeid: str) -> str:
    """A test's id without its file."""
    return nodeid.rpartition("::")[2] if "[" not in nodeid else nodeid[nodeid[: nodeid.index("[")].rindex("::") + 2 :]
