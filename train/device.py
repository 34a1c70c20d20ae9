"""The device and the number format of a run.

A GPU that the user gave by its number is refused if it cannot be used. The default and GPU=auto fall back to the CPU,
and a line says why.
"""

import os
from dataclasses import dataclass

import torch

from preprocess.console import UserError, say
from train.config import Config
from train.cuda_driver import gpu_available, obstacle

# With it, GPU=1 is number 1 of nvidia-smi and NVML also on machines with different cards. CUDA reads it at its start.
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
AMP_SETTING = {"off": "off", "float16": "fp16", "bfloat16": "bf16"}  # by `amp_name`


@dataclass(frozen=True, kw_only=True)
class Device:
    """`amp` is the dtype of autocast, None without AMP. `name` is the name of the hardware."""

    device: torch.device
    amp: torch.dtype | None
    name: str

    @property
    def kind(self) -> str:
        """ "cuda" or "cpu"."""
        return self.device.type

    @property
    def image_dtype(self) -> torch.dtype:
        """The dtype of the loader's images: float16 where autocast would convert to 16 bits anyway."""
        return torch.float16 if self.kind == "cuda" and self.amp is not None else torch.float32


def processes(config: Config) -> int:
    """How many processes GPU=... asks for: one per device that it names; one on a machine without a GPU."""
    named = config.gpu.split(",")
    return len(named) if named[0] == "cpu" or gpu_available() else 1


def choose_device(config: Config, *, amp_may_differ: bool = False, local_rank: int | None = None) -> Device:
    """The device that GPU=... names, or the CPU if no GPU can be used and the user gave no number.

    Args:
        amp_may_differ: if the device does not have the number format of AMP, use the device's default format instead
            of refusing.
        local_rank: the rank of this process on this machine, with several processes. If GPU names one device, as it
            does when torchrun is started by hand, rank r uses GPU r.

    Raises:
        UserError: a GPU that the user gave cannot be used or does not exist, or the device does not have the format.
    """
    names = config.gpu.split(",")
    name = names[local_rank % len(names)] if local_rank is not None else names[0]
    if local_rank is not None and len(names) == 1 and name != "cpu":
        name = str(local_rank)
    if name != "cpu" and (missing := obstacle()):
        if config.gpu_given and name != "auto":
            raise UserError(
                f"GPU={config.gpu}: no GPU can be used on this machine: {missing.reason}. GPU=cpu trains on the CPU."
            )
        say(f"no GPU can be used on this machine ({missing.reason}); using the CPU instead.")
        name = "cpu"
    if name == "cpu":
        amp = _amp(config.amp, ("off", "bf16"), "the CPU", amp_may_differ)
        if amp is not None and not multiplies_bf16(cpu_flags()):
            say(
                "AMP=bf16: this CPU has neither AVX512-BF16 nor AMX, so bf16 is up to 10 times slower than float32 "
                "(AMP=off)."
            )
        return Device(device=torch.device("cpu"), amp=amp, name=cpu_name())
    count = torch.cuda.device_count()
    index = least_used(count) if name == "auto" else int(name)
    if index >= count:
        raise UserError(f"GPU={config.gpu}: this machine has {count} GPUs, numbered from 0.")
    hardware = torch.cuda.get_device_name(index)
    # Ampere and later. is_bf16_supported() is also true for emulation.
    has_bf16 = torch.cuda.get_device_capability(index) >= (8, 0)
    amp = _amp(config.amp, ("bf16", "fp16", "off") if has_bf16 else ("fp16", "off"), hardware, amp_may_differ)
    torch.cuda.set_device(index)
    return Device(device=torch.device("cuda", index), amp=amp, name=hardware)


def least_used(count: int) -> int:
    """For GPU=auto: the GPU with the least memory in use, then the least busy one (NVML). A line names it."""
    try:
        loads = [(torch.cuda.device_memory_used(index), torch.cuda.utilization(index), index) for index in range(count)]
    except Exception as error:
        # NVML and torch raise many types; see `telemetry.GpuUse`.
        say(f"GPU=auto: the use of the GPUs cannot be measured here ({error}); using GPU 0 of {count}.")
        return 0
    num_bytes, busy, index = min(loads)
    say(f"GPU=auto: GPU {index} of {count}, {num_bytes / 2**30:.1f} GiB in use, {busy} % busy.")
    return index


def _amp(setting: str, formats: tuple[str, ...], hardware: str, may_differ: bool) -> torch.dtype | None:
    """The dtype of autocast. "auto" is the first of the formats that the device has."""
    if setting not in (*formats, "auto") and not may_differ:
        raise UserError(f"AMP={setting}: {hardware} has {', '.join(formats)}.")
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}[setting if setting in formats else formats[0]]


def amp_name(amp: torch.dtype | None) -> str:
    """ "bfloat16", "float16" or "off"."""
    return str(amp).removeprefix("torch.") if amp is not None else "off"


def prepare_torch(config: Config, device: Device) -> None:
    """Seed torch, and let cuDNN choose its fastest kernels unless DETERMINISTIC=1.

    AMP=off means float32, without TF32, which multiplies with 10 bits, as fp16 does. Nor does DETERMINISTIC=1 use it.
    """
    torch.manual_seed(config.seed)
    torch.backends.cudnn.benchmark = not config.deterministic
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = (
        device.amp is not None and not config.deterministic
    )
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it to be deterministic
        torch.use_deterministic_algorithms(True)


def multiplies_bf16(flags: frozenset[str]) -> bool:
    """Whether a CPU with these flags has instructions for bf16; also True if none is known.

    x86: AVX512-BF16 or AMX. ARM: "bf16". Without them a step took 1.7 times
    (AVX512) to 10 times (AVX2) as long as in float32 (docs/log.md).
    """
    return not flags or bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def cpu_flags() -> frozenset[str]:
    """What /proc/cpuinfo says that the first core can do; empty if it does not say it."""
    try:
        with open("/proc/cpuinfo") as file:
            line = next(line for line in file if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return frozenset()
    return frozenset(line.partition(":")[2].split())


def cpu_name() -> str:
    """The processor's name, "CPU" if the system does not tell it."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return "CPU"
