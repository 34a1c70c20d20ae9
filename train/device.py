"""Which device, which number format: chosen once, said in one line. A GPU that was asked for by number is refused if it
cannot be used; the default, and GPU=auto, fall back to the CPU in one line."""

import os
from dataclasses import dataclass

import torch

from preprocess.console import UserError, say
from train.config import Config
from train.cuda_driver import gpu_available, obstacle

# GPU=1 is then nvidia-smi's and NVML's number 1 on machines with unlike cards, too. Read when CUDA starts.
os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
AMP_SETTING = {"off": "off", "float16": "fp16", "bfloat16": "bf16"}  # `amp_name` -> as in the configuration


@dataclass(frozen=True, kw_only=True)
class Device:
    """`amp` is autocast's dtype, None without AMP. `name` is the hardware's own."""

    device: torch.device
    amp: torch.dtype | None
    name: str

    @property
    def kind(self) -> str:
        """ "cuda" or "cpu"."""
        return self.device.type

    @property
    def image_dtype(self) -> torch.dtype:
        """What the loader should deliver: half the bytes where autocast would convert anyway."""
        return torch.float16 if self.kind == "cuda" and self.amp is not None else torch.float32


def processes(config: Config) -> int:
    """How many processes GPU=... asks for: one for each that it names; one on a machine without a GPU."""
    named = config.gpu.split(",")
    return len(named) if named[0] == "cpu" or gpu_available() else 1


def choose_device(config: Config, *, amp_may_differ: bool = False, local_rank: int | None = None) -> Device:
    """The device that GPU=... names. Where no GPU can be used: by default and with GPU=auto the CPU, and a line that
    says why; with a number that was given, a refusal.

    `amp_may_differ`: where the device has not the number format asked for, take its own choice instead of refusing.
    `local_rank`: of several processes on this machine, the one that asks; where GPU names one device, as it does when
    torchrun is started by hand, rank r takes GPU r.

    Raises:
        UserError: a GPU that was given cannot be used, the machine has others, or AMP asks for what the device has not.
    """
    named = config.gpu.split(",")
    wanted = named[local_rank % len(named)] if local_rank is not None else named[0]
    if local_rank is not None and len(named) == 1 and wanted != "cpu":
        wanted = str(local_rank)
    if wanted != "cpu" and (hindered := obstacle()):
        if config.gpu_given and wanted != "auto":
            raise UserError(
                f"GPU={config.gpu}: no GPU can be used on this machine: {hindered.reason}. GPU=cpu trains on the CPU."
            )
        say(f"no GPU can be used on this machine: running on the CPU. ({_capital(hindered.reason)}.)")
        wanted = "cpu"
    if wanted == "cpu":
        amp = _amp(config.amp, ("off", "bf16"), "the CPU", amp_may_differ)
        return Device(device=torch.device("cpu"), amp=amp, name=_cpu())
    count = torch.cuda.device_count()
    index = least_used(count) if wanted == "auto" else int(wanted)
    if index >= count:
        raise UserError(f"GPU={config.gpu}: this machine has {count} GPUs, numbered from 0.")
    name = torch.cuda.get_device_name(index)
    # Ampere and later; is_bf16_supported() counts emulation too.
    has_bf16 = torch.cuda.get_device_capability(index) >= (8, 0)
    amp = _amp(config.amp, ("bf16", "fp16", "off") if has_bf16 else ("fp16", "off"), name, amp_may_differ)
    torch.cuda.set_device(index)
    return Device(device=torch.device("cuda", index), amp=amp, name=name)


def least_used(count: int) -> int:
    """GPU=auto: of `count` GPUs the one with the least memory in use, then the least busy (NVML); says which."""
    try:
        used = [(torch.cuda.device_memory_used(index), torch.cuda.utilization(index), index) for index in range(count)]
    except Exception as error:
        # NVML's and torch's kinds are many; see `telemetry.GpuUse`.
        say(f"GPU=auto: how used the GPUs are cannot be known here ({error}): taking GPU 0 of {count}.")
        return 0
    num_bytes, busy, index = min(used)
    say(f"GPU=auto: GPU {index} of {count}, {num_bytes / 2**30:.1f} GiB in use, {busy} % busy.")
    return index


def _amp(wanted: str, has: tuple[str, ...], name: str, may_differ: bool) -> torch.dtype | None:
    """autocast's dtype; "auto" is the first of what the device has."""
    if wanted not in (*has, "auto") and not may_differ:
        raise UserError(f"AMP={wanted}: {name} has {', '.join(has)}.")
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}[wanted if wanted in has else has[0]]


def amp_name(amp: torch.dtype | None) -> str:
    """ "bfloat16", "float16" or "off"."""
    return str(amp).removeprefix("torch.") if amp is not None else "off"


def prepare_torch(config: Config, device: Device) -> None:
    """Seed, and let the hardware choose its fastest kernels unless DETERMINISTIC=1.

    AMP=off means float32: TF32 would multiply with the 10 bits of fp16. DETERMINISTIC=1 has no TF32 either.
    """
    torch.manual_seed(config.seed)
    torch.backends.cudnn.benchmark = not config.deterministic
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = (
        device.amp is not None and not config.deterministic
    )
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it to be deterministic
        torch.use_deterministic_algorithms(True)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return "CPU"
