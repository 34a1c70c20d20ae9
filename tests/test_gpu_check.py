"""The verdict of make gpu-check, from outputs as pytest prints them; without a GPU it says that nothing was checked."""

import pytest
import torch

from bench.gpu_check import Speed, main, verdict
from preprocess.console import run

FAST = Speed(loaders={"a": 100.0, "b": 300.0}, step=100.0, together=99.0)


def test_all_well() -> None:
    assert verdict(0, "....\n34 passed, 2 skipped in 60.0s\n", FAST) == (
        True, "gpu-check: right: 34 tests passed; the GPU waits 1% of the time; the best loader is b.",
    )  # fmt: skip


def test_a_waiting_gpu_is_said() -> None:
    slow = Speed(loaders={"a": 60.0}, step=100.0, together=60.0)
    good, line = verdict(0, "34 passed in 60.0s", slow)
    assert good
    assert "the GPU waits 40% of the time" in line


@pytest.mark.parametrize(
    ("code", "output", "where"),
    [
        (1, "FAILED tests/test_gpu.py::test_x[lz4] - Error\nERROR tests/test_gpu.py::test_y\n1 failed", "test_x[lz4]"),
        (4, "", "pytest ended with code 4"),
        (-11, "..", "pytest ended with code -11"),
    ],
)
def test_what_is_wrong_is_named(code: int, output: str, where: str) -> None:
    good, line = verdict(code, output, FAST)
    assert not good
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
