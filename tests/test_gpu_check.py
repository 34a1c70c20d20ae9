"""The verdict of make gpu-check, from outputs as pytest prints them; without a GPU it says that nothing was checked."""

import pytest
import torch

from bench.gpu_check import Speed, main, verdict, what_failed
from preprocess.console import run

FAST = Speed(loaders={"a": 100.0, "b": 300.0}, step=100.0, together=99.0)


def test_all_well() -> None:
    assert what_failed(0, "....\n34 passed, 2 skipped in 60.0s\n") == ""
    assert verdict(34, FAST) == "gpu-check: right: 34 tests passed; the GPU waits 1% of the time; the best loader is b."


def test_a_waiting_gpu_is_said() -> None:
    slow = Speed(loaders={"a": 60.0}, step=100.0, together=60.0)
    assert "the GPU waits 40% of the time" in verdict(34, slow)


@pytest.mark.parametrize(
    ("code", "output", "where"),
    [
        (1, "FAILED tests/test_gpu.py::test_x[lz4] - Error\nERROR tests/test_gpu.py::test_y\n1 failed", "test_x[lz4]"),
        (4, "", "pytest ended with code 4"),
        (-11, "..", "pytest ended with code -11"),
        (0, "sss\n50 skipped in 1.0s", "no test was run"),
    ],
)
def test_what_is_wrong_is_named(code: int, output: str, where: str) -> None:
    line = what_failed(code, output)
    assert where in line
    assert "WRONG" in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can be used on this machine")
def test_no_gpu_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run(main)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert "no GPU can be used on this machine" in error
    assert "Nothing was checked" in error
    assert error.count("\n") == 1
