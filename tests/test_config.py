"""The configuration: recipes, checks, and the list of flags."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from helpers.settings import VALUES
from hypothesis import given
from hypothesis import strategies as st

from models import resnet
from pipeline import order
from pipeline.view import CACHES, DECODES, TESTS
from preprocess.console import UserError
from preprocess.setting_specs import specs
from train.config import WITHOUT_EFFECT as NO_EFFECT
from train.config import Config, config_from, make_config, without_effect
from train.recipes import RECIPES

SETTINGS = {"task": 1, "store": "s.zarr"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)
FIELDS = {name: spec.kind for name, spec in specs(Config).items()}
NUMBERS = [name for name, kind in FIELDS.items() if kind in (int, float) and name != "task"]


def either(values: dict[str, Any]) -> tuple[Config | None, str]:
    """The configuration, or the line that refuses it."""
    try:
        return config_from(values), ""
    except UserError as error:
        text = str(error)
    assert "\n" not in text
    assert len(text) < 1000
    return None, text


def test_course_is_the_reference_recipe() -> None:
    config = make_config("course", **SETTINGS)
    expected = {
        "optimizer": "sgd", "lr": 0.005, "momentum": 0.9, "weight_decay": 0.0, "schedule": "step", "step_epochs": 5,
        "step_gamma": 0.3, "epochs": 12, "batch": 16, "test_batch": 64, "seed": 0, "flips": "horizontal",
        "finetune": "full", "input": "raw", "test": "center", "split": "course", "loss": "bce",
    }  # fmt: skip
    assert {name: getattr(config, name) for name in expected} == expected


def test_best_has_a_small_stem_for_small_chips_only() -> None:
    config = make_config("best", **SETTINGS)
    assert [config.stem_of(side, side) for side in (32, 63, 64, 256)] == ["small", "small", "imagenet", "imagenet"]
    assert config.pools(32, 32)
    auto = make_config("best", **SETTINGS, pool="auto")
    assert [auto.pools(side, side) for side in (32, 63, 64, 256)] == [False, False, True, True]
    assert config.crop_of(32, 40) == (32, 40)
    assert make_config("best", **SETTINGS, crop=28).crop_of(32, 40) == (28, 28)
    assert make_config("default", **SETTINGS).crop_of(256, 128) == (224, 112)
    assert make_config("default", **SETTINGS).pools(32, 32)


def test_the_stem_of_small_crops_is_small_if_it_is_automatic() -> None:
    auto = make_config("default", **SETTINGS, stem="auto")
    assert [auto.stem_of(side, side) for side in (63, 72, 74, 256)] == ["small", "small", "imagenet", "imagenet"]
    assert make_config("default", **SETTINGS).stem_of(32, 32) == "imagenet"
    assert make_config("default", **SETTINGS, stem="small").stem_of(256, 256) == "small"
    assert make_config("default", **SETTINGS | {"arch": "vit_tiny_patch16_224"}).stem_of(32, 32) == "imagenet"


def test_a_setting_goes_over_the_recipe() -> None:
    config = make_config("default", **SETTINGS, epochs=3, lr=0.5)
    assert (config.epochs, config.lr, config.recipe) == (3, 0.5, "default")


@given(st.sampled_from(sorted(RECIPES)), st.fixed_dictionaries({}, optional=VALUES))
def test_any_configuration_survives_json(recipe: str, settings: dict[str, Any]) -> None:
    values = {**SETTINGS, **RECIPES[recipe](), "recipe": recipe, **settings}
    if values.get("finetune") == "head" and values.get("weights") == "none":
        del values["weights"]
    config = config_from(values)
    assert config_from(json.loads(json.dumps(config.model_dump()))) == config


@given(st.sampled_from(sorted(FIELDS)), JSON)
def test_any_json_in_any_field_is_a_configuration_or_one_line(name: str, value: Any) -> None:
    values = make_config("default", **SETTINGS).model_dump() | {name: value}
    config, text = either(values)
    assert config is None or config.model_dump() == values
    assert not text or text.startswith(f"{name.upper()}=")


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)) | st.text(), JSON))
def test_any_json_object_is_a_configuration_or_one_line(values: dict[str, Any]) -> None:
    config, text = either(values)
    assert (config is None) == bool(text)


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_beyond_any_use_are_refused_by_their_range(refused: Callable, name: str) -> None:
    huge = [10**400, -(10**400), 2**128] + (
        [math.nan, math.inf, -math.inf, 1e300, -0.0] if FIELDS[name] is float else []
    )
    for value in huge:
        text = refused(lambda value=value: make_config("default", **{**SETTINGS, name: value}))
        assert text.startswith(f"{name.upper()}=")
        assert " from " in text or " above 0, at most " in text


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"task": 5}, "TASK=5: expected one of 1, 3, 4"),
        ({"arch": "vgg-16"}, "ARCH=vgg-16: expected the name of a network, of letters, digits and _"),
        ({"epochs": 0}, "EPOCHS=0: expected a whole number from 1 to 100,000"),
        ({"batch": -1}, "BATCH=-1"),
        ({"lr": 0.0}, "LR=0.0: expected a number above 0, at most 1e+30"),
        ({"val": 1.0}, "VAL=1.0"),
        ({"warmup": -0.1}, "WARMUP=-0.1: expected a number from 0 to less than 1"),
        ({"ema": 1.0}, "EMA=1.0"),
        ({"balance": 2.0}, "BALANCE=2.0"),
        ({"crop_share": 0.0}, "CROP_SHARE=0.0: expected a number above 0, at most 1"),
        ({"pool": "no"}, "POOL=no: expected one of on, off, auto"),
        ({"trunk_lr": 0.0}, "TRUNK_LR=0.0"),
        ({"checkpoint_minutes": 0.0}, "CHECKPOINT_MINUTES=0.0"),
        ({"accumulate": 3}, "ACCUMULATE=3: expected a divisor of BATCH=64"),
        ({"conv1": "zero"}, "CONV1=zero"),
        ({"compile": "yes"}, "COMPILE=yes"),
        ({"seed": -1}, "SEED=-1"),
        ({"gpu": "zero"}, "GPU=zero: expected a number (0), numbers (0,1), auto, or cpu"),
        ({"gpu": "0,"}, "GPU=0,"),
        ({"gpu": "0,00"}, "GPU=0,00"),
        ({"gpu": "\u0663"}, "GPU=\u0663"),
        ({"store": "a\0"}, "STORE=a\\x00: expected no NUL character"),
        ({"weights": "file.pth"}, "WEIGHTS=file.pth: expected imagenet, none or a .safetensors file"),
        ({"finetune": "some"}, "FINETUNE=some"),
        ({"finetune": "head", "weights": "none"}, "a random trunk must be trained"),
        ({"input": "8bit"}, "INPUT=8bit"),
        ({"test": "random"}, "TEST=random"),
        ({"amp": "fp8"}, "AMP=fp8"),
        ({"epochs": 1.5}, "EPOCHS=1.5: expected a whole number from 1 to 100,000"),
        ({"epochs": True}, "EPOCHS=True"),
        ({"speed": 11}, "speed is not known"),
    ],
)
def test_bad_values_name_field_and_value(refused: Callable, settings: dict, found: str) -> None:
    assert found in refused(lambda: make_config("default", **{**SETTINGS, **settings}))


# A setting that the user gives, the others that leave it without effect, and others that give it one.
WITHOUT_EFFECT = [
    ({"momentum": 0.9}, {"optimizer": "adamw"}, {"optimizer": "sgd"}),
    ({"warmup": 0.1}, {"schedule": "step"}, {"schedule": "onecycle"}),
    ({"warmup": 0.1}, {"schedule": "step"}, {"schedule": "cosine"}),
    ({"step_epochs": 2}, {"schedule": "onecycle"}, {"schedule": "step"}),
    ({"step_gamma": 0.5}, {"schedule": "cosine"}, {"schedule": "step"}),
    ({"trunk_lr": 0.1}, {"finetune": "head"}, {"finetune": "full"}),
    ({"conv1": "mean"}, {"task": 4, "weights": "none"}, {"task": 4, "weights": "imagenet"}),
    ({"conv1": "kaiming"}, {"task": 1}, {"task": 3}),
    ({"conv1": "mean"}, {"bands_in": "a,b,c", "bands_rgb": "c,b,a"}, {"bands_in": "a,b,c,d", "bands_rgb": "c,b,a"}),
    ({"block_km": 5.0}, {"split": "course"}, {"split": "blocked"}),
    ({"pool": "off"}, {"arch": "vit_tiny_patch16_224"}, {"arch": "resnet50"}),
    ({"stem": "small"}, {"arch": "vit_tiny_patch16_224"}, {"arch": "resnet50"}),
    ({"crop_share": 0.5}, {"crop": 20}, {"crop": 0}),
    ({"mixup": 0.2}, {"batch": 4, "accumulate": 4}, {"batch": 4, "accumulate": 2}),
    ({"cache": "device"}, {"gpu": "cpu"}, {"gpu": "0"}),
    ({"cache": "device"}, {"input": "course"}, {"input": "raw"}),
    ({"decode": "device"}, {"gpu": "cpu,cpu"}, {"gpu": "auto"}),
    ({"decode": "device"}, {"cache": "host"}, {"cache": "none"}),
    ({"decode": "device"}, {"cache": "device"}, {"cache": "none"}),
]


@pytest.mark.parametrize("recipe", sorted(RECIPES))
@pytest.mark.parametrize(("setting", "beside", "otherwise"), WITHOUT_EFFECT)
def test_a_setting_without_effect_is_refused_where_the_user_gave_it(
    refused: Callable, recipe: str, setting: dict, beside: dict, otherwise: dict
) -> None:
    ((name, value),) = setting.items()
    text = refused(lambda: make_config(recipe, **{**SETTINGS, **setting, **beside}))
    assert text.startswith(f"{name.upper()}={value} has no effect with ")
    assert text.endswith(". Leave it out.")
    make_config(recipe, **{**SETTINGS, **setting, **otherwise})
    make_config(recipe, **{**SETTINGS, **beside})  # the recipe's own value, or the default
    config_from(make_config(recipe, **SETTINGS).model_dump() | setting | beside)  # a run that holds it


def test_settings_that_always_have_an_effect() -> None:
    """With the table above, a decision about each setting; a new one needs a decision, too."""
    always = {
        "task", "store", "gpu", "gpu_given", "arch", "weights", "finetune", "input", "split", "val", "seed", "test",
        "crop", "amp", "deterministic", "workers", "shuffle_labels", "compile", "accumulate", "checkpoint_minutes",
        "rank_timeout_minutes",
        "tracker", "recipe", "epochs", "batch", "test_batch", "flips", "optimizer", "lr", "weight_decay", "schedule",
        "loss", "ema", "smoothing", "balance", "bands_in", "trunks", "bands_rgb",
    }  # fmt: skip
    sometimes = {name for setting, _, _ in WITHOUT_EFFECT for name in setting}
    assert sometimes == {name for name, _, _ in NO_EFFECT}
    assert always | sometimes == set(FIELDS)
    assert not always & sometimes


def test_of_several_reasons_the_first_is_given() -> None:
    config = config_from(make_config("default", **SETTINGS).model_dump() | {"conv1": "mean", "weights": "none"})
    assert without_effect(config, {"conv1", "lr"}) == {"conv1": "WEIGHTS=none"}
    assert without_effect(config, {"lr"}) == {}


def test_unknown_recipe_and_missing_keys(refused: Callable) -> None:
    assert "RECIPE=worst: expected one of default, course, best" in refused(lambda: make_config("worst", **SETTINGS))
    assert "missing" in refused(lambda: config_from({"task": 1}))


def test_the_list_of_settings_is_frozen() -> None:
    """A new setting is a decision: add it here, too."""
    assert set(specs(Config)) == {
        "task", "store", "gpu", "gpu_given", "arch", "weights", "finetune", "input", "split", "val", "seed", "test",
        "crop", "amp", "deterministic", "workers", "cache", "decode", "shuffle_labels", "conv1", "compile",
        "accumulate", "checkpoint_minutes", "rank_timeout_minutes", "tracker",
        "recipe", "epochs", "batch", "test_batch", "flips", "optimizer", "lr", "momentum", "weight_decay", "schedule",
        "step_epochs", "step_gamma", "loss", "warmup", "ema", "mixup", "smoothing", "balance", "trunk_lr",
        "pool", "stem", "crop_share", "bands_in", "trunks", "bands_rgb", "block_km",
    }  # fmt: skip


def test_choices_are_those_of_the_code_they_stand_for() -> None:
    assert specs(Config)["flips"].choices == order.FLIPS
    assert specs(Config)["test"].choices == TESTS
    assert specs(Config)["cache"].choices == CACHES
    assert specs(Config)["decode"].choices == DECODES
    assert specs(Config)["conv1"].choices == resnet.NEW_BANDS
    assert specs(Config)["stem"].choices == (*resnet.STEMS, "auto")


def test_configuration_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    code = "import sys, train.config; print([m for m in ('torch', 'nvidia.dali', 'zarr') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
