"""The settings of how a network is trained. `setting_groups` has those of data, network and execution.

Imports nothing heavy.
"""

from typing import ClassVar, Literal

from preprocess.settings import Settings, setting
from train.recipes import RECIPES, by_recipe


class OptimisationSettings(Settings):
    """How the network is trained. Lengths are in epochs."""

    heading: ClassVar[str] = "Optimisation"

    recipe: str = setting(
        "default",
        "A named set of defaults. default: AdamW, one cycle, 8 symmetries. best: default on whole chips, 30 epochs, "
        "and STEM=small if chips are smaller than 64 pixels. course: SGD, step schedule and horizontal flips of the "
        "reference project.",
        hint="|".join(RECIPES),
    )
    epochs: int = by_recipe("epochs", "Epochs.", more="; 8 for the demo chips", ge=1, le=100_000)
    batch: int = by_recipe("batch", "Chips per optimizer step, over all GPUs and micro-batches.", ge=1, le=2**20)
    accumulate: int = setting(
        1,
        "Gradient accumulation: micro-batches per optimizer step. BATCH must be a multiple of ACCUMULATE x processes.",
        ge=1,
        le=2**20,
    )
    optimizer: Literal["sgd", "adamw"] = by_recipe("optimizer", "The optimizer.")
    lr: float = by_recipe("lr", "Highest learning rate. LR=find: a test of many rates, no training.", gt=0, le=1e30)
    trunk_lr: float = setting(1.0, "All layers before the last have the learning rate TRUNK_LR x LR.", gt=0, le=1e6)
    momentum: float = by_recipe("momentum", "Momentum of SGD.", ge=0, le=1)
    weight_decay: float = by_recipe("weight_decay", "Weight decay.", ge=0, le=1e6)
    schedule: Literal["step", "onecycle", "cosine"] = by_recipe(
        "schedule",
        "How the learning rate changes. onecycle: up and down once. cosine: up in a "
        "straight line during WARMUP, then down along a cosine.",
    )
    warmup: float = setting(0.3, "Share of all steps in which onecycle and cosine raise the learning rate.", ge=0, lt=1)
    step_epochs: int = by_recipe("step_epochs", "Epochs between two steps of SCHEDULE=step.", ge=1, le=100_000)
    step_gamma: float = by_recipe(
        "step_gamma", "Factor of the learning rate at each step of SCHEDULE=step.", gt=0, le=1
    )
    loss: Literal["bce", "soft_margin", "asymmetric"] = by_recipe(
        "loss", "The loss. bce: binary cross-entropy. asymmetric: easy negatives count less."
    )
    smoothing: float = setting(0.0, "Label smoothing.", ge=0, lt=1)
    balance: float = setting(
        0.0,
        "Class balance: the loss of a positive label is multiplied by (negatives / positives of the class) ** BALANCE. "
        "0: no balancing.",
        ge=0,
        le=1,
    )
    mixup: float = setting(
        0.0,
        "Mixup: train on blends of two chips and their labels, in shares from Beta(MIXUP, MIXUP). 0: no mixup.",
        ge=0,
        le=100,
    )
    ema: float = setting(0.0, "Decay of the moving average of the weights. 0: no average.", ge=0, lt=1)
    seed: int = setting(
        0, "Seed of the order of chips, of the augmentation and of the initial weights.", ge=0, le=2**63 - 1
    )
