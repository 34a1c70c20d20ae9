"""make gpu-check reports real pytest runs that pass, fail, crash and hang; its tests need few packages."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.gpu_check import Speed, count_tests, main, verdict, what_failed
from bench.gpu_tests import Result, run_tests
from preprocess.console import run
from train.cuda_driver import gpu_available

ROOT = Path(__file__).resolve().parents[1]
FAST = Speed(loaders={"a": 100.0, "b": 300.0}, step=100.0, together=99.0)


def result_of(tmp_path: Path, source: str, **limits: float) -> Result:
    """A real pytest run of a file with this source."""
    path = tmp_path / "test_small.py"
    path.write_text(f"import os, signal, subprocess, sys, time\nimport pytest\n\n{source}\n")
    return run_tests(path, tmp_path / "log", **limits)


def test_passed_tests_are_counted_and_printed_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = """
@pytest.mark.parametrize("kind", ["a b", "x::y"])
def test_good(kind): pass
class TestMore:
    def test_inner(self): pass
@pytest.mark.skip(reason="needs two GPUs")
def test_not_here(): pass
"""
    found = result_of(tmp_path, source)
    assert found == Result(passed=3, skipped=1)
    assert what_failed(found) == ""
    shown = re.sub(r"\d+\.\d s", "T s", capsys.readouterr().out)
    assert shown.splitlines() == [
        "  1/4 test_good[a b]: passed, T s",
        "  2/4 test_good[x::y]: passed, T s",
        "  3/4 test_inner: passed, T s",
        "  4/4 test_not_here: skipped (needs two GPUs), T s",
    ]
    assert "3 passed, 1 skipped" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("source", "failed", "passed"),
    [
        ("def test_a(): assert 0\ndef test_b(): pass\ndef test_c(): assert 0", ["test_a", "test_c"], 1),
        ("@pytest.fixture\ndef x(): raise ValueError\ndef test_a(x): pass", ["test_a"], 0),
        ("@pytest.fixture\ndef x():\n    yield\n    raise ValueError\ndef test_a(x): pass", ["test_a"], 0),
        ("raise RuntimeError('no import')", ["test_small"], 0),
        ("import a_package_that_is_not_there", ["test_small"], 0),
        ("import warnings\ndef test_a(): warnings.warn('w')\ndef test_b(): sys.exit(1)", ["test_b"], 1),
    ],
    ids=["fail", "setup", "teardown", "collection", "import", "exit"],
)
def test_failed_tests_are_named(tmp_path: Path, source: str, failed: list[str], passed: int) -> None:
    found = result_of(tmp_path, source)
    assert [name.rpartition("::")[2].rpartition(".")[2] for name in found.failed] == failed
    assert (found.passed, found.problem) == (passed, "")
    line = what_failed(found)
    assert line.startswith(f"gpu-check: WRONG: {len(failed)} tests failed, first ")
    assert failed[0] in line
    assert "gpu-check.log" in line


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("", "no test was collected"),
        (
            "pytestmark = pytest.mark.skip(reason='no GPU')\ndef test_a(): pass\ndef test_b(): pass",
            "all 2 were skipped",
        ),
    ],
)
def test_without_a_test_there_is_no_verdict(tmp_path: Path, source: str, why: str) -> None:
    found = result_of(tmp_path, source)
    assert (found.passed, found.problem) == (0, "")
    assert what_failed(found) == (
        f"gpu-check: WRONG: no test was run ({why}), so nothing was checked; see gpu-check.log."
    )


@pytest.mark.parametrize(
    ("dies", "how"),
    [
        ("os._exit(3)", "code 3"),
        ("os._exit(0)", "code 0"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
    ],
)
def test_a_crash_names_its_test_and_earlier_failures(tmp_path: Path, dies: str, how: str) -> None:
    source = f"def test_a(): pass\ndef test_b(): assert 0\ndef test_c(): {dies}\ndef test_d(): pass"
    found = result_of(tmp_path, source)
    assert found.problem == f"pytest ended with {how} in test_c"
    assert (found.passed, [name.rpartition("::")[2] for name in found.failed]) == (1, ["test_b"])
    assert what_failed(found).startswith(f"gpu-check: WRONG: pytest ended with {how} in test_c; 1 tests failed, first ")


@pytest.mark.slow
def test_a_hanging_test_is_killed_with_its_processes_and_is_reported_while_it_hangs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = f"""
def test_a(): pass
def test_hangs():
    code = "import time; time.sleep(600); open({str(tmp_path / "ended")!r}, 'w')"
    child = subprocess.Popen([sys.executable, "-c", code])
    open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))
    child.wait()
"""
    found = result_of(tmp_path, source, limit_s=4.0, quiet_s=1.0)
    assert found == Result(passed=1, problem="no test ended for 4 s in test_hangs")
    assert "  test_hangs has been running for " in capsys.readouterr().out
    child = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "State:\tZ" in Path(f"/proc/{child}/status").read_text():
            break
        time.sleep(0.05)
    else:
        pytest.fail("the test's own process still runs")
    assert not (tmp_path / "ended").exists()  # it was killed before its sleep ended


def test_a_wrong_argument_of_pytest_is_a_problem(tmp_path: Path) -> None:
    found = run_tests(tmp_path / "test_absent.py", tmp_path / "log")
    assert found.problem == "pytest ended with code 4"
    assert "WRONG" in what_failed(found)


def test_a_correct_gpu_has_a_one_line_verdict() -> None:
    assert verdict(Result(passed=34), FAST) == (
        "gpu-check: correct: 34 tests passed; the GPU waits 1% of the time; the best loader is b."
    )
    assert count_tests(Result(passed=34, skipped=2)) == "34 tests passed (2 skipped)"


def test_the_verdict_names_the_waiting_time_of_the_gpu() -> None:
    slow = Speed(loaders={"a": 60.0}, step=100.0, together=60.0)
    assert "the GPU waits 40% of the time" in verdict(Result(passed=34), slow)


@pytest.mark.slow
def test_the_gpu_tests_need_only_what_training_needs() -> None:
    """They are collected in a process that cannot import the other packages of the project."""
    missing = (
        "hypothesis boto3 botocore moto flask flask_cors responses cleanlab onnx onnxruntime onnxscript wandb "
        "matplotlib pandas mypy ruff"
    )
    code = f"""
import sys
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        hidden = name.split(".")[0] in {missing.split()!r}
        return None if hidden else self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
import bench.gpu_check
import pytest
sys.exit(pytest.main(["--collect-only", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "tests/test_gpu.py"]))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-3000:]


def test_no_other_file_holds_gpu_tests() -> None:
    others = [path.name for path in (ROOT / "tests").glob("test_*.py") if "mark.gpu" in path.read_text()]
    assert set(others) <= {"test_gpu.py", "test_gpu_check.py"}


@pytest.mark.skipif(gpu_available(), reason="a GPU can be used on this machine")
@pytest.mark.slow
def test_the_gpu_tests_are_all_skipped_without_a_gpu(tmp_path: Path) -> None:
    found = run_tests(ROOT / "tests" / "test_gpu.py", tmp_path / "log")
    assert (found.passed, found.failed, found.problem) == (0, (), "")
    assert found.skipped > 70
    assert "were skipped" in what_failed(found)


@pytest.mark.skipif(gpu_available(), reason="a GPU can be used on this machine")
def test_no_gpu_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run(main)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert "no GPU can be used on this machine: " in error
    assert "Nothing was checked" in error
    assert error.count("\n") == 1
