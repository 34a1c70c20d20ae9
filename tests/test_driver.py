"""A driver that cannot be used gives one line, and the tests are still collected. Stubs of libcuda in C show it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.chips import to_store, write_chips
from helpers.commands import ROOT, Ended

from train.cuda_driver import Driver, why_not

STUB = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
static int set(const char *name) { return atoi(getenv(name)); }
int cuInit(unsigned flags) { return set("INIT"); }
int cuDriverGetVersion(int *version) { *version = set("VERSION"); return 0; }
int cuDeviceGetCount(int *count) { *count = set("COUNT"); return set("INIT"); }
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
CUDA_BUILD = pytest.mark.skipif(torch.version.cuda is None, reason="torch is a build for the CPU only")
# version, cuInit's answer, number of GPUs -> what `obstacle` says, in a fork for each.
REASONS = """
import os, sys
from train.cuda_driver import gpu_available, obstacle

for case in sys.argv[1:]:
    if os.fork() == 0:
        os.environ.update(zip(("VERSION", "INIT", "COUNT"), case.split(",")))
        print(gpu_available(), obstacle().reason, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""
# Three commands in one process, and what each of them printed, as JSON.
COMMANDS = """
import json, sys
from helpers.commands import here
from tiny import tiny_networks

store, run = sys.argv[1:]
words = ["TASK=1", f"STORE={store}", "EPOCHS=1", "BATCH=8", "WEIGHTS=none"]
with tiny_networks():
    ended = [
        here("train", *words, f"RUN={run}/refused", "GPU=0"),
        here("bench", "gpu-check"),
        here("train", *words, f"RUN={run}/default"),
    ]
print(json.dumps([vars(each) for each in ended]))
"""


@pytest.fixture(scope="module")
def old_driver(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a child process whose libcuda.so.1 is the stub: by default a driver for CUDA 12.4."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc, which compiles the stub driver")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "stub.c").write_text(STUB)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", folder / "libcuda.so.1", folder / "stub.c", "-ldl"], check=True)
    driver = {"VERSION": "12040", "INIT": "0", "COUNT": "1", "LD_LIBRARY_PATH": str(folder)}
    return {**os.environ, **driver, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}


def python(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True, text=True
    )


@CUDA_BUILD
def test_every_obstacle_is_named_with_its_remedy(old_driver: dict[str, str]) -> None:
    """With warnings as errors, because torch warns about some of these."""
    major = int(torch.version.cuda.split(".")[0])  # type: ignore[union-attr]
    old = [version for version in ((12, 4), (11, 8)) if version[0] < major]
    cases = [f"{version[0] * 1000 + version[1] * 10},0,1" for version in old]
    cases += ["14000,100,1", "14000,0,0", "14000,999,1", "14000,7,1"]
    ended = python(old_driver, "-W", "error", "-c", REASONS, *cases)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert len(lines) == len(cases)
    assert all(line.startswith("False ") for line in lines)
    for (number, minor), line in zip(old, lines, strict=False):
        assert f"supports CUDA up to {number}.{minor};" in line
        assert f"needs a driver for CUDA {major}.0 or later" in line
        assert "CUDA=12" in line
    none, no_count, suspended, other = (line.removeprefix("False ") for line in lines[len(old) :])
    assert none == no_count == "the NVIDIA driver finds no GPU (is CUDA_VISIBLE_DEVICES set?)"
    assert "does not start (cuInit: error 999; often after the machine was suspended" in suspended
    assert "does not start (cuInit: error 7; `nvidia-smi` may say more)" in other


@CUDA_BUILD
@pytest.mark.slow
def test_under_an_old_driver_a_given_gpu_is_refused_and_the_default_is_the_cpu_with_the_reason(
    old_driver: dict[str, str], tmp_path: Path
) -> None:
    chips = write_chips(tmp_path / "tif", count=40)
    store = to_store(chips, tmp_path / "chips.zarr").path
    ended = python(old_driver, "-c", COMMANDS, store, tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    refused, gpu_check, default = (Ended(**each) for each in json.loads(ended.stdout))
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert (
        "error: GPU=0: no GPU can be used on this machine: the NVIDIA driver supports CUDA up to 12.4" in refused.stderr
    )
    assert "CUDA=12" in refused.stderr
    assert not (tmp_path / "refused").exists()
    assert (default.returncode, default.stderr) == (0, "")
    assert default.stdout.count("no GPU can be used on this machine (the NVIDIA driver supports CUDA up to 12.4") == 1
    assert (gpu_check.returncode, gpu_check.stdout, gpu_check.stderr.count("\n")) == (2, "", 1)
    assert "supports CUDA up to 12.4" in gpu_check.stderr
    assert "Nothing was checked" in gpu_check.stderr


@CUDA_BUILD
@pytest.mark.slow
def test_the_tests_are_collected_under_an_old_driver(old_driver: dict[str, str]) -> None:
    ended = python(old_driver, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests")
    assert ended.returncode == 0, ended.stdout[-2000:]


def test_the_versions_of_the_build_decide_whether_a_driver_is_too_old() -> None:
    good = Driver((13, 0), 0, 1)
    assert why_not(good, "13.2", 13) is None  # a driver runs any minor version of its major version
    assert why_not(Driver((12, 0), 0, 1), "12.8", 12) is None
    for found, present in (
        (why_not(None, "13.0", 13), False),
        (why_not(Driver((13, 0), 100, 0), "13.0", 13), False),
        (why_not(good, None, 13), True),
        (why_not(Driver((12, 4), 0, 1), "12.8", 13), True),  # torch could run, DALI cannot
        (why_not(Driver((12, 4), 0, 1), "13.0", 12), True),
        (why_not(Driver((13, 0), 803, 0), "13.0", 13), True),
    ):
        assert found is not None
        assert found.present is present
