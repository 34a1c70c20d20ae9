"""Whether a GPU can be used here and, if not, why. The driver is asked: torch says less, and as a warning.

In: libcuda.so.1 (the driver's own library), the CUDA versions that torch and DALI were built for. Out: an `Obstacle`
with one clause for a person, or None. Leaves what to do about it to `device`.
"""

import ctypes
import functools
import importlib.metadata
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
# Errors of cuInit that have a cure of their own, by their number in cuda.h.
_CURES = {
    802: "the GPU's fabric manager is not running yet; start it, or wait",
    803: "the driver's library and kernel module are of different versions; restart the machine",
    999: "often after the machine was suspended; `sudo rmmod nvidia_uvm && sudo modprobe nvidia_uvm`, or restart it",
}


@dataclass(frozen=True)
class Obstacle:
    """Why no GPU can be used. `present`: there is a driver and a GPU behind it, or the driver cannot tell."""

    reason: str
    present: bool


@dataclass(frozen=True)
class Driver:
    """What libcuda says. version (13, 0) is the newest CUDA that the driver knows; error is cuInit's, 0 if none."""

    version: tuple[int, int]
    error: int
    devices: int


def gpu_available() -> bool:
    """`torch.cuda.is_available()`, without torch's warning about an old driver: `obstacle` says that in one line."""
    return obstacle() is None


@functools.cache
def obstacle() -> Obstacle | None:
    """Why no GPU can be used in this process; None where one can."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    driver, versions = ask_driver(), built_for()
    if available:  # then only DALI can be in the way: it may be a build for another CUDA than torch's
        return None if driver is None else too_old(driver, *versions)
    said = " ".join(" ".join(str(warning.message).split()) for warning in caught)
    return why_not(driver, *versions) or Obstacle(
        f"torch {torch.__version__} finds none ({said or 'it gives no reason'})", present=True
    )


def why_not(driver: Driver | None, torch_cuda: str | None, dali_cuda: int | None) -> Obstacle | None:
    """What the driver's answers mean.

    Args:
        driver: from `ask_driver`.
        torch_cuda: CUDA version that torch was built for ("13.0"); None for a CPU build.
        dali_cuda: CUDA major that DALI was built for; None if it is not installed.
    """
    if driver is None:
        return Obstacle("there is no NVIDIA driver: libcuda.so.1 cannot be loaded", present=False)
    if driver.error == _NO_DEVICE or (driver.error == 0 and driver.devices == 0):
        return Obstacle("the NVIDIA driver finds no GPU (is CUDA_VISIBLE_DEVICES set?)", present=False)
    if torch_cuda is None:
        return Obstacle(f"torch {torch.__version__} is a build for the CPU only", present=True)
    if found := too_old(driver, torch_cuda, dali_cuda):
        return found
    if driver.error:
        cure = _CURES.get(driver.error, "`nvidia-smi` may say more")
        return Obstacle(f"the NVIDIA driver does not start (cuInit: error {driver.error}; {cure})", present=True)
    return None


def too_old(driver: Driver, torch_cuda: str | None, dali_cuda: int | None) -> Obstacle | None:
    """Whether torch or DALI need a newer driver. A driver that knows a CUDA major runs any minor version of it."""
    needed = max(int((torch_cuda or "0").split(".")[0]), dali_cuda or 0)
    if driver.version >= (needed, 0):
        return None
    return Obstacle(
        f"the NVIDIA driver supports CUDA up to {driver.version[0]}.{driver.version[1]}; this installation (torch for "
        f"CUDA {torch_cuda}, DALI for CUDA {dali_cuda}) needs a driver for CUDA {needed}.0 or later. Update the "
        "driver, or install with CUDA=12 for a driver of CUDA 12",
        present=True,
    )


def ask_driver() -> Driver | None:
    """The driver's own answers; None where there is no driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        version, devices = ctypes.c_int(0), ctypes.c_int(0)
        error = cuda.cuInit(0)
        cuda.cuDriverGetVersion(ctypes.byref(version))  # answers whether cuInit worked or not
        if error == 0:
            error = cuda.cuDeviceGetCount(ctypes.byref(devices))
    except (OSError, AttributeError):
        return None
    return Driver((version.value // 1000, version.value % 1000 // 10), error, devices.value)


def built_for() -> tuple[str | None, int | None]:
    """CUDA version of torch ("13.0") and CUDA major of DALI (13); None for a CPU build, or if it is not installed."""
    for major in (13, 12):
        try:
            importlib.metadata.version(f"nvidia-dali-cuda{major}0")
        except importlib.metadata.PackageNotFoundError:
            continue
        return torch.version.cuda, major
    return torch.version.cuda, None


def driver_release() -> str:
    """The driver's release ("580.65.06"), by which verdicts about it are kept; "unknown" where Linux does not say."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return "unknown"
    found = re.search(r"\b\d{3}\.\d+(?:\.\d+)?\b", text)
    return found[0] if found else "unknown"
