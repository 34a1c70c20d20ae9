"""Recipes: functions that return training settings, and settings whose default is the recipe's. `config` checks what
comes out. Imports nothing heavy.
"""

from typing import Any, cast

from preprocess.settings import setting


def course() -> dict[str, Any]:
    """The reference project's recipe, every layer trained (FINETUNE=head gives its optimiser)."""
    return {
        "epochs": 12, "batch": 16, "test_batch": 64, "flips": "horizontal", "optimizer": "sgd", "lr": 0.005,
        "momentum": 0.9, "weight_decay": 0.0, "schedule": "step", "step_epochs": 5, "step_gamma": 0.3,
        "loss": "bce",
    }  # fmt: skip


def default() -> dict[str, Any]:
    """One-cycle AdamW, all 8 symmetries: sound from scratch and from ImageNet weights alike (docs/log.md)."""
    return {
        "epochs": 12, "batch": 64, "test_batch": 64, "flips": "dihedral", "optimizer": "adamw", "lr": 0.002,
        "momentum": 0.9, "weight_decay": 0.05, "schedule": "onecycle", "step_epochs": 1, "step_gamma": 1.0,
        "loss": "bce",
    }  # fmt: skip


def best() -> dict[str, Any]:
    """What won on chips of 32 pixels (docs/log.md): `default` on whole chips (tags are of the whole chip), longer, with
    a first convolution that keeps the resolution of small chips. Larger chips keep ImageNet's."""
    return default() | {"crop_share": 1.0, "stem": "auto", "epochs": 30}


RECIPES = {"default": default, "course": course, "best": best}


def by_recipe(name: str, description: str, default: Any = ..., *, more: str = "", **limits: float) -> Any:
    """A setting whose default is the recipe's. `default` is for recipes that do not say; `more` is shown behind it."""
    values = {recipe: make().get(name, default) for recipe, make in RECIPES.items()}
    others = [f"RECIPE={recipe}: {value}" for recipe, value in values.items() if value != values["default"]]
    text = f"{values['default']} ({', '.join(others)})" if others else str(values["default"])
    return setting(default, description, default_text=text + more, **cast(Any, limits))
