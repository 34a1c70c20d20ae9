"""Settings against the chips, before torch and DALI are loaded and before a pixel is converted.

In: a configuration, and a store or the plan of one. Out: the opened store and its split, or a UserError that names the
setting. Leaves what needs a device or a model to `setup`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from preprocess.console import UserError
from preprocess.layout import Layout
from preprocess.plan import Plan
from preprocess.splits import Split, make_split
from preprocess.zarr_store import Store, open_store
from train.config import Config


@dataclass(frozen=True, kw_only=True)
class PlannedChips:
    """The chips of a store that is not made yet, as far as a split depends on them."""

    path: Path
    names: np.ndarray
    csv_row: np.ndarray
    num_csv_rows: int
    source: dict[str, Any] = field(default_factory=dict)


def check_plan(config: Config, plan: Plan) -> None:
    """UserError if the training of a store cannot work that a conversion is going to make."""
    check_chips(config, plan.layout, plan.store)
    if config.split == "blocked" and plan.store.exists():
        return  # the store is whole already, and its audit has made the groups: `open_checked` reads them
    chips = PlannedChips(
        path=plan.store,
        names=np.array(plan.names, object),
        csv_row=plan.csv_row,
        num_csv_rows=plan.num_csv_rows,
        source={"labels": plan.label_settings.as_dict()},
    )
    split = make_split(config.split, chips, val=config.val)
    check_batch_size(config, len(split.train), plan.layout)


def open_checked(config: Config) -> tuple[Store, Split]:
    """The store and its split.

    Raises:
        UserError: they cannot be had, or a new training of them cannot work.
    """
    store = open_store(config.store)
    check_chips(config, store.layout, store.path)
    split = make_split(config.split, store, val=config.val)
    check_batch_size(config, len(split.train), store.layout)
    return store, split


def check_chips(config: Config, layout: Layout, store: Path | str) -> None:
    """UserError if the chips lack a band of the task or are smaller than the crop."""
    bands = [band for group in config.band_groups for band in group]
    if missing := [band for band in bands if band not in layout.bands]:
        raise UserError(
            f"TASK={config.task}: expected the bands {', '.join(bands)}, found {', '.join(layout.bands)} in {store} "
            f"({', '.join(missing)} is missing). Name the bands at conversion (BANDS=blue,green,red,nir), or choose "
            "another TASK."
        )
    if config.crop > min(layout.height, layout.width):
        raise UserError(
            f"CROP={config.crop}: expected at most {min(layout.height, layout.width)}: the chips of {store} are "
            f"{layout.height} x {layout.width} pixels."
        )


def check_batch_size(config: Config, num_train: int, layout: Layout) -> None:
    """UserError if a batch is larger than the train split, or so small that BatchNorm has nothing to average."""
    if num_train < config.batch:
        raise UserError(f"BATCH={config.batch}: the train split has only {num_train} chips. Choose a smaller BATCH.")
    side = min(config.crop_of(layout.height, layout.width))
    # A ResNet divides the side by 32, without max pooling by 16. BatchNorm needs at least two values per channel.
    smallest = 32 if config.pools(layout.height, layout.width) else 16
    if config.batch // config.accumulate == 1 and side <= smallest:
        raise UserError(
            f"BATCH={config.batch}, ACCUMULATE={config.accumulate}: chips of {side} px shrink to one value per "
            "channel, and BatchNorm needs at least two. Use two or more chips per micro-batch."
        )
