"""A run's whole configuration, checked where it is made. Imports nothing heavy.

A recipe (`recipes`) gives the training settings; whatever the user sets goes over it. The run folder keeps the
result, and `config_from(json)` brings it back.
"""

from dataclasses import dataclass, fields
from typing import Any

from preprocess.console import UserError
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
WHERE = ("store", "gpu", "gpu_given", "workers", "cache", "decode", "checkpoint_minutes", "tracker")
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
SMALL_PX = 64  # a crop below this is small: pool=auto
_FRACTIONS = {
    "val": "a fraction of the train part",
    "warmup": "a share of all steps",
    "ema": "a decay",
    "smoothing": "an amount of smoothing",
}


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
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise _bad(name, getattr(self, name), f"one of {', '.join(map(str, choices))}")
        for name in ("epochs", "batch", "test_batch", "step_epochs", "accumulate"):
            if getattr(self, name) < 1:
                raise _bad(name, getattr(self, name), "1 or more")
        for name in ("crop", "workers", "seed", "momentum", "weight_decay"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise _bad(name, getattr(self, name), "0 or more")
        for name in ("lr", "trunk_lr", "checkpoint_minutes"):
            if not 0 < getattr(self, name) < float("inf"):
                raise _bad(name, getattr(self, name), "a positive number")
        for name, what in _FRACTIONS.items():
            if not 0 <= getattr(self, name) < 1:
                raise _bad(name, getattr(self, name), f"{what}, from 0 to less than 1")
        if self.seed >= 2**63:
            raise _bad("seed", self.seed, "less than 2**63")
        if not 0 <= self.balance <= 1:
            raise _bad("balance", self.balance, "a power from 0 (off) to 1 (balanced)")
        if not 0 < self.crop_share <= 1:
            raise _bad("crop_share", self.crop_share, "a share above 0, at most 1")
        if not 0 < self.step_gamma <= 1:
            raise _bad("step_gamma", self.step_gamma, "a factor above 0, at most 1")
        if self.batch % self.accumulate:
            raise _bad("accumulate", self.accumulate, f"a divisor of BATCH={self.batch}")
        named = self.gpu.split(",")
        numbers = all(part.isdecimal() for part in named) and len(set(named)) == len(named)
        if self.gpu != "auto" and set(named) != {"cpu"} and not numbers:
            raise _bad("gpu", self.gpu, "a number (0), numbers (0,1), auto, or cpu")
        if self.weights not in ("auto", "imagenet", "none") and not self.weights.endswith(".safetensors"):
            raise _bad("weights", self.weights, "imagenet, none or a .safetensors file")
        if self.finetune == "head" and self.weights == "none":
            raise _bad("finetune", self.finetune, "full with WEIGHTS=none: a random trunk must be trained")
        if self.conv1 != "kaiming" and self.weights == "none":
            raise _bad("conv1", self.conv1, "nothing with WEIGHTS=none: it is about bands that the weights do not know")

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


def _bad(name: str, value: object, expected: str) -> UserError:
    return UserError(f"{name.upper()}={value}: expected {expected}.")


def make_config(recipe: str, **settings: Any) -> Config:
    """A recipe with `settings` over it.

    Raises:
        UserError: an unknown recipe or key, or a bad value; names it.
    """
    if recipe not in RECIPES:
        raise UserError(f"RECIPE={recipe}: expected one of {', '.join(RECIPES)}.")
    merged = {**RECIPES[recipe](), **settings, "recipe": recipe}
    return config_from(merged)


def config_from(values: dict[str, Any]) -> Config:
    """A configuration from a dictionary, as a run folder keeps it; unknown or missing keys are named."""
    known = {field.name for field in fields(Config)}
    if unknown := sorted(set(values) - known):
        raise UserError(f"configuration: {', '.join(unknown)} is not known. There is: {', '.join(sorted(known))}.")
    try:
        return Config(**values)
    except TypeError as error:
        raise UserError(f"configuration: {error}.") from error
