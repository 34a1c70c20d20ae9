"""A pytest plugin (`-p bench.gpu_events`): writes one JSON line for each test that begins or ends.

Out: lines into the file descriptor that CANOPY_TEST_EVENTS names. `gpu_tests` reads them while the tests run. Leaves
the verdict to pytest's own JUnit report. Imports nothing but pytest.
"""

import json
import os

import pytest

_PIPE = int(os.environ["CANOPY_TEST_EVENTS"])
_outcomes: dict[str, tuple[str, str]] = {}  # of the test that runs: its worst outcome so far, and why


def _write(**event: object) -> None:
    os.write(_PIPE, (json.dumps(event) + "\n").encode())


def pytest_collection_finish(session: pytest.Session) -> None:
    """How many tests there will be."""
    _write(collected=len(session.items))


def pytest_runtest_logstart(nodeid: str) -> None:
    """A test begins, with its fixtures."""
    _outcomes[nodeid] = ("passed", "")
    _write(began=nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Setup, call or teardown is over."""
    if report.outcome == "skipped":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        _outcomes[report.nodeid] = ("skipped", str(reason).removeprefix("Skipped: "))
    elif report.outcome == "failed":
        _outcomes[report.nodeid] = ("FAILED", "")


def pytest_runtest_logfinish(nodeid: str) -> None:
    """A test is over, with its fixtures."""
    outcome, reason = _outcomes.pop(nodeid)
    _write(ended=nodeid, outcome=outcome, reason=reason)
