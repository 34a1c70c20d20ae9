"""Whether a GPU can be used here and, if not, why. The driver tells more than torch, which only warns.

In: libcuda.so.1 (the driver's library), the CUDA versions that torch and DALI were built for. Out: an `Obstacle` with
the reason in words, or None. Leaves the decision to `device`.
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
# What to do about some errors of cuInit, by their number in cuda.h.
_CURES = {
    802: "the GPU's fabric manager is not running yet; start it, or wait",
    803: "the driver's library and its kernel module have different versions; restart the machine",
    999: "often after the machine was suspended; run `sudo rmmod nvidia_uvm && sudo modprobe nvidia_uvm`, or restart",
}


@dataclass(frozen=True)
class Obstacle:
    """Why no GPU can be used. `present`: there is a driver and it has a GPU, or cannot tell whether it has one."""

    reason: str
    present: bool


@dataclass(frozen=True)
class Driver:
    """What libcuda returns: the newest CUDA version that the driver supports, as (13, 0); cuInit's error, 0 if none."""

    version: tuple[int, int]
    error: int
    devices: int


def gpu_available() -> bool:
    """`torch.cuda.is_available()` without torch's warning about an old driver; `obstacle` has that in one line."""
    return obstacle() is None


@functools.cache
def obstacle() -> Obstacle | None:
    """Why no GPU can be used in this process; None if one can."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    driver, versions = ask_driver(), built_for()
    if available:  # then only DALI can be the obstacle: it may be built for another CUDA version than torch
        return None if driver is None else too_old(driver, *versions)
    warned = " ".join(" ".join(str(warning.message).split()) for warning in caught)
    return why_not(driver, *versions) or Obstacle(
        f"torch {torch.__version__} finds none ({warned or 'it gives no reason'})", present=True
    )


def why_not(driver: Driver | None, torch_cuda: str | None, dali_cuda: int | None) -> Obstacle | None:
    """Why no GPU can be used, from the driver's answers; None if they show no reason.

    Args:
        driver: from `ask_driver`.
        torch_cuda: the CUDA version that torch was built for ("13.0"); None for a CPU build.
        dali_cuda: the CUDA major version that DALI was built for; None if it is not installed.
    """
    if driver is None:
        return Obstacle("there is no NVIDIA driver: libcuda.so.1 cannot be loaded", present=False)
    if driver.error == _NO_DEVICE or (driver.error == 0 and driver.devices == 0):
        return Obstacle("the NVIDIA driver finds no GPU (is CUDA_VISIBLE_DEVICES set?)", present=False)
    if torch_cuda is None:
        return Obstacle(f"torch {torch.__version__} is a build for the CPU only", present=True)
    if outdated := too_old(driver, torch_cuda, dali_cuda):
        return outdated
    if driver.error:
        cure = _CURES.get(driver.error, "`nvidia-smi` may say more")
        return Obstacle(f"the NVIDIA driver does not start (cuInit: error {driver.error}; {cure})", present=True)
    return None


def too_old(driver: Driver, torch_cuda: str | None, dali_cuda: int | None) -> Obstacle | None:
    """The obstacle if torch or DALI need a newer driver. A driver runs all minor versions of a CUDA major version."""
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
    """The driver's answers; None if there is no driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        version, devices = ctypes.c_int(0), ctypes.c_int(0)
        error = cuda.cuInit(0)
        cuda.cuDriverGetVersion(ctypes.byref(version))  # works even if cuInit failed
        if error == 0:
            error = cuda.cuDeviceGetCount(ctypes.byref(devices))
    except (OSError, AttributeError):
        return None
    return Driver((version.value // 1000, version.value % 1000 // 10), error, devices.value)


def built_for() -> tuple[str | None, int | None]:
    """CUDA version of torch ("13.0"; None: a CPU build), CUDA major version of DALI (13; None: not installed)."""
    for major in (13, 12):
        try:
            importlib.metadata.version(f"nvidia-dali-cuda{major}0")
        except importlib.metadata.PackageNotFoundError:
            continue
        return torch.version.cuda, major
    return torch.version.cuda, None


def driver_release() -> str:
    """The driver's release ("580.65.06"), which is part of the key of a GPU proof; "unknown" if Linux does not tell."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return "unknown"
    release = re.search(r"\b\d{3}\.\d+(?:\.\d+)?\b", text)
    return release[0] if release else "unknown"
