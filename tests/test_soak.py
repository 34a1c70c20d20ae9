"""SIGKILL at random moments of a run: each time it goes on, and ends as if it had not been killed."""

import re
import subprocess
import sys

from helpers.commands import ROOT

KILLS = 60


def test_killed_60_times() -> None:
    """In a process of its own: it forks, which is safe only where torch has not yet started threads."""
    ended = subprocess.run(
        [sys.executable, "tests/soak.py", "--kills", str(KILLS)], cwd=ROOT, capture_output=True, text=True, timeout=1800
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{KILLS} kills" in ended.stdout
    assert "0 lost, 0 repeated, 0 unreadable" in ended.stdout
    for phase in ("training", "evaluation", "checkpoint"):
        found = re.search(rf"(\d+) in {phase}", ended.stdout)
        assert found, ended.stdout
        assert int(found[1]) >= KILLS / 10
