"""A run's whole configuration, checked where it is made. Imports nothing heavy.

A recipe (`recipes`) gives the training settings; whatever the user sets goes over it. The run folder keeps the
result, and `config_from(json)` brings it back.
"""

import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from typing import Any

from preprocess.console import UserError, one_line
from train.recipes import RECIPES

TASKS = {
    1: (("red", "green", "blue"),),
    3: (("red", "green", "blue"), ("nir",)),
    4: (("red", "green", "blue", "nir"),),
}
TASK_2 = (
    "TASK=2 trains nothing: it is the analysis (tail accuracy, best and worst chips) of a Task 1 run. "
    "`make train TASK=1` makes that run; its scores are then in results.npz of the run's folder."
)
ARCHS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "wide_resnet50_2")
# Where a run is computed, not what: these may change when it goes on.
RUNTIME_SETTINGS = ("store", "gpu", "gpu_given", "workers", "cache", "decode", "checkpoint_minutes", "tracker")
_CHOICES = {
    "task": tuple(TASKS),
    "arch": ARCHS,
    "finetune": ("full", "head"),
    "input": ("raw", "course"),
    "test": ("center", "resize"),
    "flips": ("none", "horizontal", "both", "dihedral"),
    "optimizer": ("sgd", "adamw"),
    "schedule": ("step", "onecycle", "cosine"),
    "loss": ("bce", "soft_margin", "asymmetric"),
    "conv1": ("kaiming", "mean", "copy-red"),
    "tracker": ("none", "wandb"),
    "cache": ("none", "host", "device"),
    "decode": ("auto", "host", "device"),
    "pool": ("on", "off", "auto"),
    "compile": ("off", "default", "max"),
    "amp": ("auto", "off", "bf16", "fp16"),
}
_NUMBER = re.compile("0|[1-9][0-9]{0,3}")  # of a GPU
SMALL_PX = 64  # a crop below this is small: pool=auto
_MAX_TEXT = 80  # of a value in a message
# (lowest, highest), both included. The highest keep every product of settings far from what a float or an int64 holds.
_WHOLE = {
    "epochs": (1, 100_000), "batch": (1, 2**20), "test_batch": (1, 2**20), "step_epochs": (1, 100_000),
    "accumulate": (1, 2**20), "crop": (0, 2**16), "workers": (0, 1024), "seed": (0, 2**63 - 1),
}  # fmt: skip
_REAL = {"momentum": (0, 1), "weight_decay": (0, 1e6), "balance": (0, 1)}
# From 0 to less than 1.
_BELOW_1 = {
    "val": "a fraction of the train split", "warmup": "a share of all steps", "ema": "a decay",
    "smoothing": "an amount of smoothing",
}  # fmt: skip
# More than 0, and at most that.
_POSITIVE = {"lr": 1e30, "trunk_lr": 1e6, "checkpoint_minutes": 1e6, "crop_share": 1, "step_gamma": 1}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides a run. Lengths in epochs, `lr` the highest.

    `crop` is in pixels a side; 0: `crop_share` of the chip's.
    `gpu_given`: GPU was set by the user, and is refused where it cannot be used; the default falls back to the CPU.
    `workers` 0 and `decode` auto: what `make tune` found, else a thread a core and the device.
    `batch` counts chips an update, over all GPUs and `accumulate` parts, so that it means the same anywhere.
    `warmup` is a share of all steps, `ema` the decay of the weights' moving average (0: none), `smoothing` of labels,
    `balance` the power of negatives / positives that a positive weighs, `trunk_lr` a factor of `lr` before the head;
    `pool`: max pooling behind conv1 as ResNets have it (on), none (off: later layers see twice the resolution), or none
    where the crop is smaller than 64 pixels (auto).
    """

    task: int
    store: str
    gpu: str = "0"
    gpu_given: bool = False
    arch: str = "resnet18"
    weights: str = "auto"
    finetune: str = "full"
    input: str = "raw"
    split: str = "course"
    val: float = 0.0
    seed: int = 0
    test: str = "center"
    crop: int = 0
    amp: str = "auto"
    deterministic: bool = False
    workers: int = 0
    cache: str = "none"
    decode: str = "auto"
    shuffle_labels: bool = False
    conv1: str = "kaiming"
    compile: str = "off"
    accumulate: int = 1
    checkpoint_minutes: float = 10.0
    tracker: str = "none"
    recipe: str
    epochs: int
    batch: int
    test_batch: int
    flips: str
    optimizer: str
    lr: float
    momentum: float
    weight_decay: float
    schedule: str
    step_epochs: int
    step_gamma: float
    loss: str
    warmup: float = 0.3
    ema: float = 0.0
    smoothing: float = 0.0
    balance: float = 0.0
    trunk_lr: float = 1.0
    pool: str = "on"
    crop_share: float = 0.875

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            # JSON has one kind of number, so a float field takes 1; a bool is no number.
            kinds = (int, float) if field.type is float else (field.type,)
            if type(value) not in kinds:
                raise _bad(field.name, value, f"a value of type {getattr(field.type, '__name__', field.type)}")
            if isinstance(value, str) and "\0" in value:
                raise _bad(field.name, value, "no NUL character")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise _bad(name, getattr(self, name), f"one of {', '.join(map(str, choices))}")
        self._check_numbers()
        if self.batch % self.accumulate:
            raise _bad("accumulate", self.accumulate, f"a divisor of BATCH={self.batch}")
        named = self.gpu.split(",")
        numbers = all(_NUMBER.fullmatch(part) for part in named) and len(set(named)) == len(named)
        if self.gpu != "auto" and set(named) != {"cpu"} and not numbers:
            raise _bad("gpu", self.gpu, "a number (0), numbers (0,1), auto, or cpu")
        if self.weights not in ("auto", "imagenet", "none") and not self.weights.endswith(".safetensors"):
            raise _bad("weights", self.weights, "imagenet, none or a .safetensors file")
        if self.finetune == "head" and self.weights == "none":
            raise _bad("finetune", self.finetune, "full with WEIGHTS=none: a random trunk must be trained")

    def _check_numbers(self) -> None:
        """Ranges. NaN compares as false; -0.0 equals 0 and yet is not what anybody means."""
        for name, (low, high) in (_WHOLE | _REAL).items():
            if not low <= getattr(self, name) <= high or _is_minus_0(getattr(self, name)):
                raise _bad(name, getattr(self, name), f"a number from {_limit(low)} to {_limit(high)}")
        for name, what in _BELOW_1.items():
            if not 0 <= getattr(self, name) < 1 or _is_minus_0(getattr(self, name)):
                raise _bad(name, getattr(self, name), f"{what}, from 0 to less than 1")
        for name, high in _POSITIVE.items():
            if not 0 < getattr(self, name) <= high:
                raise _bad(name, getattr(self, name), f"a number above 0, at most {_limit(high)}")

    @property
    def band_groups(self) -> tuple[tuple[str, ...], ...]:
        """Bands of each trunk."""
        return TASKS[self.task]

    def crop_of(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels of what the model is fed, of chips of that size."""
        if self.crop:
            return self.crop, self.crop
        return max(1, round(height * self.crop_share)), max(1, round(width * self.crop_share))

    def pools(self, height: int, width: int) -> bool:
        """Whether the model for chips of that size has max pooling behind conv1."""
        return self.pool == "on" or (self.pool == "auto" and min(self.crop_of(height, width)) >= SMALL_PX)


# (setting, what it has no effect beside, when). Only what a user gives is held to it: recipes set all of an
# optimiser's and a schedule's numbers, and runs of version 1 may hold any.
WITHOUT_EFFECT: tuple[tuple[str, str, Callable[[Config], bool]], ...] = (
    ("momentum", "OPTIMIZER=adamw", lambda config: config.optimizer == "adamw"),
    ("warmup", "SCHEDULE=step", lambda config: config.schedule == "step"),
    ("step_epochs", "SCHEDULE=onecycle or cosine", lambda config: config.schedule != "step"),
    ("step_gamma", "SCHEDULE=onecycle or cosine", lambda config: config.schedule != "step"),
    ("trunk_lr", "FINETUNE=head", lambda config: config.finetune == "head"),
    ("conv1", "WEIGHTS=none", lambda config: config.weights == "none"),
    ("conv1", "TASK=1, which has no new band", lambda config: config.task == 1),
    ("crop_share", "CROP", lambda config: config.crop > 0),
    ("cache", "GPU=cpu (CACHE=host has)", lambda config: config.cache == "device" and config.gpu.startswith("cpu")),
    ("cache", "INPUT=course (CACHE=host has)", lambda config: config.cache == "device" and config.input == "course"),
    ("decode", "GPU=cpu", lambda config: config.decode == "device" and config.gpu.startswith("cpu")),
    ("decode", "CACHE=host or device", lambda config: config.decode == "device" and config.cache != "none"),
)


def _is_minus_0(value: float) -> bool:
    return value == 0 and math.copysign(1, value) < 0


def _bad(name: str, value: object, expected: str) -> UserError:
    return UserError(f"{name.upper()}={_shown(value)}: expected {expected}.")


def _limit(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _shown(value: object) -> str:
    """A value in a message: one line, not too long."""
    if type(value) is int and abs(value) >= 2**64:
        return f"(a number of {value.bit_length()} bits)"
    text = one_line(str(value))
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}..."


def without_effect(config: Config, names: Collection[str]) -> dict[str, str]:
    """Of these settings, those that change nothing beside the others: name -> what they have no effect beside."""
    found = [(name, beside) for name, beside, applies in WITHOUT_EFFECT if name in names and applies(config)]
    return dict(reversed(found))  # of several reasons the first


def check_given(config: Config, names: Collection[str]) -> None:
    """Refuse a setting that the user gave and that changes nothing. A recipe's own settings may.

    Raises:
        UserError: there is one; names it.
    """
    for name, beside in without_effect(config, names).items():
        raise UserError(f"{name.upper()}={_shown(getattr(config, name))} has no effect with {beside}. Leave it out.")


def make_config(recipe: str, **settings: Any) -> Config:
    """A recipe with the user's `settings` over it.

    Raises:
        UserError: an unknown recipe or key, a bad value, or a setting that has no effect; names it.
    """
    if recipe not in RECIPES:
        raise UserError(f"RECIPE={_shown(recipe)}: expected one of {', '.join(RECIPES)}.")
    config = config_from({**RECIPES[recipe](), **settings, "recipe": recipe})
    check_given(config, settings)
    return config


def config_from(values: dict[str, Any]) -> Config:
    """A configuration from a dictionary, as a run folder keeps it; unknown or missing keys are named."""
    known = {field.name for field in fields(Config)}
    if unknown := sorted(set(values) - known):
        raise UserError(
            f"configuration: {_shown(', '.join(unknown))} is not known. There is: {', '.join(sorted(known))}."
        )
    try:
        return Config(**values)
    except TypeError as error:
        raise UserError(f"configuration: {error}.") from error
