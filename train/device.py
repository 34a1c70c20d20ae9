"""Which device, which number format: chosen once, said in one line."""

import os
from dataclasses import dataclass

import torch

from preprocess.console import UserError, say
from train.config import Config


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


def choose_device(config: Config) -> Device:
    """The device that GPU=... names; without any GPU on the machine, the CPU, and a line that says so.

    Raises:
        UserError: the machine has GPUs, but not that one, or AMP asks for what the device has not.
    """
    wanted = config.gpu.split(",")[0]
    if wanted != "cpu" and not torch.cuda.is_available():
        say(f"GPU={config.gpu} was asked for, but no GPU can be used on this machine: running on the CPU.")
        wanted = "cpu"
    if wanted == "cpu":
        if config.amp == "fp16":
            raise UserError("AMP=fp16: the CPU has bf16 or off.")
        return Device(device=torch.device("cpu"), amp=torch.bfloat16 if config.amp == "bf16" else None, name=_cpu())
    index, count = int(wanted), torch.cuda.device_count()
    if index >= count:
        raise UserError(f"GPU={config.gpu}: this machine has {count} GPUs, numbered from 0.")
    if "," in config.gpu:
        say(f"GPU={config.gpu}: one GPU is used, {index}.")
    has_bf16 = torch.cuda.get_device_capability(index) >= (8, 0)  # Ampere; is_bf16_supported() counts emulation
    if config.amp == "bf16" and not has_bf16:
        raise UserError(f"AMP=bf16: {torch.cuda.get_device_name(index)} has no bf16. Use AMP=fp16.")
    choice = {"auto": "bf16" if has_bf16 else "fp16"}.get(config.amp, config.amp)
    amp = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": None}[choice]
    torch.cuda.set_device(index)
    return Device(device=torch.device("cuda", index), amp=amp, name=torch.cuda.get_device_name(index))


def amp_name(amp: torch.dtype | None) -> str:
    """ "bfloat16", "float16" or "off"."""
    return str(amp).removeprefix("torch.") if amp is not None else "off"


def prepare_torch(config: Config) -> None:
    """Seed, and let the hardware choose its fastest kernels unless DETERMINISTIC=1."""
    torch.manual_seed(config.seed)
    torch.backends.cudnn.benchmark = not config.deterministic
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not config.deterministic
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it to be deterministic
        torch.use_deterministic_algorithms(True)


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return "CPU"
