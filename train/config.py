"""A run's whole configuration, checked where it is made. Imports nothing heavy.

A recipe (`recipes`) gives the training settings; whatever the user sets goes over it. The run folder keeps the
result, and `config_from(json)` brings it back. Leaves the definitions of the settings to `setting_groups` and
`optimisation`.
"""

from collections.abc import Callable, Collection
from typing import Any, Self

from pydantic import model_validator

from models.archs import ARCHS
from preprocess.band_names import COLOURS
from preprocess.console import UserError
from preprocess.messages import bad, did_you_mean, shown
from preprocess.setting_specs import specs
from train.band_choice import TASKS as TASKS
from train.band_choice import BandChoice
from train.optimisation import OptimisationSettings
from train.recipes import RECIPES
from train.setting_groups import DataSettings, ModelSettings, RunSettings

TASK_2 = (
    "TASK=2 trains nothing: it is the analysis (tail accuracy, best and worst chips) of a Task 1 run. "
    "`make train TASK=1` makes that run, `make report RUN=runs/task1` analyses it."
)
SMALL_PX = 64  # a crop below this is small: pool=auto, stem=auto


# Pydantic puts the fields of the last base first.
class Config(RunSettings, OptimisationSettings, ModelSettings, DataSettings):
    """Everything that decides a run. Lengths are in epochs, `lr` is the highest."""

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if self.batch % self.accumulate:
            raise bad("ACCUMULATE", self.accumulate, f"a divisor of BATCH={self.batch}")
        if self.finetune == "head" and self.weights == "none":
            raise bad("FINETUNE", self.finetune, "full with WEIGHTS=none: a random trunk must be trained")
        for name in ("bands_in", "trunks", "bands_rgb"):
            if self.input == "course" and (value := getattr(self, name)):
                raise UserError(f"{name.upper()}={value}: INPUT=course has bands of its own. Leave one of them out.")
        self.band_choice.check()
        return self

    @property
    def band_choice(self) -> BandChoice:
        """The settings that choose bands."""
        return BandChoice(task=self.task, bands_in=self.bands_in, trunks=self.trunks, bands_rgb=self.bands_rgb)

    @property
    def band_groups(self) -> tuple[tuple[str, ...], ...]:
        """Bands of each trunk, as the store calls them."""
        return self.band_choice.stored

    def crop_of(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) in pixels of what the model is fed, of chips of that size."""
        if self.crop:
            return self.crop, self.crop
        return max(1, round(height * self.crop_share)), max(1, round(width * self.crop_share))

    def pools(self, height: int, width: int) -> bool:
        """Whether the model for chips of that size has max pooling behind conv1."""
        return self.pool == "on" or (self.pool == "auto" and not self._small(height, width))

    def stem_of(self, height: int, width: int) -> str:
        """One of `models.resnet.STEMS`, for chips of that size."""
        auto = "small" if self._small(height, width) else "imagenet"
        return auto if self.stem == "auto" and self.arch in ARCHS else "imagenet" if self.stem == "auto" else self.stem

    def _small(self, height: int, width: int) -> bool:
        return min(self.crop_of(height, width)) < SMALL_PX


# Settings that change how a run executes but not its result; they may differ on resume.
RUNTIME_SETTINGS = tuple(name for name, spec in specs(Config).items() if spec.on_resume)

# (setting, what it has no effect beside, when). Only what a user gives is held to it: recipes set all of an
# optimiser's and a schedule's numbers, and runs of version 1 may hold any.
WITHOUT_EFFECT: tuple[tuple[str, str, Callable[[Config], bool]], ...] = (
    ("block_km", "another SPLIT than blocked", lambda config: config.split != "blocked"),
    ("momentum", "OPTIMIZER=adamw", lambda config: config.optimizer == "adamw"),
    ("warmup", "SCHEDULE=step", lambda config: config.schedule == "step"),
    ("step_epochs", "SCHEDULE=onecycle or cosine", lambda config: config.schedule != "step"),
    ("step_gamma", "SCHEDULE=onecycle or cosine", lambda config: config.schedule != "step"),
    ("trunk_lr", "FINETUNE=head", lambda config: config.finetune == "head"),
    ("conv1", "WEIGHTS=none", lambda config: config.weights == "none"),
    ("conv1", "TASK=1, which has no new band", lambda config: config.task == 1 and not config.bands_in),
    (
        "conv1",
        "BANDS_IN, which has no new band",
        lambda config: bool(config.bands_in) and set(config.band_choice.named[0]) <= set(COLOURS),
    ),
    ("pool", "ARCH of timm", lambda config: config.arch not in ARCHS),
    ("stem", "ARCH of timm", lambda config: config.arch not in ARCHS),
    (
        "mixup",
        "micro-batches of one chip (BATCH=ACCUMULATE)",
        lambda config: config.mixup > 0 and config.batch == config.accumulate,
    ),
    ("crop_share", "CROP", lambda config: config.crop > 0),
    ("cache", "GPU=cpu (CACHE=host has)", lambda config: config.cache == "device" and config.gpu.startswith("cpu")),
    ("cache", "INPUT=course (CACHE=host has)", lambda config: config.cache == "device" and config.input == "course"),
    ("decode", "GPU=cpu", lambda config: config.decode == "device" and config.gpu.startswith("cpu")),
    ("decode", "CACHE=host or device", lambda config: config.decode == "device" and config.cache != "none"),
)


def without_effect(config: Config, names: Collection[str]) -> dict[str, str]:
    """Of these settings, those that change nothing beside the others: name -> what they have no effect beside."""
    reasons = [(name, beside) for name, beside, applies in WITHOUT_EFFECT if name in names and applies(config)]
    return dict(reversed(reasons))  # of several reasons the first


def check_effect(config: Config, names: Collection[str]) -> None:
    """Refuse a setting that the user gave and that changes nothing. A recipe's own settings may.

    Raises:
        UserError: there is one; names it.
    """
    for name, beside in without_effect(config, names).items():
        raise UserError(f"{name.upper()}={shown(getattr(config, name))} has no effect with {beside}. Leave it out.")


def make_config(recipe: str, **settings: Any) -> Config:
    """A recipe with the user's `settings` over it.

    Raises:
        UserError: an unknown recipe or key, a bad value, or a setting that has no effect; names it.
    """
    if recipe not in RECIPES:
        hint = did_you_mean(recipe, RECIPES, "RECIPE")
        raise bad("RECIPE", recipe, f"one of {', '.join(RECIPES)}{hint}")
    config = config_from({**RECIPES[recipe](), **settings, "recipe": recipe})
    check_effect(config, settings)
    return config


def config_from(values: dict[str, Any]) -> Config:
    """A configuration from a dictionary, as a run folder keeps it; unknown or missing keys are named."""
    known = specs(Config)
    if unknown := sorted(set(values) - set(known)):
        raise UserError(
            f"configuration: {shown(', '.join(unknown))} is not known. There is: {', '.join(sorted(known))}."
        )
    if missing := [name for name, spec in known.items() if spec.required and name not in values]:
        raise UserError(f"configuration: {', '.join(missing)} is missing.")
    return Config(**values)
