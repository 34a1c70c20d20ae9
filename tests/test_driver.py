"""A driver that a GPU build cannot use is one line, and the tests still collect: shown with stubs of libcuda, in C."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.chips import to_store, write_chips

from train.cuda_driver import Driver, why_not

ROOT = Path(__file__).resolve().parents[1]
STUB = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
int cuInit(unsigned flags) { return INIT; }
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuDeviceGetCount(int *count) { *count = COUNT; return INIT; }
static int missing(void) { return 801; }
/* CUDA's runtime asks here for every function of the driver; those that are not above are not supported. */
static int find(const char *name, void **function) {
    Dl_info me;
    dladdr((void *)cuInit, &me);
    *function = dlsym(dlopen(me.dli_fname, RTLD_NOLOAD | RTLD_NOW), name);
    if (!*function) *function = (void *)missing;
    return 0;
}
int cuGetProcAddress(const char *name, void **function, int v, unsigned long long f) { return find(name, function); }
int cuGetProcAddress_v2(const char *name, void **function, int v, unsigned long long f, int *status) {
    if (status) *status = 0;
    return find(name, function);
}
"""
Stub = Callable[..., dict[str, str]]
CUDA_BUILD = pytest.mark.skipif(torch.version.cuda is None, reason="torch is a build for the CPU only")


@pytest.fixture
def stub(tmp_path: Path) -> Stub:
    """Environment of a child process whose libcuda.so.1 is the stub."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc, which compiles the stub driver")

    def make(*, version: int = 12040, init: int = 0, count: int = 1) -> dict[str, str]:
        folder = tmp_path / f"driver-{version}-{init}-{count}"
        folder.mkdir()
        (folder / "stub.c").write_text(STUB)
        defined = [f"-DVERSION={version}", f"-DINIT={init}", f"-DCOUNT={count}"]
        subprocess.run(
            ["gcc", "-shared", "-fPIC", *defined, "-o", folder / "libcuda.so.1", folder / "stub.c", "-ldl"], check=True
        )
        return {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": str(ROOT)}

    return make


def python(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def reason(environment: dict[str, str]) -> str:
    """`obstacle` in a process with that driver, with warnings as errors."""
    code = "from train.cuda_driver import gpu_available, obstacle; print(gpu_available(), obstacle().reason)"
    ended = python(environment, "-W", "error", "-c", code)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    available, _, text = ended.stdout.rstrip("\n").partition(" ")
    assert available == "False"
    assert "\n" not in text
    return text


@CUDA_BUILD
@pytest.mark.parametrize(("version", "shown"), [(12040, "12.4"), (11080, "11.8")])
def test_an_old_driver_is_named_with_what_is_needed(stub: Stub, version: int, shown: str) -> None:
    major = torch.version.cuda.split(".")[0]  # type: ignore[union-attr]
    if version >= int(major) * 1000:
        pytest.skip(f"torch is built for CUDA {major}")
    text = reason(stub(version=version))
    assert f"supports CUDA up to {shown};" in text
    assert f"needs a driver for CUDA {major}.0 or later" in text
    assert "CUDA=12" in text


@CUDA_BUILD
def test_a_driver_without_a_gpu_and_one_that_does_not_start_are_named(stub: Stub) -> None:
    assert reason(stub(version=14000, init=100)) == "the NVIDIA driver finds no GPU (is CUDA_VISIBLE_DEVICES set?)"
    assert reason(stub(version=14000, count=0)) == "the NVIDIA driver finds no GPU (is CUDA_VISIBLE_DEVICES set?)"
    assert "does not start (cuInit: error 999; often after the machine was suspended" in reason(
        stub(version=14000, init=999)
    )
    assert "does not start (cuInit: error 7; `nvidia-smi` may say more)" in reason(stub(version=14000, init=7))


@CUDA_BUILD
def test_training_under_an_old_driver_refuses_a_given_gpu_and_says_why_it_takes_the_cpu(
    stub: Stub, tmp_path: Path
) -> None:
    chips = write_chips(tmp_path / "tif", count=40)
    store = to_store(chips, tmp_path / "chips.zarr").path
    command = ("-m", "train", "--task", 1, "--store", store, "--epochs", 1, "--batch", 8, "--weights", "none")
    environment = stub()
    given = python(environment, *command, "--run", tmp_path / "given", "--gpu", 0)
    assert (given.returncode, given.stdout, given.stderr.count("\n")) == (2, "", 1)
    assert (
        "error: GPU=0: no GPU can be used on this machine: the NVIDIA driver supports CUDA up to 12.4" in given.stderr
    )
    assert "CUDA=12" in given.stderr
    assert not (tmp_path / "given").exists()
    default = python(environment, *command, "--run", tmp_path / "default")
    assert (default.returncode, default.stderr) == (0, "")
    assert default.stdout.count("running on the CPU. (The NVIDIA driver supports CUDA up to 12.4") == 1


@CUDA_BUILD
def test_the_tests_are_collected_under_an_old_driver(stub: Stub) -> None:
    ended = python(stub(), "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests")
    assert ended.returncode == 0, ended.stdout[-2000:]


def test_gpu_check_under_an_old_driver_is_one_line(stub: Stub) -> None:
    if torch.version.cuda is None:
        pytest.skip("torch is a build for the CPU only")
    ended = python(stub(), "-m", "bench.gpu_check")
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert "supports CUDA up to 12.4" in ended.stderr
    assert "Nothing was checked" in ended.stderr


def test_what_a_driver_says_is_judged_by_what_was_built() -> None:
    good = Driver((13, 0), 0, 1)
    assert why_not(good, "13.2", 13) is None  # any minor version of a major that the driver knows
    assert why_not(Driver((12, 0), 0, 1), "12.8", 12) is None
    for found, present in (
        (why_not(None, "13.0", 13), False),
        (why_not(Driver((13, 0), 100, 0), "13.0", 13), False),
        (why_not(good, None, 13), True),
        (why_not(Driver((12, 4), 0, 1), "12.8", 13), True),  # torch could, DALI cannot
        (why_not(Driver((12, 4), 0, 1), "13.0", 12), True),
        (why_not(Driver((13, 0), 803, 0), "13.0", 13), True),
    ):
        assert found is not None
        assert found.present is present
