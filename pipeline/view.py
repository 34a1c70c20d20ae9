"""What a batch shows (`View`) and how batches are made (`Reading`), both checked when they are made.

A `View` decides the values in a batch. A `Reading` decides only where and how fast they are computed.
"""

import warnings
from dataclasses import dataclass

import torch

from pipeline.inputs import Inputs
from pipeline.order import FLIPS
from preprocess.console import ArgumentError, one_line, say_once
from preprocess.layout import Layout

TESTS = ("center", "resize")
ENGINE_NAMES = ("auto", "direct", "dali")
CACHES = ("none", "host", "device")
DECODES = ("auto", "host", "device")
DTYPES = (torch.float32, torch.float16)


@dataclass(frozen=True, kw_only=True)
class View:
    """What a batch shows of its chips.

    inputs: bands and scaling. crop: (height, width) of the images in pixels. dtype: float32 or float16. flips: see
    `order.augmentation`. test: "center" or "resize"; None for training, which crops at random places.

    Raises:
        ArgumentError: an argument is unknown.
    """

    inputs: Inputs
    crop: tuple[int, int]
    dtype: torch.dtype
    flips: str = "none"
    test: str | None = None

    def __post_init__(self) -> None:
        _check_choice("flips", self.flips, FLIPS)
        if self.test is not None:
            _check_choice("test", self.test, TESTS)
        if self.dtype not in DTYPES:
            raise ArgumentError("dtype", self.dtype, "expected torch.float32 or torch.float16.")

    def check_crop(self, layout: Layout) -> None:
        """Check that the crop lies within a chip.

        Raises:
            ArgumentError: it does not.
        """
        if not (isinstance(self.crop, tuple | list) and len(self.crop) == 2):
            raise ArgumentError("crop", self.crop, "expected (height, width).")
        if not (1 <= self.crop[0] <= layout.height and 1 <= self.crop[1] <= layout.width):
            raise ArgumentError("crop", self.crop, f"the chips have {layout.height} x {layout.width} pixels.")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How batches are made: device, reading threads, engine, cache, where LZ4 chunks are decoded, page cache.

    These are arguments of `loader.train_loader`. `engines.choose_engine` may fall back to a smaller cache.

    Raises:
        ArgumentError: an argument is unknown.
    """

    device: torch.device
    workers: int
    engine: str = "auto"
    cache: str = "none"
    decode: str = "auto"
    page_cache: int | None = None

    def __post_init__(self) -> None:
        _check_choice("engine", self.engine, ENGINE_NAMES)
        _check_choice("cache", self.cache, CACHES)
        _check_choice("decode", self.decode, DECODES)


def default_dtype(device: torch.device) -> torch.dtype:
    """float16 on a GPU, float32 on the CPU."""
    return torch.float16 if device.type == "cuda" else torch.float32


def usable_device(device: str | torch.device) -> torch.device:
    """`device` with its number. Falls back to the CPU, and prints one line, where no GPU can be used.

    Raises:
        ArgumentError: no device of torch, or GPUs can be used here, but not the one named.
    """
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ArgumentError("device", device, "expected cpu, cuda or cuda:N.") from error
    if chosen.type != "cuda":
        return chosen
    with warnings.catch_warnings(record=True) as caught:  # torch gives the reason there, such as a driver too old
        available = torch.cuda.is_available()
    if not available:
        reason = "".join(f" ({one_line(' '.join(str(warning.message).split()))})" for warning in caught)
        say_once(f"device={device}: no GPU can be used on this machine{reason}; using the CPU instead.")
        return torch.device("cpu")
    if chosen.index is None:  # "cuda" is torch's current GPU; DALI needs its number
        return torch.device("cuda", torch.cuda.current_device())
    count = torch.cuda.device_count()
    if chosen.index >= count:
        raise ArgumentError("device", device, f"this machine has {count} GPU{'s' * (count > 1)}, numbered from 0.")
    return chosen


def _check_choice(argument: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ArgumentError(argument, value, f"expected one of {', '.join(choices)}.")
