"""Values of the settings of a training, for hypothesis."""

from typing import Any

from hypothesis import strategies as st

from models.archs import ARCHS
from preprocess.setting_specs import specs
from train.config import Config

# Values that each setting may have with any values of the others.
VALUES: dict[str, st.SearchStrategy[Any]] = {
    **{name: st.sampled_from(spec.choices) for name, spec in specs(Config).items() if spec.choices},
    "recipe": st.just("default"), "arch": st.sampled_from([*ARCHS, "vit_tiny_patch16_224"]),
    "store": st.text(st.characters(exclude_characters="\0")), "gpu": st.sampled_from(["0", "1,0", "auto", "cpu"]),
    "weights": st.sampled_from(["auto", "imagenet", "none", "a b.safetensors"]), "split": st.just("0.5,0.5"),
    "deterministic": st.booleans(), "shuffle_labels": st.booleans(),
    "epochs": st.integers(1, 100_000), "batch": st.integers(1, 2**20), "test_batch": st.integers(1, 2**20),
    "step_epochs": st.integers(1, 100_000), "accumulate": st.just(1), "crop": st.integers(0, 2**16),
    "workers": st.integers(0, 1024), "seed": st.integers(0, 2**63 - 1),
    "momentum": st.floats(0, 1), "weight_decay": st.floats(0, 1e6), "balance": st.floats(0, 1),
    **{name: st.floats(0, 1, exclude_max=True) for name in ("val", "warmup", "ema", "smoothing")},
    "lr": st.floats(0, 1e30, exclude_min=True), "trunk_lr": st.floats(0, 1e6, exclude_min=True),
    "checkpoint_minutes": st.floats(0, 1e6, exclude_min=True),
    "rank_timeout_minutes": st.floats(0, 1e4, exclude_min=True),
    "crop_share": st.floats(0, 1, exclude_min=True), "step_gamma": st.floats(0, 1, exclude_min=True),
}  # fmt: skip
