"""Recipes: functions that return all training settings. Imports nothing; `config` checks what comes out."""

from typing import Any


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
    """`default` on whole chips (tags are of the whole chip), without the pooling that small chips cannot afford: what
    won on chips of 32 pixels (docs/log.md). Larger chips keep their pooling."""
    return default() | {"crop_share": 1.0, "pool": "auto"}


RECIPES = {"default": default, "course": course, "best": best}
