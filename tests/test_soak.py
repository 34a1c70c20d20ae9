"""SIGKILL at random moments of a run: each time it resumes, and ends as if it had not been killed."""

import re
import subprocess
import sys

import pytest
from helpers.commands import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("kills", [60])
def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(kills: int) -> None:
    """In a process of its own, because it forks, which is safe only before torch starts threads."""
    ended = subprocess.run(
        [sys.executable, "tests/soak.py", f"KILLS={kills}"], cwd=ROOT, capture_output=True, text=True, timeout=1800
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"{kills} kills" in ended.stdout
    assert "0 lost, 0 repeated, 0 unreadable" in ended.stdout
    for phase in ("training", "evaluation", "checkpoint"):
        found = re.search(rf"(\d+) in {phase}", ended.stdout)
        assert found, ended.stdout
        assert int(found[1]) >= kills // 10
