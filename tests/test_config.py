"""The configuration: recipes, checks, and the list of flags."""

import dataclasses
import json
from collections.abc import Callable

import pytest

from models import resnet
from pipeline import order
from pipeline.loader import DECODES, TESTS
from pipeline.resident import CACHES
from train import config as module
from train.config import Config, config_from, make_config

SETTINGS = {"task": 1, "store": "s.zarr"}


def test_course_is_the_reference_recipe() -> None:
    config = make_config("course", **SETTINGS)
    expected = {
        "optimizer": "sgd", "lr": 0.005, "momentum": 0.9, "weight_decay": 0.0, "schedule": "step", "step_epochs": 5,
        "step_gamma": 0.3, "epochs": 12, "batch": 16, "test_batch": 64, "seed": 0, "flips": "horizontal",
        "finetune": "full", "input": "raw", "test": "center", "split": "course", "loss": "bce",
    }  # fmt: skip
    assert {name: getattr(config, name) for name in expected} == expected


def test_best_keeps_the_pooling_of_large_chips_only() -> None:
    config = make_config("best", **SETTINGS)
    assert [config.pools(side, side) for side in (32, 63, 64, 256)] == [False, False, True, True]
    assert config.crop_of(32, 40) == (32, 40)
    assert make_config("best", **SETTINGS, crop=28).crop_of(32, 40) == (28, 28)
    assert make_config("default", **SETTINGS).crop_of(256, 128) == (224, 112)
    assert make_config("default", **SETTINGS).pools(32, 32)


def test_a_setting_goes_over_the_recipe_and_survives_json() -> None:
    config = make_config("default", **SETTINGS, epochs=3, lr=0.5)
    assert (config.epochs, config.lr, config.recipe) == (3, 0.5, "default")
    assert config_from(json.loads(json.dumps(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"task": 5}, "TASK=5: expected one of 1, 3, 4"),
        ({"arch": "vgg"}, "ARCH=vgg: expected one of resnet18"),
        ({"epochs": 0}, "EPOCHS=0: expected 1 or more"),
        ({"batch": -1}, "BATCH=-1"),
        ({"lr": 0.0}, "LR=0.0: expected a positive number"),
        ({"lr": float("nan")}, "LR=nan"),
        ({"val": 1.0}, "VAL=1.0"),
        ({"warmup": -0.1}, "WARMUP=-0.1: expected a share of all steps, from 0 to less than 1"),
        ({"ema": 1.0}, "EMA=1.0"),
        ({"smoothing": float("nan")}, "SMOOTHING=nan"),
        ({"balance": 2.0}, "BALANCE=2.0"),
        ({"crop_share": 0.0}, "CROP_SHARE=0.0: expected a share above 0, at most 1"),
        ({"pool": "no"}, "POOL=no: expected one of on, off, auto"),
        ({"trunk_lr": 0.0}, "TRUNK_LR=0.0"),
        ({"momentum": float("nan")}, "MOMENTUM=nan"),
        ({"checkpoint_minutes": 0.0}, "CHECKPOINT_MINUTES=0.0"),
        ({"accumulate": 3}, "ACCUMULATE=3: expected a divisor of BATCH=64"),
        ({"conv1": "zero"}, "CONV1=zero"),
        ({"conv1": "mean", "weights": "none"}, "CONV1=mean: expected nothing with WEIGHTS=none"),
        ({"compile": "yes"}, "COMPILE=yes"),
        ({"seed": -1}, "SEED=-1"),
        ({"gpu": "zero"}, "GPU=zero: expected a number (0), numbers (0,1), auto, or cpu"),
        ({"gpu": "0,"}, "GPU=0,"),
        ({"weights": "file.pth"}, "WEIGHTS=file.pth: expected imagenet, none or a .safetensors file"),
        ({"finetune": "some"}, "FINETUNE=some"),
        ({"finetune": "head", "weights": "none"}, "a random trunk must be trained"),
        ({"input": "8bit"}, "INPUT=8bit"),
        ({"test": "random"}, "TEST=random"),
        ({"amp": "fp8"}, "AMP=fp8"),
        ({"epochs": 1.5}, "EPOCHS=1.5: expected a value of type int"),
        ({"epochs": True}, "EPOCHS=True"),
        ({"speed": 11}, "speed is not known"),
    ],
)
def test_bad_values_name_field_and_value(refused: Callable, settings: dict, found: str) -> None:
    assert found in refused(lambda: make_config("default", **{**SETTINGS, **settings}))


def test_unknown_recipe_and_missing_keys(refused: Callable) -> None:
    assert "RECIPE=worst: expected one of default, course, best" in refused(lambda: make_config("worst", **SETTINGS))
    assert "missing" in refused(lambda: config_from({"task": 1}))


def test_the_list_of_settings_is_frozen() -> None:
    """A new setting is a decision: add it here too, and to the README if it is a Make variable."""
    assert [field.name for field in dataclasses.fields(Config)] == [
        "task", "store", "gpu", "gpu_given", "arch", "weights", "finetune", "input", "split", "val", "seed", "test",
        "crop", "amp", "deterministic", "workers", "cache", "decode", "shuffle_labels", "conv1", "compile", "accumulate",
        "checkpoint_minutes", "tracker",
        "recipe", "epochs", "batch", "test_batch", "flips", "optimizer", "lr", "momentum", "weight_decay", "schedule",
        "step_epochs", "step_gamma", "loss", "warmup", "ema", "smoothing", "balance", "trunk_lr",
        "pool", "crop_share",
    ]  # fmt: skip


def test_choices_are_those_of_the_code_they_stand_for() -> None:
    assert module.ARCHS == resnet.ARCHS
    assert module._CHOICES["flips"] == order.FLIPS
    assert module._CHOICES["test"] == TESTS
    assert module._CHOICES["cache"] == CACHES
    assert module._CHOICES["decode"] == DECODES
    assert module._CHOICES["conv1"] == resnet.NEW_BANDS


def test_configuration_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    code = "import sys, train.config; print([m for m in ('torch', 'nvidia.dali', 'zarr') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
