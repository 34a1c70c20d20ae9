"""Settings against the chips, before torch and DALI are loaded and before a pixel is converted.

In: a configuration, and a store or the plan of one. Out: the opened store and its split, or a UserError that names the
setting. Leaves what needs a device or a model to `setup`, and what needs no store to `chip_checks`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.console import say
from preprocess.csv_rows import is_file
from preprocess.layout import Layout
from preprocess.plan import Plan
from preprocess.splits import Split, make_split
from preprocess.zarr_store import Store, open_store
from train.chip_checks import check_bands, check_batch_size, check_crop
from train.config import Config


@dataclass(frozen=True, kw_only=True)
class PlannedChips:
    """The chips of a store that is not made yet, as far as a split depends on them."""

    path: Path | str
    names: np.ndarray
    csv_row: np.ndarray
    num_csv_rows: int
    split: np.ndarray | None = None
    source: dict[str, Any] = field(default_factory=dict)


def check_plan(config: Config, plan: Plan) -> None:
    """UserError if the training of a store cannot work that a conversion is going to make."""
    _check_layout(config, plan.layout, str(plan.store))
    if config.split == "blocked" and is_file(plan.store / "zarr.json"):
        return  # the store is whole already, and its audit has made the groups: `open_checked` reads them
    chips = PlannedChips(
        path=str(plan.store),
        names=np.array(plan.names, object),
        csv_row=plan.csv_row,
        num_csv_rows=plan.num_csv_rows,
        split=plan.split,
        source={"labels": plan.label_settings.as_dict()},
    )
    split = make_split(config.split, chips, val=config.val)
    check_batch_size(config, len(split.train), plan.layout.height, plan.layout.width)


def open_checked(config: Config) -> tuple[Store, Split]:
    """The store and its split.

    Raises:
        UserError: they cannot be had, or a new training of them cannot work.
    """
    store = open_store(config.store)
    _check_layout(config, store.layout, store.path)
    split = make_split(config.split, store, val=config.val, block_km=config.block_km)
    if split.note:
        say(split.note)
    check_batch_size(config, len(split.train), store.layout.height, store.layout.width)
    return store, split


def _check_layout(config: Config, layout: Layout, where: Path | str) -> None:
    check_bands(config, layout.bands, where)
    check_crop(config, layout.height, layout.width, where)
