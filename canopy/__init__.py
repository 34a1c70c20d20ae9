"""Public names of canopy, for your own code. Each is imported from its module on first use.

`import canopy` therefore loads neither torch nor DALI. These names and their documented arguments stay; other modules
may change. docs/api.md describes each name.
"""

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.finished_run import Run, load_run
    from analysis.saved_model import SavedModel, load_model
    from models.build import build as build_model
    from models.resnet import Branch, branch
    from pipeline.inputs import Inputs, course_inputs, raw_inputs
    from pipeline.loader import Batch, ChipLoader, default_crop, eval_loader, train_loader
    from preprocess.console import ArgumentError, UserError
    from preprocess.layout import Layout
    from preprocess.splits import Split, make_split
    from preprocess.zarr_store import Store, open_store
    from train.metrics import class_ap, mean_ap

    __version__: str

__all__ = [
    "ArgumentError", "Batch", "Branch", "ChipLoader", "Inputs", "Layout", "Run", "SavedModel", "Split", "Store",
    "UserError", "__version__", "branch", "build_model", "class_ap", "course_inputs", "default_crop", "eval_loader",
    "load_model", "load_run", "make_split", "mean_ap", "open_store", "raw_inputs", "train_loader",
]  # fmt: skip

# Public name -> module that defines it. A name after a colon is the one that it has there.
_HOMES = {
    "ArgumentError": "preprocess.console",
    "Batch": "pipeline.loader",
    "Branch": "models.resnet",
    "ChipLoader": "pipeline.loader",
    "Inputs": "pipeline.inputs",
    "Layout": "preprocess.layout",
    "Run": "analysis.finished_run",
    "SavedModel": "analysis.saved_model",
    "Split": "preprocess.splits",
    "Store": "preprocess.zarr_store",
    "UserError": "preprocess.console",
    "branch": "models.resnet",
    "build_model": "models.build:build",
    "class_ap": "train.metrics",
    "course_inputs": "pipeline.inputs",
    "default_crop": "pipeline.loader",
    "eval_loader": "pipeline.loader",
    "load_model": "analysis.saved_model",
    "load_run": "analysis.finished_run",
    "make_split": "preprocess.splits",
    "mean_ap": "train.metrics",
    "open_store": "preprocess.zarr_store",
    "raw_inputs": "pipeline.inputs",
    "train_loader": "pipeline.loader",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name == "__version__":
        value: Any = importlib.metadata.version("canopy")
    elif name in _HOMES:
        module, _, other_name = _HOMES[name].partition(":")
        value = getattr(importlib.import_module(module), other_name or name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, for completion."""
    return sorted(__all__)
