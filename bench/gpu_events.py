"""A pytest plugin (`-p bench.gpu_events`): writes one JSON line for each test that begins or ends.

In: pytest's hooks. Out: lines to the file descriptor named by CANOPY_TEST_EVENTS, which `gpu_tests` reads while the
tests run. Leaves the verdict to pytest's JUnit report. Imports only pytest.
"""

import json
import os

import pytest

_PIPE = int(os.environ["CANOPY_TEST_EVENTS"])
_outcomes: dict[str, tuple[str, str]] = {}  # test id -> its worst outcome so far, and the reason


def _write(**event: object) -> None:
    os.write(_PIPE, (json.dumps(event) + "\n").encode())


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write the number of tests."""
    _write(collected=len(session.items))


def pytest_runtest_logstart(nodeid: str) -> None:
    """Write that a test begins, fixtures included."""
    _outcomes[nodeid] = ("passed", "")
    _write(began=nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remember the worst outcome of setup, call and teardown."""
    if report.outcome == "skipped":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        _outcomes[report.nodeid] = ("skipped", str(reason).removeprefix("Skipped: "))
    elif report.outcome == "failed":
        _outcomes[report.nodeid] = ("FAILED", "")


def pytest_runtest_logfinish(nodeid: str) -> None:
    """Write that a test has ended, fixtures included."""
    outcome, reason = _outcomes.pop(nodeid)
    _write(ended=nodeid, outcome=outcome, reason=reason)
